"""A compact residual net that trains from scratch on a CPU in minutes."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class CompactNet(nn.Module):
    """A stem, residual stages that each halve the picture but the first, and a linear head.

    [N, in_chans, H, W] float, any H and W from 28 px up -> logits [N, num_classes]

    stem_stride: 1, 2 (suits pictures up to 64 px) or 4 (larger ones)      depth: blocks in each stage
    zero_gamma: blocks start as their shortcut alone (Goyal et al. 2017, arXiv 1706.02677)
    """

    def __init__(
        self,
        num_classes: int,
        in_chans: int = 3,
        *,
        widths: Sequence[int] = (32, 64, 128, 256),
        depth: int = 1,
        stem_stride: int = 4,
        zero_gamma: bool = True,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.stem = _stem(in_chans, widths[0], stem_stride)
        self.stages = nn.Sequential()
        before = widths[0]
        for width in widths:
            stride = 2 if len(self.stages) else 1
            first = Block(before, width, stride, zero_gamma)
            others = [Block(width, width, 1, zero_gamma) for _ in range(1, depth)]
            self.stages.append(nn.Sequential(first, *others))
            before = width
        self.head = nn.Linear(before, num_classes)

    def get_classifier(self) -> nn.Linear:
        """The last layer, by the name that timm's models use."""
        return self.head

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.stages(self.stem(images)).mean((2, 3)))


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2015, arXiv 1512.03385); the first may halve the picture."""

    def __init__(self, before: int, width: int, stride: int, zero_gamma: bool) -> None:
        super().__init__()
        first, (conv, norm) = _conv_norm(before, width, 3, stride), _conv_norm(width, width, 3)
        self.residual = nn.Sequential(*first, nn.ReLU(inplace=True), conv, norm)
        self.shortcut = _shortcut(before, width, stride)
        if zero_gamma:
            nn.init.zeros_(norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.residual(x) + self.shortcut(x), inplace=True)


def _stem(in_chans: int, width: int, stride: int) -> nn.Sequential:
    """3x3 convolutions that together step by ``stride``; a thin first one keeps the many early pixels cheap."""
    if stride not in (1, 2, 4):
        raise ValueError(f"stem_stride must be 1, 2 or 4, not {stride}")
    if stride == 1:
        return nn.Sequential(*_conv_norm(in_chans, width, 3), nn.ReLU(inplace=True))
    thin = width // 2
    first = *_conv_norm(in_chans, thin, 3, stride // 2), nn.ReLU(inplace=True)
    return nn.Sequential(*first, *_conv_norm(thin, width, 3, 2), nn.ReLU(inplace=True))


def _shortcut(before: int, width: int, stride: int) -> nn.Sequential:
    """The input, or where the shape changes a pooled 1x1 projection (ResNet-D, He et al. 2018, arXiv 1812.01187)."""
    pool = [nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False)] if stride > 1 else []
    return nn.Sequential(*pool, *(_conv_norm(before, width, 1) if pool or before != width else []))


def _conv_norm(before: int, width: int, kernel: int, stride: int = 1) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """A convolution without bias, padded to keep the size, and its batch norm."""
    conv = nn.Conv2d(before, width, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv, nn.BatchNorm2d(width)
