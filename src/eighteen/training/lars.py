"""LARS: SGD whose steps are, for each weight, a set share of that weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Lars(torch.optim.SGD):
    """SGD over gradients that are first brought to ``trust`` times the norm of their weight (You et al. 2017, arXiv
    1708.03888), so that batches of many thousands can have the rates they need.

    ratio = trust * |w| / (|g| + decay * |w|), and SGD gets ratio * (g + decay * w); where a norm is 0 the ratio is 1.
    The rate multiplies the momentum, as torch does, and not what goes into it, as the paper has it: the same at a
    constant rate.

    groups: as torch's, with "is_matrix": whether they have a ratio; norms and biases have none
    found_inf: [] float32, 1 where this step must change neither weights nor momenta; read on the device
    """

    def __init__(self, groups: list[dict[str, Any]], *, momentum: float, nesterov: bool, trust: float) -> None:
        self._trust = trust
        for group in groups:  # SGD must not add it to gradients that have their ratio already
            group["decay"] = group.pop("weight_decay")
        super().__init__(groups, lr=0.0, momentum=momentum, nesterov=nesterov and momentum > 0, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """closure: called first, as torch's optimisers do; what it returns is returned"""
        with torch.enable_grad():
            loss = closure() if closure else None
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if group["is_matrix"] and weights:
                self._scale([weight.grad for weight in weights], weights, group["decay"])
        super().step()
        return loss

    def _scale(self, gradients: list[Tensor], weights: list[Tensor], decay: float) -> None:
        """Gradients that are not finite stay so: the fused kernel then leaves all as it is."""
        of_weights, of_gradients = (torch.stack(torch._foreach_norm(these)) for these in (weights, gradients))  # pyright: ignore[reportPrivateImportUsage]
        ratios = self._trust * of_weights / (of_gradients + decay * of_weights)
        ratios = torch.where((of_weights > 0) & (of_gradients > 0), ratios, 1.0)
        torch._foreach_add_(gradients, weights, alpha=decay)  # pyright: ignore[reportPrivateImportUsage]
        torch._foreach_mul_(gradients, ratios.unbind())  # pyright: ignore[reportPrivateImportUsage]
