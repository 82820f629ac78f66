"""Evaluation: against counting by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from small_nets import normed
from small_runs import make_job

from eighteen.base.world import World
from eighteen.data.augment import normalise
from eighteen.data.loader import eval_batches
from eighteen.training import state
from eighteen.training.evaluate import evaluate
from eighteen.training.precision import autocast_dtype

CPU = torch.device("cpu")


@pytest.mark.parametrize("batch", [7, 64])
def test_counts_are_those_of_a_bare_loop(data, tmp_path, batch):
    this = make_job(data, tmp_path, f"eval.batch={batch}")
    card, settings, split = state.card_of(this), this.recipe.eval, data.splits["val"]
    model = normed(4, 3)
    found = evaluate(model, split, card, settings, World(), device=CPU, dtype=None)
    assert model.training, "as it was before"

    (whole,) = eval_batches(split, settings.model_copy(update={"batch": 40}), World(), device=CPU, channels=3)
    with torch.inference_mode():
        logits = model.eval()(normalise(whole.images, card.mean, card.std))
    confidence, predicted = logits.softmax(1).max(1)
    assert found.num_samples == found.confusion.sum() == 40
    assert found.top1 == (predicted == whole.labels).double().mean().item()
    assert found.top5 == 1.0
    assert found.loss == pytest.approx(F.cross_entropy(logits, whole.labels).item(), rel=1e-6)
    for label, guess in zip(whole.labels.tolist(), predicted.tolist(), strict=True):
        found.confusion[label, guess] -= 1
    assert not found.confusion.any()
    counts, confidences, right = found.calibration.sum(0)
    assert (counts, right) == (40, (predicted == whole.labels).sum())
    assert confidences == pytest.approx(confidence.sum().item(), rel=1e-6)


def test_logits_that_are_not_finite_are_counted_without_breaking_the_calibration(data, tmp_path):
    this, model = make_job(data, tmp_path), normed(4, 3)
    for weights in model.parameters():
        torch.nn.init.constant_(weights, math.nan)
    found = evaluate(model, data.splits["val"], state.card_of(this), this.recipe.eval, World(), device=CPU, dtype=None)
    assert math.isnan(found.loss)
    assert found.confusion.sum() == 40
    assert found.calibration[0].tolist() == [40, 0, found.confusion.trace()]


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", None), ("bf16", torch.bfloat16)])
def test_the_precision_that_is_asked_for_is_used(precision, dtype):
    assert autocast_dtype(precision, CPU) == dtype


def test_automatic_precision_is_bfloat16_only_where_it_is_fast():
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    assert autocast_dtype("auto", CPU) == (torch.bfloat16 if fast else None)
