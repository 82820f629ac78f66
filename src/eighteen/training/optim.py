"""Optimisers in one fused kernel, with decay only where it belongs, and a moving average of the weights."""

from __future__ import annotations

from collections.abc import Set

import torch
from torch import Tensor, nn

from eighteen.base.errors import RecipeError, did_you_mean
from eighteen.base.recipe import Optim, Points
from eighteen.base.schedule import Step
from eighteen.training import lars, models, muon

GROUPED_BY = ("lr_scale", "weight_decay", "is_matrix")


def optimizer(
    model: nn.Module, optim: Optim, *, lr_scale: dict[str, float], dtype: torch.dtype | None = None
) -> torch.optim.Optimizer:
    """The recipe's optimiser over the weights that train; the rate of every group is set each step by ``set_rates``.

    Weight decay stays away from norms and biases, the weights of one dimension (He et al. 2018, arXiv 1812.01187).
    lr_scale: stage -> multiplier      dtype: that the model computes in; None: float32
    """
    decay, most = {"weight_decay": optim.weight_decay, "lr_scale": lr_scale}, _most(optim.momentum)
    if optim.name == "adamw":
        return torch.optim.AdamW(parameter_groups(model, **decay), lr=0.0, betas=optim.betas, eps=optim.eps, fused=True)
    how = {"momentum": most, "nesterov": optim.nesterov}
    if optim.name == "muon":
        groups = parameter_groups(model, **decay, matrices=muon.matrices(model, models.head(model)))
        own = muon.Muon([_beside_muon(group, optim) for group in groups], **how, dtype=dtype)
    elif optim.name == "lars":
        large = {weight for weight in model.parameters() if weight.ndim > 1}
        own = lars.Lars(parameter_groups(model, **decay, matrices=large), **how, trust=optim.trust)
    else:
        how["nesterov"] = optim.nesterov and most > 0
        own = torch.optim.SGD(parameter_groups(model, **decay), lr=0.0, **how, fused=True)
    for weight in (weight for group in own.param_groups for weight in group["params"] if most or optim.name == "muon"):
        # torch leaves the buffers as they come from memory when the very first step is skipped; zeros give the same
        # first step
        own.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
    return own


def parameter_groups(
    model: nn.Module, *, weight_decay: float, lr_scale: dict[str, float], matrices: Set[Tensor] = frozenset()
) -> list[dict]:
    """Trainable weights by (multiplier of the rate, decay or not, whether among ``matrices``), in the model's order.

    The longest matching stage of lr_scale counts.
    """
    groups: dict[tuple[float, float, bool], dict] = {}
    used: set[str] = set()
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        stages = [stage for stage in lr_scale if name == stage or name.startswith(stage + ".")]
        used.update(stages)
        scale = lr_scale[max(stages, key=len)] if stages else 1.0
        key = (scale, weight_decay if weight.ndim > 1 else 0.0, weight in matrices)
        group = groups.setdefault(key, {"params": [], **dict(zip(GROUPED_BY, key, strict=True))})
        group["params"].append(weight)
    if unknown := set(lr_scale) - used:
        stage = sorted(unknown)[0]
        valid = [name for name, _ in model.named_children()]
        got, hint = "a stage without trainable weights", did_you_mean(stage, valid)
        raise RecipeError(f"model.lr_scale.{stage}", got=got, need="a stage of the model", hint=hint)
    return list(groups.values())


def set_rates(optimizer: torch.optim.Optimizer, now: Step) -> None:
    """Learning rate and momentum of this step; a group's own momentum stays."""
    for group in optimizer.param_groups:
        group["lr"] = now.lr * group["lr_scale"]
        if "momentum" in group:
            group["momentum"] = group.get("own_momentum", now.momentum)


def _beside_muon(group: dict, optim: Optim) -> dict:
    """What Muon leaves to SGD has another rate, and may have another momentum."""
    if group["is_matrix"]:
        return group
    own = {} if optim.sgd_momentum is None else {"momentum": optim.sgd_momentum, "own_momentum": optim.sgd_momentum}
    return {**group, **own, "lr_scale": group["lr_scale"] * optim.sgd_scale}


def _most(value: float | Points) -> float:
    return max(number for _, number in value) if isinstance(value, list) else value


class Ema:
    """An exponential moving average of all floating-point weights and buffers of a model, updated by one fused call.

    The decay starts low and rises: min(decay, (1 + step) / (10 + step)), as in TensorFlow's ExponentialMovingAverage.
    Before its first step, step 0, the averages are the weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._sources = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
        self.tensors = {name: tensor.clone() for name, tensor in self._sources.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        averages, sources = list(self.tensors.values()), list(self._sources.values())
        if step < 0:
            torch._foreach_copy_(averages, sources)  # pyright: ignore[reportPrivateImportUsage]
            return
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(averages, sources, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]  # no public name

    def load(self, tensors: dict[str, Tensor]) -> None:
        for name, tensor in self.tensors.items():
            tensor.copy_(tensors[name])
