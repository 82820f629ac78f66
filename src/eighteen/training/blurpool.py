"""BlurPool: what steps over pixels sees them blurred first, so that a shift by one changes little (Zhang 2019, arXiv
1904.11486)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAST_CHANNELS = 16  # the first convolution, on the pixels themselves, stays as it is, as in FFCV's ImageNet program


def blurred(num_classes: int, in_chans: int = 3, *, of: str, **args: Any) -> nn.Module:
    """timm's model ``of``, built with args, whose convolutions with a stride blur their input; its weights keep their
    names. ValueError if timm has no such model.

    The blur stands before the convolution, which so still computes only what it keeps; timm's own (``resnetblur50``)
    stands behind one without a stride.
    """
    import timm  # 2-4 s: only when it is asked for

    if not timm.is_model(of):
        raise ValueError(f"{of!r}, which is no timm model")
    model = timm.create_model(of, num_classes=num_classes, in_chans=in_chans, **args)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Conv2d and max(child.stride) > 1 and child.in_channels >= LEAST_CHANNELS:
                setattr(module, name, BlurredConv(child))
    return model


class BlurredConv(nn.Conv2d):
    """A convolution, with its weights, of the blurred input."""

    blur: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            kernel_size=(conv.kernel_size[0], conv.kernel_size[1]),
            stride=(conv.stride[0], conv.stride[1]),
            padding=conv.padding if isinstance(conv.padding, str) else (conv.padding[0], conv.padding[1]),
            dilation=(conv.dilation[0], conv.dilation[1]),
            groups=conv.groups,
            bias=conv.bias is not None,
        )
        self.weight, self.bias = conv.weight, conv.bias
        line = torch.tensor([1.0, 2.0, 1.0]) / 4
        kernel = line.outer(line).expand(conv.in_channels, 1, 3, 3).contiguous()
        self.register_buffer("blur", kernel, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(F.conv2d(input, self.blur.to(input.dtype), padding=1, groups=self.in_channels))
