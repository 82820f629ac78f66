"""The mean and standard deviation of a split's pixels, from a seeded sample of its pictures."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eighteen.base.order import random_bits
from eighteen.data.dataset import Rendition

MAX_PICTURES = 2000
_STREAM = 0x3EA2


def moments(rendition: Rendition, *, channels: int, seed: int, threads: int = 1) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, in [0, 1]; each picture weighs the same, whatever its size.

    channels: 1 or 3      threads: that decode
    """
    keys = random_bits(seed, np.arange(len(rendition.index)), _STREAM)
    chosen = np.sort(np.argsort(keys, kind="stable")[:MAX_PICTURES]).tolist()
    with ThreadPoolExecutor(threads) as pool:
        means, squares = np.mean(list(pool.map(partial(_moments_of, rendition, channels), chosen)), axis=0)
    return [round(float(mean), 6) for mean in means], [
        round(float(std), 6) for std in np.sqrt((squares - means**2).clip(min=0))
    ]


def _moments_of(rendition: Rendition, channels: int, sample: int) -> NDArray[np.float64]:
    """[2, C]: the means of the values and of their squares, from a histogram of each channel."""
    pixels = _pixels(rendition, channels, sample)
    values = np.arange(256) / 255
    shares = (
        np.stack([np.bincount(pixels[..., channel].ravel(), minlength=256) for channel in range(channels)])
        / pixels[..., 0].size
    )
    return np.stack([shares @ values, shares @ values**2])


def _pixels(rendition: Rendition, channels: int, sample: int) -> NDArray[np.uint8]:
    if rendition.kind == "raw":
        return rendition.read_raw(sample)
    image = Image.open(io.BytesIO(rendition.read(sample))).convert("L" if channels == 1 else "RGB")
    return np.asarray(image).reshape(image.height, image.width, channels)
