"""How fast a model could be trained at most: its arithmetic and the activations it moves go in, images/s come out.

The model is run once, without computing anything, and each operation becomes the kernels that a good library makes of
it in training: convolutions and matrix products, forward and backward towards pictures and towards weights; and batch
norm fused with the ReLU and the sum of a residual block that follow. A kernel takes what its arithmetic takes at the
device's peak, or what its bytes take at the bandwidth, whichever is longer (Williams et al. 2009, "Roofline: an
insightful visual performance model for multicore architectures").

Not counted: weights and optimiser, which a batch shares, and what an activation costs beside the norm it is fused with.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from eighteen.advice.ceilings import Ceilings
from eighteen.advice.rates import Work

# How often a norm's kernels pass over its output in memory. Forward: read for the statistics; read, written normalised.
# Backward: gradient and input read for two sums; both read again, the input's gradient written.
NORM_PASSES = 3 + 5
# Of a sum that is fused with the norm before it: the shortcut is read; backward two gradients become one.
SUM_PASSES = 1 + 3
PASSES = 2  # forward and backward, over what goes in and what comes out, of all else that moves data

_NORMS = {"native_batch_norm", "cudnn_batch_norm", "_batch_norm_with_update", "native_layer_norm", "native_group_norm"}
_PRODUCTS = {"convolution", "mm", "addmm", "bmm"}
_MOVING = {"max_pool2d_with_indices", "avg_pool2d", "_softmax", "cat", "mul", "upsample_bilinear2d"}


@dataclass(frozen=True)
class Kernel:
    """For one picture."""

    name: str
    flops: float
    num_bytes: float


@dataclass(frozen=True)
class Roofline:
    """For one picture; images_per_s: at most, all kernels one after the other"""

    flops: float
    num_bytes: float
    images_per_s: float


def roofline(kernels: Sequence[Kernel], ceilings: Ceilings) -> Roofline:
    """What kernels amount to on a device."""
    seconds = sum(max(k.flops / ceilings.flops_per_s, k.num_bytes / ceilings.bytes_per_s) for k in kernels)
    flops, num_bytes = (math.fsum(getattr(kernel, name) for kernel in kernels) for name in ("flops", "num_bytes"))
    return Roofline(flops, num_bytes, 1 / seconds if seconds else math.inf)


def work(model: nn.Module, *, in_chans: int, size: int, element_bytes: int) -> Work:
    """What one picture takes in training; see ``kernels``."""
    found = kernels(model, in_chans=in_chans, size=size, element_bytes=element_bytes)
    return Work(math.fsum(one.flops for one in found), math.fsum(one.num_bytes for one in found))


def kernels(model: nn.Module, *, in_chans: int, size: int, element_bytes: int) -> list[Kernel]:
    """Those of a training step of ``model`` on pictures of ``size`` px, as it says of itself on the meta device.

    element_bytes: of an activation: 2 in bf16, 4 in float32
    """
    seen = _Seen(element_bytes)
    shape = copy.deepcopy(model).to("meta").train()
    with torch.no_grad(), seen:
        shape(torch.zeros(2, in_chans, size, size, device="meta"))
    return seen.kernels


class _Seen(TorchDispatchMode):
    """Notes the kernels of every operation that is called while it is on, for a batch of 2."""

    def __init__(self, element_bytes: int) -> None:
        super().__init__()
        self.kernels: list[Kernel] = []
        self._element_bytes = element_bytes

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        out = found[0] if isinstance(found, tuple) else found
        if isinstance(out, Tensor):
            name = func.overloadpacket.__name__.rstrip("_")
            self._note(name, [one for one in args if isinstance(one, Tensor)], out)
        return found

    def _note(self, name: str, inputs: list[Tensor], out: Tensor) -> None:
        if name in _PRODUCTS:
            left, right = inputs[-2:] if name != "convolution" else inputs[:2]
            flops = 2 * out.numel() * (right[0].numel() if name == "convolution" else left.shape[-1])
            # towards the pictures themselves nothing is computed
            ways = ("", " back", " to weights") if self.kernels else ("", " to weights")
            for way in ways:
                self._add(name + way, left.numel() + out.numel(), flops)
        elif name in _NORMS:
            self._add(name, NORM_PASSES * out.numel())
        elif name == "add" and out.ndim > 1 and len(inputs) == 2 and inputs[0].shape == inputs[1].shape:
            self._add(name, SUM_PASSES * out.numel())
        elif name in _MOVING:
            self._add(name, PASSES * (inputs[0].numel() + out.numel()) if inputs else PASSES * 2 * out.numel())

    def _add(self, name: str, elements: float, flops: float = 0.0) -> None:
        self.kernels.append(Kernel(name, flops / 2, elements * self._element_bytes / 2))
