"""A compact residual net for small pictures and small machines."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


def compact(
    num_classes: int,
    in_chans: int = 3,
    *,
    widths: Sequence[int] = (32, 64, 128, 256),
    depth: int = 1,
    stem_stride: int = 4,
) -> nn.Sequential:
    """A net of stages of residual blocks: [N, in_chans, H, W] -> logits [N, num_classes], for any H and W from 28 px on.

    The stem goes down by ``stem_stride`` (2 or 4), every stage after the first by 2; a stage has ``depth`` blocks.
    """
    half = widths[0] // 2
    stem = nn.Sequential(
        *_conv_norm(in_chans, half, stride=stem_stride // 2), nn.ReLU(), *_conv_norm(half, widths[0], stride=2), nn.ReLU()
    )
    stages = nn.Sequential()
    width = widths[0]
    for number, wider in enumerate(widths):
        blocks = [Block(width, wider, stride=2 if number else 1), *(Block(wider, wider) for _ in range(depth - 1))]
        stages.append(nn.Sequential(*blocks))
        width = wider
    net = nn.Sequential()
    net.add_module("stem", stem)
    net.add_module("stages", stages)
    net.add_module("pool", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    net.add_module("head", nn.Linear(width, num_classes))
    return net


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2015, arXiv 1512.03385), average-pooled where it goes down (He et al. 2018, ResNet-D)."""

    def __init__(self, width: int, wider: int, *, stride: int = 1) -> None:
        super().__init__()
        self.branch = nn.Sequential(*_conv_norm(width, wider, stride=stride), nn.ReLU(), *_conv_norm(wider, wider))
        nn.init.zeros_(self.branch[-1].weight)  # the branch starts as nothing, the block as its shortcut
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut.append(nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False))
        if width != wider:
            self.shortcut.extend(_conv_norm(width, wider, size=1))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.branch(x) + self.shortcut(x))


def _conv_norm(width: int, wider: int, *, size: int = 3, stride: int = 1) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    conv = nn.Conv2d(width, wider, size, stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv, nn.BatchNorm2d(wider)
