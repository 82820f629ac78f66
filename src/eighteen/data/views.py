"""The views of a picture that test-time augmentation takes the mean over.

In: pictures as an evaluation crops them. Out: other views of them, and how much each counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import get_args

import torch
from torch import Tensor

from eighteen.base.errors import UsageError, did_you_mean
from eighteen.base.recipe import Tta
from eighteen.data.augment import translate
from eighteen.data.plan import TINY_SIDE

DIAGONAL = ((-1, -1), (1, 1))  # up and to the left, down and to the right


def ways(tta: Tta, size: int) -> tuple[tuple[int, int], ...]:
    """How the crops of this size have to be moved, see ``crops.moved``; tiny ones are moved by ``views``."""
    return DIAGONAL if tta == "crops" and size > TINY_SIDE else ()


def views(images: Tensor, moved: Sequence[Tensor], tta: Tta) -> tuple[float, Iterator[tuple[float, Tensor]]]:
    """How much the pictures themselves count, and (weight, other view) of them; all weights sum to 1.

    flip: each picture and its mirror image. crops: six views: those two count a half; moved up and to the left, and
    down and to the right, they count the other (Jordan 2024, arXiv 2404.00498). That is by one pixel, with reflected
    ones behind it; of pictures larger than 64 px it is another crop.

    images: [N, C, H, W] uint8      moved: as images, cropped in each of the ``ways``
    """
    if tta == "none":
        return 1.0, iter(())
    if tta == "flip":
        return 1 / 2, iter([(1 / 2, images.flip(-1))])
    return 1 / 4, _other_crops(images, moved or _shifted(images))


def _other_crops(images: Tensor, moved: Sequence[Tensor]) -> Iterator[tuple[float, Tensor]]:
    yield 1 / 4, images.flip(-1)
    for each in moved:
        yield 1 / 8, each
        yield 1 / 8, each.flip(-1)


def named(tta: str) -> Tta:
    """The augmentation of that name; UsageError if there is none."""
    valid = get_args(Tta)
    for known in valid:
        if known == tta:
            return known
    raise UsageError(f"--tta {tta}", got=repr(tta), need=f"one of {', '.join(valid)}", hint=did_you_mean(tta, valid))


def _shifted(images: Tensor) -> list[Tensor]:
    ways = (torch.tensor(way, device=images.device).expand(len(images), 2) for way in DIAGONAL)
    return [translate(images, way, largest=1, fill="reflect") for way in ways]
