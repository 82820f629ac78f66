"""The loop that ours is compared with does the same work."""

from __future__ import annotations

import pytest
import torch

from eighteen.advice.by_hand import ByHand
from eighteen.base import recipe as recipes
from eighteen.base.rundir import RunDir
from eighteen.base.world import World
from eighteen.data import dataset as datasets
from eighteen.data.pack import pack
from eighteen.training import state as states
from eighteen.training.job import job
from eighteen.training.muon import Muon


@pytest.fixture
def data(pictures, tmp_path):
    pack(pictures, tmp_path / "jpegs.e18", val=0.0, procs=1)
    return datasets.open(tmp_path / "jpegs.e18")


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_it_trains_the_same_weights_with_an_optimiser_of_the_same_kind(data, tmp_path, precision, dtype):
    changes = [f"train.precision='{precision}'", "optim.name='muon'", "model.freeze_to='stages.0'"]
    recipe = recipes.load("small", changes=["model.args.widths=[8,16]", *changes])
    this = job(recipe, data, RunDir(tmp_path / "run"), World())
    ours, theirs = states.start(this), ByHand(this)

    def trained(model):
        return {name for name, weight in model.named_parameters() if weight.requires_grad}

    def in_training(model):
        return {name for name, module in model.named_modules() if module.training}

    ours.train_mode()
    assert trained(theirs.model) == trained(ours.model) != {name for name, _ in ours.model.named_parameters()}
    assert in_training(theirs.model) == in_training(ours.model)
    for optimizer in (ours.optimizer, theirs.optimizer):
        assert isinstance(optimizer, Muon)
        assert optimizer._dtype == dtype
