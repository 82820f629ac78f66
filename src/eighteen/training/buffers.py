"""The running statistics of a model, and what it counts, each moved into one tensor: one kernel saves, restores or
averages all of them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def flatten_buffers(model: nn.Module, dtype: torch.dtype = torch.float32) -> Tensor:
    """Make every buffer of this type a view into one new flat tensor, and return that: [all their elements]."""
    owners = [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None and buffer.dtype == dtype
    ]
    if not owners:
        return next(model.parameters()).new_empty(0, dtype=dtype)  # where its steps are computed
    flat = torch.cat([buffer.flatten() for _, _, buffer in owners])
    start = 0
    for module, name, buffer in owners:
        module._buffers[name] = flat[start : start + buffer.numel()].view(buffer.shape)
        start += buffer.numel()
    return flat
