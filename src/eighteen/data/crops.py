"""Which part of each picture becomes a training or an evaluation picture: pure functions of sizes and counters.

In: widths and heights of pictures, and who they are. Out: boxes [N, 4] float32 of (left, top, width, height) in source
pixels, and flips [N] bool.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from eighteen.base.order import uniform

MAX_ATTEMPTS = 10  # as torchvision's RandomResizedCrop; with usual settings the first succeeds nine times in ten
MAX_RATIO = 2.0  # of rectangular evaluation: beyond it a batch would need memory that square ones do not

SHIFT = 1 / 16  # of a box's side, for test-time augmentation: what the usual crop of 7/8 has to spare on each side


class Stream(IntEnum):
    """Every random choice about a sample, in one list: no two of them share their numbers."""

    FLIP = 0
    TRANSLATE_Y = 1
    TRANSLATE_X = 2
    ROTATE = 3
    SCALE = 4
    SHEAR = 5
    BRIGHTNESS = 6
    CONTRAST = 7
    CUTOUT_Y = 8
    CUTOUT_X = 9
    ERASE = 10
    ERASE_AREA = 11
    ERASE_RATIO = 12
    ERASE_Y = 13
    ERASE_X = 14
    MIX = 15  # mixup or cutmix
    MIX_SHARE = 16
    MIX_Y = 17
    MIX_X = 18
    CROP = 1000  # and on: four numbers an attempt


def train_boxes(
    widths: NDArray[np.integer],
    heights: NDArray[np.integer],
    *,
    seed: int,
    visits: NDArray[np.int64],
    samples: NDArray[np.int64],
    min_scale: float,
    max_scale: float = 1.0,
    min_ratio: float,
    max_ratio: float,
) -> NDArray[np.float32]:
    """A random box for each sample, later resized to the training size (Szegedy et al. 2014, arXiv 1409.4842, as
    torchvision does it).

    Its share of the picture's area is uniform in [min_scale, max_scale], its ratio width / height log-uniform in
    [min_ratio, max_ratio], its place uniform. Where no attempt fits, the largest central box of an allowed ratio.
    min_scale 1 means no chance at all: the central square.

    widths, heights, visits, samples: [N] -> [N, 4] float32 of whole numbers
    """
    if min_scale == 1.0:
        return eval_boxes(widths, heights)
    boxes = _largest_central(widths, heights, min_ratio, max_ratio)
    left = np.arange(len(samples))  # those that have no box yet
    for attempt in range(MAX_ATTEMPTS):
        if not len(left):
            break
        area, ratio, x, y = (
            uniform(seed, visits[left], samples[left], Stream.CROP + 4 * attempt + choice) for choice in range(4)
        )
        full_width, full_height = widths[left].astype(np.float64), heights[left].astype(np.float64)
        area = full_width * full_height * (min_scale + (max_scale - min_scale) * area)
        ratio = min_ratio * (max_ratio / min_ratio) ** ratio
        width, height = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
        fits = (width >= 1) & (height >= 1) & (width <= full_width) & (height <= full_height)
        x, y = np.floor(x * (full_width - width + 1)), np.floor(y * (full_height - height + 1))
        boxes[left[fits]] = np.stack([x, y, width, height], axis=1)[fits]
        left = left[~fits]
    return boxes


def train_flips(
    *, seed: int, visits: NDArray[np.int64], samples: NDArray[np.int64], flip: bool | str = True
) -> NDArray[np.bool_]:
    """Which samples are mirrored, left to right: [N] bool, true for half of them.

    flip: False, none is; "alternate", each is in every other of its visits, and half of them in the first (Jordan 2024,
    arXiv 2404.00498): all samples are seen both ways in any two epochs, which chance does for half of them
    """
    if flip is False:
        return np.zeros(len(samples), bool)
    if flip == "alternate":
        return (uniform(seed, np.zeros_like(visits), samples, Stream.FLIP) < 0.5) ^ (visits % 2 == 1)
    return uniform(seed, visits, samples, Stream.FLIP) < 0.5


def eval_boxes(
    widths: NDArray[np.integer], heights: NDArray[np.integer], *, crop: float = 1.0, ratio: float = 1.0
) -> NDArray[np.float32]:
    """The central box of ``ratio`` = width / height that is ``crop`` times as large as the largest that fits: [N, 4]
    float32.

    For ratio 1 its side is ``crop`` of the picture's short side: the same as resizing that to size / crop and cutting
    size x size out.
    """
    full_width, full_height = np.asarray(widths, np.float64), np.asarray(heights, np.float64)
    width = np.minimum(full_width, full_height * ratio) * crop
    height = width / ratio
    return np.stack([(full_width - width) / 2, (full_height - height) / 2, width, height], axis=1).astype(np.float32)


def moved(
    boxes: NDArray[np.float32], widths: NDArray[np.integer], heights: NDArray[np.integer], way: tuple[int, int]
) -> NDArray[np.float32]:
    """The boxes moved by a share of ``SHIFT`` of their own sides, or as far as their picture goes: [N, 4] float32.

    way: -1, 0 or 1, to the right and down
    """
    sides, room = boxes[:, 2:], np.stack([widths, heights], axis=1) - boxes[:, 2:]
    corners = np.clip(boxes[:, :2] + np.array(way) * SHIFT * sides, 0, np.maximum(room, 0))
    return np.concatenate([corners, sides], axis=1).astype(np.float32)


def _largest_central(
    widths: NDArray[np.integer], heights: NDArray[np.integer], min_ratio: float, max_ratio: float
) -> NDArray[np.float32]:
    full_width, full_height = np.asarray(widths, np.float64), np.asarray(heights, np.float64)
    ratio = np.clip(full_width / full_height, min_ratio, max_ratio)
    width = np.clip(np.rint(full_height * ratio), 1, full_width)
    height = np.clip(np.rint(full_width / ratio), 1, full_height)
    x, y = np.floor((full_width - width) / 2), np.floor((full_height - height) / 2)
    return np.stack([x, y, width, height], axis=1).astype(np.float32)


def rectangle(size: int, ratio: float) -> tuple[int, int]:
    """Width and height whose shorter side is ``size``, in multiples of 32."""
    longer = size * min(max(ratio, 1 / ratio), MAX_RATIO)
    short, long = (max(1, round(side / 32)) * 32 for side in (size, longer))
    return (long, short) if ratio > 1 else (short, long)
