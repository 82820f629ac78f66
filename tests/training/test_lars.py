"""LARS: against its formula, and that a layer's scale does not matter."""

from __future__ import annotations

import math

import pytest
import torch
from small_nets import normed
from torch import Tensor, nn

from eighteen.base.recipe import Optim, Phase
from eighteen.base.schedule import Step
from eighteen.training.optim import optimizer, set_rates

LR, MOMENTUM, DECAY, TRUST = 0.3, 0.9, 0.01, 0.02


def steps(net: nn.Module, count: int, *, nesterov: bool = False, decay: float = DECAY) -> torch.optim.Optimizer:
    settings = Optim(
        name="lars", momentum=MOMENTUM, nesterov=nesterov, trust=TRUST, weight_decay=decay, batch=1, lr=[(0, LR)]
    )
    own = optimizer(net, settings, lr_scale={})
    for number in range(count):
        set_rates(own, Step(0, 0, Phase(epochs=1, size=8, batch=1), 0, 0.0, LR, MOMENTUM, 0.0))
        loss(net, number).backward()
        own.step()
        own.zero_grad()
    return own


def loss(net: nn.Module, number: int) -> Tensor:
    return net(torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(number))).square().mean()


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    one = normed(4, 3).to(memory_format=torch.channels_last)
    for module in one.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-12  # or it would count at one scale more than at another
    return one


@pytest.mark.parametrize("nesterov", [True, False])
def test_steps_are_those_of_the_formula(nesterov):
    ours, theirs = net(), net()
    steps(ours, 4, nesterov=nesterov)
    velocity = {weight: torch.zeros_like(weight) for weight in theirs.parameters()}
    for number in range(4):
        theirs.zero_grad()
        loss(theirs, number).backward()
        for weight in theirs.parameters():
            gradient = weight.grad
            assert gradient is not None
            if weight.ndim > 1:
                ratio = TRUST * weight.norm() / (gradient.norm() + DECAY * weight.norm())
                gradient = ratio * (gradient + DECAY * weight)
            velocity[weight] = MOMENTUM * velocity[weight] + LR * gradient
            step = LR * gradient + MOMENTUM * velocity[weight] if nesterov else velocity[weight]
            weight.data -= step.detach()
    for ours_, theirs_ in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(ours_, theirs_, atol=1e-6)


def test_a_weight_before_a_norm_takes_the_same_path_at_any_scale_of_it():
    """Batch norm undoes the scale, so that the net computes the same; SGD would hardly move the larger weight."""
    plain, scaled = net(), net()
    scaled.get_parameter("body.4.weight").data *= 100
    steps(plain, 5, decay=0.0)
    steps(scaled, 5, decay=0.0)
    for (name, one), other in zip(plain.named_parameters(), scaled.parameters(), strict=True):
        assert torch.allclose(one * (100 if name == "body.4.weight" else 1), other, rtol=2e-3, atol=1e-5), name


def test_norms_and_biases_and_what_has_no_norm_are_plain_sgds():
    one = net()
    one.get_parameter("head.weight").data.zero_()
    before = {name: weight.clone() for name, weight in one.named_parameters()}
    loss_ = loss(one, 0) + one(torch.ones(2, 3, 8, 8)).sum()
    gradients = dict(zip(before, torch.autograd.grad(loss_, list(one.parameters())), strict=True))
    settings = Optim(name="lars", momentum=0, trust=TRUST, weight_decay=DECAY, batch=1, lr=[(0, LR)])
    own = optimizer(one, settings, lr_scale={})
    set_rates(own, Step(0, 0, Phase(epochs=1, size=8, batch=1), 0, 0.0, LR, 0.0, 0.0))
    for name, weight in one.named_parameters():
        weight.grad = gradients[name].clone()
    own.step()
    for name, weight in one.named_parameters():
        if weight.ndim == 1 or name == "head.weight":
            assert torch.allclose(weight, before[name] - LR * gradients[name], atol=1e-6), name


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_found_inf_keeps_every_bit(bad):
    one = net()
    own = steps(one, 1)
    before = {name: weight.clone() for name, weight in one.named_parameters()}
    momenta = {weight: own.state[weight]["momentum_buffer"].clone() for weight in one.parameters()}
    loss(one, 1).backward()
    gradient = one.get_parameter("body.0.weight").grad
    assert gradient is not None
    gradient[0, 0, 0, 0] = bad
    own.found_inf = torch.tensor(1.0)  # type: ignore[attr-defined]
    own.step()
    assert all(torch.equal(weight, before[name]) for name, weight in one.named_parameters())
    assert all(torch.equal(own.state[weight]["momentum_buffer"], kept) for weight, kept in momenta.items())
