"""Muon: against itself written slowly, weight by weight in float64, and what it leaves alone."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from small_nets import normed
from torch import Tensor, nn

from eighteen.base.recipe import Optim, Phase
from eighteen.base.schedule import Step
from eighteen.training import models, muon
from eighteen.training.optim import optimizer, set_rates

LR, MOMENTUM = 0.2, 0.6


class Net(nn.Module):
    """Two convolutions of one shape, one in groups, two linear layers, a norm and an unused layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
        self.grouped, self.norm = nn.Conv2d(8, 8, 3, padding=1, groups=4), nn.BatchNorm2d(8)
        self.tall, self.unused = nn.Linear(8, 32), nn.Linear(4, 4)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.grouped(self.second(self.first(x).sigmoid()).sigmoid()))
        return self.head(self.tall(x.mean((2, 3))).sigmoid())


MATRICES = {"first.weight", "second.weight", "tall.weight"}


def settings(**changes) -> Optim:
    return Optim(name="muon", momentum=MOMENTUM, batch=1, lr=[(0, LR)], **changes)


def now(momentum: float = MOMENTUM) -> Step:
    return Step(0, 0, Phase(epochs=1, size=8, batch=1), 0, 0.0, LR, momentum, 0.0)


def pictures(seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(4, 8, 6, 6, generator=torch.Generator().manual_seed(seed))


def slowly(weight: Tensor, momentum: Tensor, gradient: Tensor, *, nesterov: bool) -> tuple[Tensor, Tensor]:
    """A weight and its momentum after a step: one matrix, one singular value after the other."""
    w, m, g = (one.double().reshape(len(one), -1) for one in (weight, momentum, gradient))
    m = MOMENTUM * m + g
    u, sigma, v = torch.linalg.svd(g + MOMENTUM * m if nesterov else m, full_matrices=False)
    sigma = sigma / math.sqrt(sum(one**2 for one in sigma.tolist()))
    for _ in range(5):
        sigma = torch.tensor([3.4445 * x - 4.7750 * x**3 + 2.0315 * x**5 for x in sigma.tolist()], dtype=torch.float64)
    norm = w.norm()
    w = w - LR * norm / math.sqrt(min(w.shape)) * (u @ sigma.diag() @ v)
    return (w * norm / w.norm()).view_as(weight), m.view_as(weight)


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_steps_are_those_of_the_formula(nesterov, memory_format):
    torch.manual_seed(0)
    net = Net().to(memory_format=memory_format)
    own = optimizer(net, settings(nesterov=nesterov), lr_scale={})
    weights = {name: weight for name, weight in net.named_parameters() if name in MATRICES}
    expected = {name: (weight.detach().clone(), torch.zeros_like(weight)) for name, weight in weights.items()}
    norms = {name: weight.norm().item() for name, weight in weights.items()}
    for step in range(4):
        set_rates(own, now())
        net(pictures(step)).square().sum().backward()
        for name, weight in weights.items():
            assert weight.grad is not None
            expected[name] = slowly(*expected[name], weight.grad, nesterov=nesterov)
        own.step()
        own.zero_grad()
        for name, weight in weights.items():
            assert torch.allclose(weight.double(), expected[name][0].double(), atol=2e-5), (step, name)
            weight.data.copy_(expected[name][0])  # rounding must not add up through the net
    for name, weight in weights.items():
        assert weight.norm().item() == pytest.approx(norms[name], rel=1e-5)


def test_everything_else_is_sgds_at_its_own_rate_and_momentum():
    torch.manual_seed(0)
    net = Net()
    theirs = Net()
    theirs.load_state_dict(net.state_dict())
    own = optimizer(net, settings(weight_decay=0.1, sgd_scale=0.5, sgd_momentum=0.8), lr_scale={"norm": 0.1})
    by_hand = torch.optim.SGD(
        [
            {"params": [theirs.grouped.weight, theirs.head.weight], "weight_decay": 0.1},
            {"params": [one.bias for one in (theirs.first, theirs.second, theirs.grouped, theirs.tall, theirs.head)]},
            {"params": list(theirs.norm.parameters()), "lr": 0.05 * LR},
        ],
        lr=0.5 * LR,
        momentum=0.8,
        nesterov=True,
    )
    for step in range(3):
        theirs.load_state_dict({**theirs.state_dict(), **{name: net.state_dict()[name] for name in MATRICES}})
        set_rates(own, now())
        for model, optim in ((net, own), (theirs, by_hand)):
            model(pictures(step)).square().sum().backward()
            optim.step()
            optim.zero_grad()
    theirs.load_state_dict({**theirs.state_dict(), **{name: net.state_dict()[name] for name in MATRICES}})
    for name, weight in net.named_parameters():
        assert torch.allclose(weight, theirs.state_dict()[name], atol=1e-6), name


@pytest.mark.parametrize("shape", [(3, 16, 40), (2, 40, 16), (1, 1, 9), (2, 1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_singular_values_come_near_to_one(shape, dtype):
    found = muon.orthogonal(torch.randn(shape, generator=torch.Generator().manual_seed(1)), dtype)
    values = torch.linalg.svdvals(found)
    assert found.dtype == torch.float32
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_a_step_is_the_same_share_of_a_weight_at_any_scale_of_it_and_of_its_gradient():
    torch.manual_seed(0)
    weight, gradient = torch.randn(1, 16, 24), torch.randn(1, 16, 24)
    plain = muon.turned(weight, muon.orthogonal(gradient), LR)
    scaled = muon.turned(1e3 * weight, muon.orthogonal(1e-6 * gradient), LR)
    assert torch.allclose(scaled, 1e3 * plain, rtol=1e-4)
    assert 0.5 * LR < (plain - weight).norm() / weight.norm() < 1.5 * LR


def test_a_rate_of_zero_changes_no_bit_and_zeros_can_learn():
    weight = torch.randn(2, 16, 24, generator=torch.Generator().manual_seed(0))
    direction = muon.orthogonal(weight.flip(0))
    assert torch.equal(muon.turned(weight, direction, 0.0), weight)
    assert torch.allclose(muon.turned(torch.zeros_like(weight), direction, LR), -LR * direction)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("at", ["first.weight", "head.bias"])
def test_found_inf_keeps_every_bit(bad, at):
    torch.manual_seed(0)
    net = Net()
    own = optimizer(net, settings(), lr_scale={})
    for found in (0.0, 1.0):
        set_rates(own, now())
        before = {name: weight.clone() for name, weight in net.named_parameters()}
        momenta = {weight: own.state[weight]["momentum_buffer"].clone() for weight in net.parameters()}
        net(pictures(0)).square().sum().backward()
        if found:
            weight = net.get_parameter(at)
            assert weight.grad is not None
            weight.grad.view(-1)[0] = bad
        own.found_inf = torch.tensor(found)  # type: ignore[attr-defined]
        own.step()
    assert all(torch.equal(weight, before[name]) for name, weight in net.named_parameters())
    assert all(torch.equal(own.state[weight]["momentum_buffer"], one) for weight, one in momenta.items())


def test_matrices_are_those_of_convolutions_and_linear_layers_but_the_last():
    net = Net()
    found = muon.matrices(net, models.head(net))
    names = {name for name, weight in net.named_parameters() if weight in found}
    assert names == MATRICES | {"unused.weight"}
    resnet = timm.create_model("resnet18")
    found = muon.matrices(resnet, models.head(resnet))
    assert {name for name, one in resnet.named_parameters() if one.ndim == 4} == {
        name for name, one in resnet.named_parameters() if one in found
    }


def test_frozen_weights_stay():
    net = normed(4, 3)
    net.get_submodule("body.0").requires_grad_(False)
    own = optimizer(net, settings(), lr_scale={})
    assert net.get_parameter("body.0.weight") not in own.state
    assert net.get_parameter("body.4.weight") in own.state


def test_a_net_of_matrices_alone_has_nothing_for_sgd():
    first, head = nn.Linear(8, 8, bias=False), nn.Linear(8, 4, bias=False).requires_grad_(False)
    net = nn.Sequential(first, head)
    own = optimizer(net, settings(), lr_scale={})
    set_rates(own, now())
    before = first.weight.clone()
    net(torch.rand(2, 8)).sum().backward()
    own.step()
    assert not torch.equal(first.weight, before)
