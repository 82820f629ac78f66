"""Muon: steps for the matrices of a net along whose every direction they are equally long.

In: the gradients of weights that are matrices, or convolutions, which are [O, I * kh * kw]. Out: those weights, turned.
All others are trained by Nesterov SGD beside them, in the same optimiser.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

NUM_ITERATIONS = 5
# of x, x^3 and x^5 in a polynomial that is steep at 0 and, again and again, brings all singular values to 0.7 to 1.2
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
TINY = 1e-20  # a norm to divide by


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised (Jordan et al. 2024, kellerjordan.github.io/posts/muon), at a constant norm.

    A step moves a weight W by at most lr * |W| along the orthogonal matrix nearest to its Nesterov momentum, and then
    gives it back the norm it had, which makes ``weight_decay`` idle there. So a rate is the share of a weight that one
    step changes: the same for layers of any size and at any scale, and weights to start from stay as they are. Jordan's
    CIFAR-10 nets set each norm to sqrt(O) instead, which is the same path where a batch norm follows, and changes what
    the net computes where none does.

    A weight that is all zeros has no norm to keep: its first step is lr long in each direction.

    groups: as torch's, with "is_matrix": whether they go this way. The others are SGD's, with its L2 weight decay
    dtype: that the orthogonalising computes in; None: float32
    found_inf: [] float32, 1 where this step must change neither weights nor momenta; read on the device
    """

    def __init__(
        self, groups: list[dict[str, Any]], *, momentum: float, nesterov: bool, dtype: torch.dtype | None
    ) -> None:
        super().__init__(groups, {"lr": 0.0, "momentum": momentum, "nesterov": nesterov})
        self._dtype = dtype or torch.float32
        self.found_inf: Tensor | None = None
        others = [group for group in self.param_groups if not group["is_matrix"]]
        how = {"momentum": momentum, "nesterov": nesterov and momentum > 0, "fused": True}
        self._others = torch.optim.SGD(others, lr=0.0, **how) if others else None
        if self._others:
            self._others.state = self.state  # the groups are the same dicts already

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """closure: called first, as torch's optimisers do; what it returns is returned"""
        with torch.enable_grad():
            loss = closure() if closure else None
        for group in self.param_groups:
            if group["is_matrix"]:
                self._turn(group)
        if self._others:
            self._others.found_inf = self.found_inf  # type: ignore[attr-defined]
            self._others.step()
        return loss

    def _turn(self, group: dict[str, Any]) -> None:
        """All weights of one shape at once."""
        same: defaultdict[torch.Size, list[Tensor]] = defaultdict(list)
        for weight in group["params"]:
            if weight.grad is not None:
                same[weight.shape].append(weight)
        for weights in same.values():
            momenta = [self.state[weight]["momentum_buffer"] for weight in weights]
            gradient = _stacked([weight.grad for weight in weights if weight.grad is not None])
            before, old = _stacked(momenta), _stacked(weights)
            momentum = torch.add(gradient, before, alpha=group["momentum"])
            ahead = torch.add(gradient, momentum, alpha=group["momentum"]) if group["nesterov"] else momentum
            new = turned(old.flatten(2), orthogonal(ahead.flatten(2), self._dtype), group["lr"]).view_as(old)
            if self.found_inf is not None:
                is_bad = self.found_inf > 0
                momentum, new = torch.where(is_bad, before, momentum), torch.where(is_bad, old, new)
            _copy(momenta, momentum)
            _copy(weights, new)


def orthogonal(matrices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The nearest orthogonal matrix to each of [K, R, C], nearly: all singular values become 0.7 to 1.2.

    By a Newton-Schulz iteration of degree 5 (Jordan et al. 2024; Bernstein and Newhouse 2024, arXiv 2409.20325), which
    is nothing but products of matrices, all K at once in ``dtype``. Returns [K, R, C] of the matrices' own dtype.
    """
    is_tall = matrices.shape[1] > matrices.shape[2]
    wide = matrices.mT if is_tall else matrices
    x = (wide / _norm(wide).clamp_min(TINY)).to(dtype)
    a, b, c = COEFFICIENTS
    for _ in range(NUM_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if is_tall else x).to(matrices.dtype)


def turned(weights: Tensor, directions: Tensor, lr: float) -> Tensor:
    """[K, R, C] weights after a step of ``lr`` times their norms against orthogonal directions, and at those norms."""
    norm = _norm(weights)
    has_norm = norm > 0
    length = torch.where(has_norm, norm / math.sqrt(min(weights.shape[1:])), 1.0)
    moved = weights - lr * length * directions
    return moved * torch.where(has_norm, norm / _norm(moved).clamp_min(TINY), 1.0)


def matrices(model: nn.Module, head: nn.Module) -> set[Tensor]:
    """The weights that Muon is for: of linear layers and convolutions, but for the last layer, whose rows are classes
    and not directions, and convolutions in groups, which are many small matrices.
    """
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    found: set[Tensor] = {
        one.weight for one in model.modules() if isinstance(one, kinds) and getattr(one, "groups", 1) == 1
    }
    return found - set(head.parameters())


def _norm(matrices: Tensor) -> Tensor:
    """[K, R, C] -> [K, 1, 1]"""
    return torch.linalg.vector_norm(matrices, dim=(1, 2), keepdim=True)


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """K of [O, I, ...] -> [K, O, ..., I]: as they lie in memory where that is channels_last. Which column is which does
    not matter to what is done with them.
    """
    return torch.stack([tensor.movedim(1, -1) for tensor in tensors])


def _copy(to: list[Tensor], stacked: Tensor) -> None:
    parts = list(stacked.movedim(-1, 2).unbind())
    torch._foreach_copy_(to, parts)  # pyright: ignore[reportPrivateImportUsage]  # no public name
