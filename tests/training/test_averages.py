"""Moving averages from an epoch on, and batch norm's statistics taken anew for them."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from small_runs import differing, distance, happened, make_job, model, saved, train
from torch import Tensor, nn

import eighteen
from eighteen.base import rundir
from eighteen.base.errors import RecipeError, Stopped
from eighteen.data.augment import normalise
from eighteen.data.loader import eval_batches
from eighteen.training import checkpoint, models, state
from eighteen.training.state import card_of

RECALIBRATED = (model("normed"), "optim.ema=0.9", "optim.recalibrate=70", "eval.batch=16")


def floats(named: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in named.items() if value.is_floating_point()}


def test_before_their_epoch_the_averages_are_the_weights(data, tmp_path):
    runs = {}

    def keep(event):
        if event["event"] == "checkpoint":
            at = checkpoint.open(next((tmp_path / "runs").iterdir()) / "checkpoints" / event["path"])
            runs[event["step"]] = [at.tensors(part) for part in ("model", "ema")]

    train(data, tmp_path, model("normed"), "optim.ema=0.9", "optim.ema_from=3", on_event=keep)
    same = {step: not differing(*parts) for step, parts in runs.items()}
    assert same == {4: True, 8: True, 12: True, 16: False, 20: False, 24: False}


def test_the_average_begins_anew_at_its_epoch(data, tmp_path):
    """With a share of the average that rises from 1/10, as if the run began there."""
    this = make_job(data, tmp_path, "optim.ema=0.9", "optim.ema_from=2.6")
    fresh = state.start(this)
    plan, ema = fresh.plan, fresh.ema
    first = plan.first_from(2.6)
    assert (first, plan.first_from(0), plan.first_from(99)) == (11, 0, 24)
    assert plan.planned(first - 1) < 2.6 <= plan.planned(first)
    assert ema is not None
    name, source = next(iter(ema._sources.items()))
    expected = source.clone()
    for step in range(first - 2, first + 3):
        source.add_(1.0)
        ema.update(step - first)
        share = 0.0 if step < first else min(0.9, (1 + step - first) / (10 + step - first))
        expected = share * expected + (1 - share) * source
        assert torch.allclose(ema.tensors[name], expected)


def keep(seen: list[tuple[int, Tensor]], _: nn.Module, inputs: tuple[Tensor]) -> None:
    seen.append((len(inputs[0]), inputs[0]))


def test_statistics_are_those_of_the_averaged_weights_over_train_pictures(data, tmp_path):
    """Against a pass by hand: mean and unbiased variance of what goes into each norm, batch by batch."""
    run = train(data, tmp_path, *RECALIBRATED).run
    this, ema = make_job(data, tmp_path / "job", *RECALIBRATED), saved(run, "ema")
    net = models.build(this.recipe.model, num_classes=4, in_chans=3)
    net.load_state_dict(ema)
    norms = {name: one for name, one in net.named_modules() if isinstance(one, nn.BatchNorm2d)}
    seen: dict[str, list[tuple[int, Tensor]]] = {name: [] for name in norms}
    net.eval()
    for name, norm in norms.items():
        norm.train()
        norm.register_forward_pre_hook(partial(keep, seen[name]))
    card, samples = card_of(this), this.order.at(0, 70)[0]
    batches = eval_batches(
        data.splits["train"], this.recipe.eval, this.world, device=this.device, channels=3, samples=samples
    )
    with torch.no_grad():
        for batch in batches:
            net(normalise(batch.images, card.mean, card.std))
    for name, given in seen.items():
        assert [count for count, _ in given] == [16, 16, 16, 16, 6]
        for statistic, of in (("mean", torch.mean), ("var", torch.var)):
            wanted = sum(count / 70 * of(x.double(), (0, 2, 3)) for count, x in given)
            assert isinstance(wanted, Tensor)
            assert torch.allclose(ema[f"{name}.running_{statistic}"].double(), wanted, rtol=1e-5, atol=1e-6)


def test_they_change_nothing_that_trains(data, tmp_path):
    with_them = train(data, tmp_path / "with", *RECALIBRATED).run
    without = train(data, tmp_path / "without", *RECALIBRATED, "optim.recalibrate=0").run
    for part in ("model", "optimizer"):
        assert differing(saved(with_them, part), saved(without, part)) == []
    ours, theirs = (floats(saved(run, "ema")) for run in (with_them, without))
    statistics = {f"body.{norm}.running_{what}" for norm in (1, 5) for what in ("mean", "var")}
    assert set(differing(ours, theirs)) == statistics
    assert saved(with_them, "ema")["body.1.num_batches_tracked"] == saved(without)["body.1.num_batches_tracked"]


def test_what_was_evaluated_is_what_is_saved(data, tmp_path):
    run = train(data, tmp_path, *RECALIBRATED).run
    told = happened(run, "eval")[-1]
    found = eighteen.evaluate(run, data, checkpoint=checkpoint.newest(rundir.open(run)).path.name)
    assert (found.top1, found.loss) == (told["top1"], pytest.approx(told["loss"], rel=1e-6))


@pytest.mark.parametrize("more", [(), ("optim.name='muon'",), ("optim.name='lars'", "optim.trust=0.1")])
def test_a_run_that_was_stopped_goes_on_to_the_same_end(data, tmp_path, more):
    hard = (*RECALIBRATED, "optim.ema_from=2", "optim.momentum=[[0, 0.8], [3, 0.95], [6, 0.8]]", *more)
    whole = train(data, tmp_path / "whole", *hard).run
    with pytest.raises(Stopped):
        train(
            data,
            tmp_path,
            *hard,
            on_event=lambda event: eighteen.STOP if event["event"] == "step" and event["step"] == 13 else None,
        )
    run = next((tmp_path / "runs").iterdir())
    assert eighteen.resume(run).step == 24
    for part in ("model", "ema", "optimizer"):
        assert differing(saved(run, part), saved(whole, part)) == []
    assert [event["loss"] for event in happened(run, "eval")] == [event["loss"] for event in happened(whole, "eval")]


def test_frozen_layers_keep_their_statistics(data, tmp_path):
    run = train(data, tmp_path, *RECALIBRATED, "model.freeze_to='body.2'").run
    ema, own = saved(run, "ema"), saved(run)
    assert differing(ema, own) != []
    assert torch.equal(ema["body.1.running_mean"], torch.zeros(8))
    assert not torch.equal(ema["body.5.running_mean"], own["body.5.running_mean"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("optim.recalibrate=100",), "recalibrate needs averaged weights: ema above 0"),
        (("optim.ema_from=1",), "ema_from needs averaged weights"),
        (("optim.ema=0.9", "optim.ema_from=6"), "optim.ema_from is 6 but the phases end at 6"),
    ],
)
def test_what_averages_nothing_is_refused(data, tmp_path, changes, message):
    with pytest.raises(RecipeError, match=message):
        make_job(data, tmp_path, *changes)


def test_averages_of_muon_are_near_to_its_weights(data, tmp_path):
    run = train(data, tmp_path, "optim.name='muon'", "optim.ema=0.5", "optim.sgd_scale=0.5").run
    assert 0 < distance(floats(saved(run, "ema")), floats(saved(run))) < 0.2
