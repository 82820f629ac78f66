"""Optimisers: which weights decay, at which rate each stage learns."""

from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch
from small_nets import normed
from small_runs import recipe
from torch import nn

from eighteen.base.errors import RecipeError
from eighteen.base.recipe import Optim, Phase
from eighteen.base.schedule import Step
from eighteen.training import checkpoint
from eighteen.training.optim import optimizer, parameter_groups, set_rates
from eighteen.training.preflight import checkpoint_bytes
from eighteen.training.resolve import resolve


def names(model: nn.Module, groups: list[dict]) -> list[set[str]]:
    named = {weight: name for name, weight in model.named_parameters()}
    return [{named[weight] for weight in group["params"]} for group in groups]


@pytest.mark.parametrize(
    "model", [normed(4, 3), timm.create_model("convnext_atto"), timm.create_model("mobilenetv3_small_050")]
)
def test_norms_and_biases_never_decay(model):
    groups = parameter_groups(model, weight_decay=0.1, lr_scale={})
    decaying = {weight for group in groups if group["weight_decay"] for weight in group["params"]}
    spared = {weight for group in groups if not group["weight_decay"] for weight in group["params"]}
    norms = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)
    for module in model.modules():
        own = set(module.parameters(recurse=False))
        if isinstance(module, norms):
            assert own <= spared
        elif isinstance(module, nn.Conv2d | nn.Linear):
            assert module.weight in decaying
            assert module.bias is None or module.bias in spared
    assert decaying | spared == set(model.parameters())


def step(lr: float) -> Step:
    return Step(0, 0, Phase(epochs=1, size=8, batch=1), 0, 0.0, lr, 0.9, 0.0)


def test_a_stage_learns_at_its_own_rate_and_the_longest_name_counts():
    model = normed(4, 3)
    own = optimizer(model, Optim(batch=1, lr=[(0, 0.1)]), lr_scale={"body": 0.1, "body.4": 0.5})
    set_rates(own, step(2.0))
    rates = {
        name: group["lr"]
        for group, found in zip(own.param_groups, names(model, own.param_groups), strict=True)
        for name in found
    }
    assert rates == {
        "body.0.weight": 0.2,
        "body.1.weight": 0.2,
        "body.1.bias": 0.2,
        "body.4.weight": 1.0,
        "body.5.weight": 0.2,
        "body.5.bias": 0.2,
        "head.weight": 2.0,
        "head.bias": 2.0,
    }


def test_a_rate_of_zero_keeps_a_stage_as_it_is():
    model = normed(4, 3)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    own = optimizer(model, Optim(batch=1, lr=[(0, 0.1)], weight_decay=0.1), lr_scale={"body": 0.0})
    set_rates(own, step(0.1))
    model(torch.rand(2, 3, 8, 8)).sum().backward()
    own.step()
    changed = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert changed == {"head.weight", "head.bias"}


def test_frozen_weights_have_no_optimiser_state():
    model = normed(4, 3)
    model.get_submodule("body").requires_grad_(False)
    own = optimizer(model, Optim(batch=1, lr=[(0, 0.1)]), lr_scale={})  # without decay they are one group
    assert names(model, own.param_groups) == [{"head.weight", "head.bias"}]
    assert len(own.state) == 2


@pytest.mark.parametrize("lr_scale", [{"boddy": 0.1}, {"body": 1.0, "body.2": 0.1}])
def test_a_stage_that_is_none_is_refused(lr_scale):
    with pytest.raises(RecipeError, match=r"model.lr_scale.bod.*got a stage without trainable weights.*\n.*'body'"):
        parameter_groups(normed(4, 3), weight_decay=0.0, lr_scale=lr_scale)


@pytest.mark.parametrize(
    "changes",
    [{"name": "sgd"}, {"name": "sgd", "momentum": 0.0}, {"name": "lars"}, {"name": "muon"}, {"name": "adamw"}],
    ids=str,
)
def test_room_is_kept_for_what_the_optimiser_has(changes):
    model, settings = normed(4, 3), Optim(batch=1, lr=[(0, 0.1)], **changes)
    own = optimizer(model, settings, lr_scale={})
    model(torch.rand(2, 3, 8, 8)).sum().backward()
    set_rates(own, replace(step(0.1), momentum=settings.momentum))
    own.step()
    kept = [*model.state_dict().values(), *checkpoint.optimizer_tensors(model, own).values()]
    counters = 4 * len(own.state) if settings.name == "adamw" else 0  # of steps, one a weight
    assert checkpoint_bytes(model, settings) == sum(tensor.nbytes for tensor in kept) - counters


def test_a_group_may_keep_a_momentum_of_its_own():
    model = normed(4, 3)
    own = optimizer(model, Optim(name="muon", sgd_momentum=0.7, sgd_scale=0.5, batch=1, lr=[(0, 0.1)]), lr_scale={})
    set_rates(own, replace(step(0.2), momentum=0.4))
    found = {(group["is_matrix"], group["lr"], group["momentum"]) for group in own.param_groups}
    assert found == {(True, 0.2, 0.4), (False, 0.1, 0.7)}


@pytest.mark.parametrize(
    ("name", "batch", "is_said"), [("sgd", 8192, False), ("sgd", 8200, True), ("lars", 9000, False)]
)
def test_a_batch_that_is_large_for_sgd_is_said(data, name, batch, is_said):
    said: list[str] = []
    changes = [f"optim.name='{name}'", f"phases.0.batch={batch}"]
    resolve(recipe(), data, say=said.append, changes=changes)
    large, beyond = ([text for text in said if word in text] for word in ("large for sgd", "more than once"))
    assert len(large) == is_said
    assert all("optim.name=lars" in text for text in large)
    assert beyond == [f"a batch of {batch:,} has all 104 pictures more than once: --batch 16"]
    assert len(said) == len(large) + len(beyond)
