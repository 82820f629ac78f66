"""A small convolutional net for tiny pictures whose first layer is fitted to the pictures instead of trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH = 2  # pixels a side
EPS = 5e-4  # added to the variances of patches: those along which the pictures hardly differ would only be noise


class WhitenedNet(nn.Module):
    """A whitening layer, groups of two convolutions that each halve the picture, the maximum over what is left of it,
    and a linear head (after the CIFAR-10 nets of Page 2019 and Jordan 2024, arXiv 2404.00498).

    [N, in_chans, H, W] float, any H and W from 2 ** len(widths) + 1 px up -> logits [N, num_classes]

    widths: channels of each group      bias_scale: what the learned shifts of the norms are multiplied by: they may
    move far in few steps
    """

    def __init__(
        self, num_classes: int, in_chans: int = 3, *, widths: Sequence[int] = (64, 256, 256), bias_scale: float = 64.0
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.whiten = Whitening(in_chans)
        before = [self.whiten.out_channels, *widths]
        groups = (Group(*pair, bias_scale) for pair in zip(before, widths, strict=False))
        self.groups = nn.Sequential(*groups)
        self.head = nn.Linear(before[-1], num_classes, bias=False)
        with torch.no_grad():
            self.head.weight /= before[-1]  # all classes are as likely, to begin with

    def get_classifier(self) -> nn.Linear:
        """The last layer, by the name that timm's models use."""
        return self.head

    def fit_to(self, pictures: Tensor) -> None:
        """Fit the whitening layer to normalised train pictures, [N, in_chans, H, W] float."""
        self.whiten.fit_to(pictures)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.groups(F.gelu(self.whiten(images))).amax((2, 3)))


class Whitening(nn.Conv2d):
    """Patches of 2 x 2 pixels along the principal directions of all patches, each scaled to variance 1, and negated
    beside it. Only a shift of each learns.
    """

    def __init__(self, in_chans: int) -> None:
        super().__init__(in_chans, 2 * in_chans * PATCH**2, PATCH, bias=False)
        self.weight.requires_grad_(False)
        self.shift = nn.Parameter(torch.zeros(self.out_channels))

    @torch.no_grad()
    def fit_to(self, pictures: Tensor) -> None:
        patches = pictures.unfold(2, PATCH, 1).unfold(3, PATCH, 1).permute(0, 2, 3, 1, 4, 5)
        patches = patches.reshape(-1, self.weight[0].numel())
        moments = patches.new_zeros(2 * patches.shape[1:], dtype=torch.float64)
        for part in patches.split(2**20):
            moments += part.T.double() @ part.double()
        variances, directions = torch.linalg.eigh(moments / len(patches))
        filters = (directions / (variances + EPS).sqrt()).T.reshape(-1, *self.weight.shape[1:])
        self.weight.copy_(torch.cat([filters, -filters]))

    def forward(self, input: Tensor) -> Tensor:
        filtered = super().forward(input)  # a bias of the convolution would cost its whole backward pass on a CPU
        return filtered + self.shift.to(filtered.dtype)[:, None, None]


class Group(nn.Module):
    """Convolution, max pooling, norm, GELU; convolution, norm, GELU."""

    def __init__(self, before: int, width: int, bias_scale: float) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv(before, width), Norm(width, bias_scale)
        self.conv2, self.norm2 = _conv(width, width), Norm(width, bias_scale)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.norm2(self.conv2(x)))


class Norm(nn.BatchNorm2d):
    """Batch norm that learns a shift but no scale: what follows does not depend on it."""

    def __init__(self, width: int, bias_scale: float) -> None:
        super().__init__(width)
        self.bias_scale = bias_scale
        self.weight.requires_grad_(False)

    def forward(self, input: Tensor) -> Tensor:
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        assert self.momentum is not None
        shift = self.bias * self.bias_scale
        mean, variance = self.running_mean, self.running_var
        return F.batch_norm(input, mean, variance, self.weight, shift, self.training, self.momentum, self.eps)


def _conv(before: int, width: int) -> nn.Conv2d:
    """3x3, padded to keep the size; it begins by passing on as many channels as there are, the others at random."""
    conv = nn.Conv2d(before, width, 3, padding=1, bias=False)
    nn.init.dirac_(conv.weight[: min(before, width)])
    return conv
