"""A plain convolutional net for tiny pictures: blocks of convolutions, without shortcuts."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class PlainNet(nn.Module):
    """Blocks of 3x3 convolutions with batch norm and ReLU, each but the first on a picture halved by max pooling; then
    the mean over what is left of it, and a linear head.

    [N, in_chans, H, W] float, any H and W from 2 ** (len(widths) - 1) px up -> logits [N, num_classes]

    widths: channels of each block      depth: convolutions in each
    """

    def __init__(
        self, num_classes: int, in_chans: int = 3, *, widths: Sequence[int] = (32, 64, 128), depth: int = 4
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.blocks = nn.Sequential()
        before = in_chans
        for width in widths:
            pool = [nn.MaxPool2d(2)] if len(self.blocks) else []
            self.blocks.append(nn.Sequential(*pool, *_block(before, width, depth)))
            before = width
        self.head = nn.Linear(before, num_classes)

    def get_classifier(self) -> nn.Linear:
        """The last layer, by the name that timm's models use."""
        return self.head

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.blocks(images).mean((2, 3)))


def _block(before: int, width: int, depth: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for _ in range(depth):
        conv = nn.Conv2d(before, width, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        layers += [conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        before = width
    return layers
