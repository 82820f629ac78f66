"""The random parameters of augmentation, drawn by counter: the same for a sample wherever, and by whomever, it is
drawn.

In: a recipe's [augment] and a function that gives each sample a number for a ``Stream``. Out: the parameters of each
operation that is on.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from eighteen.base.recipe import Augment
from eighteen.data.crops import Stream

Floats = NDArray[np.float64]
Draw = Callable[[Stream], Floats]  # -> [N] in [0, 1)

ERASE_RATIO = 3.3  # erased boxes are at most so many times as high as wide, or as wide as high


def parameters(
    section: Augment, draw: Draw, height: int, width: int, places: NDArray[np.int64] | None = None
) -> dict[str, Floats]:
    """The parameters of each operation that is on, for pictures of height x width: [N, k] each.

    places: [N], see ``pairs``; None where no sample is missing

    translate: down, right in pixels      affine: 2 x 3 matrix, row by row      colour: factors of brightness, contrast
    cutout, erase, cutmix: top, left, bottom, right in pixels, the last two exclusive
    mixup, kept: share of itself, of its own label
    """
    drawn = {}
    if section.translate:
        streams = (Stream.TRANSLATE_Y, Stream.TRANSLATE_X)
        offsets = [_between(draw(stream), -section.translate, section.translate + 1) for stream in streams]
        drawn["translate"] = np.floor(np.stack(offsets, axis=1))
    if (section.rotate, section.scale, section.shear) != ((0, 0), (1, 1), (0, 0)):
        drawn["affine"] = _matrices(section, draw, height, width)
    if section.brightness or section.contrast:
        changes = ((Stream.BRIGHTNESS, section.brightness), (Stream.CONTRAST, section.contrast))
        drawn["colour"] = np.stack([_between(draw(stream), 1 - most, 1 + most) for stream, most in changes], axis=1)
    if section.cutout:
        drawn["cutout"] = _cutout_boxes(section.cutout, draw, height, width)
    if section.erase:
        drawn["erase"] = _erase_boxes(section, draw, height, width)
    if section.mixup or section.cutmix:
        drawn |= _mix(section, draw, height, width, places)
    return drawn


def beta(uniforms: Floats, alpha: float) -> Floats:
    """Numbers in [0, 1) -> numbers distributed as Beta(alpha, alpha): its inverse cumulative distribution, exact to
    1e-5.
    """
    cumulative, grid = _beta_table(alpha)
    lower = np.interp(np.minimum(uniforms, 1 - uniforms), cumulative, grid)
    values = 0.5 * lower ** (1 / alpha)
    return np.where(uniforms < 0.5, values, 1 - values)


@lru_cache
def _beta_table(alpha: float) -> tuple[Floats, Floats]:
    """The lower half of Beta(alpha, alpha), over s with x = s ** (1 / alpha) / 2: there its density is smooth even
    where alpha < 1.
    """
    grid = np.linspace(0, 1, 4097)
    density = (1 - 0.5 * grid ** (1 / alpha)) ** (alpha - 1)
    cumulative = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return 0.5 * cumulative / cumulative[-1], grid


def _matrices(section: Augment, draw: Draw, height: int, width: int) -> Floats:
    """[N, 6]: shear along x, then scale, then turn counter-clockwise; inverted, from the result to the picture, both in
    [-1, 1].
    """
    angle = np.deg2rad(_between(draw(Stream.ROTATE), *section.rotate))
    shear = np.tan(np.deg2rad(_between(draw(Stream.SHEAR), *section.shear)))
    scale = _between(draw(Stream.SCALE), *section.scale)
    one, zero = np.ones_like(angle), np.zeros_like(angle)
    turned = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])  # y points down
    forward = np.einsum("ijn,jkn->nik", turned * scale, np.array([[one, shear], [zero, one]]))
    half = np.array([width, height]) / 2  # pixels in 1
    inverse = np.linalg.inv(forward) * half / half[:, None]
    return np.concatenate([inverse, np.zeros((len(angle), 2, 1))], axis=2).reshape(len(angle), 6)


def _cutout_boxes(side: int, draw: Draw, height: int, width: int) -> Floats:
    """[N, 4]: squares whose middle is anywhere in the picture, so that its edge may cut them."""
    top = np.floor(draw(Stream.CUTOUT_Y) * height) - side // 2
    left = np.floor(draw(Stream.CUTOUT_X) * width) - side // 2
    return _clipped(top, left, top + side, left + side, height, width)


def _erase_boxes(section: Augment, draw: Draw, height: int, width: int) -> Floats:
    """[N, 4]: share of the area uniform in erase_scale, ratio log-uniform, within the picture; empty for samples that
    are spared.
    """
    area = _between(draw(Stream.ERASE_AREA), *section.erase_scale) * height * width
    ratio = ERASE_RATIO ** _between(draw(Stream.ERASE_RATIO), -1, 1)
    high = np.minimum(np.rint(np.sqrt(area * ratio)), height)
    wide = np.minimum(np.rint(np.sqrt(area / ratio)), width)
    top = np.floor(draw(Stream.ERASE_Y) * (height - high + 1))
    left = np.floor(draw(Stream.ERASE_X) * (width - wide + 1))
    bottom = np.where(draw(Stream.ERASE) < section.erase, top + high, top)
    return _clipped(top, left, bottom, left + wide, height, width)


def pairs(places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Who is mixed with whom: 2i with 2i + 1; one without a partner with itself.

    places: [N], rising: where each sample would be if none were missing -> [N]: the row of its partner
    """
    rows = np.searchsorted(places, places ^ 1)
    found = places[np.minimum(rows, len(places) - 1)] == places ^ 1 if len(places) else rows.astype(bool)
    return np.where(found, rows, np.arange(len(places)))


def _mix(section: Augment, draw: Draw, height: int, width: int, places: NDArray[np.int64] | None) -> dict[str, Floats]:
    """What mixup and cutmix need: both samples of a pair use the numbers of the first; a pair that has the one is left
    alone by the other.
    """
    coin, share, y, x = (draw(stream) for stream in (Stream.MIX, Stream.MIX_SHARE, Stream.MIX_Y, Stream.MIX_X))
    every = np.arange(len(coin))
    first = every // 2 * 2 if places is None else np.minimum(every, pairs(places))
    coin, share, y, x = coin[first], share[first], y[first], x[first]
    by_cutmix = coin < (0.5 if section.mixup else 1.0) if section.cutmix else np.zeros(len(coin), bool)
    drawn, kept = {}, np.ones(len(coin))
    if section.mixup:
        kept = np.where(by_cutmix, 1.0, beta(share, section.mixup))
        drawn["mixup"] = kept[:, None]
    if section.cutmix:
        side = np.where(by_cutmix, np.sqrt(1 - beta(share, section.cutmix)), 0.0)
        high, wide = np.floor(side * height), np.floor(side * width)
        top, left = np.floor(y * height) - high // 2, np.floor(x * width) - wide // 2
        drawn["cutmix"] = boxes = _clipped(top, left, top + high, left + wide, height, width)
        exchanged = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / (height * width)
        kept = np.where(by_cutmix, 1 - exchanged, kept)
    return {**drawn, "kept": kept[:, None]}


def _clipped(top: Floats, left: Floats, bottom: Floats, right: Floats, height: int, width: int) -> Floats:
    """[N, 4], cut at the edges of the picture."""
    rows, columns = np.clip([top, bottom], 0, height), np.clip([left, right], 0, width)
    return np.stack([rows[0], columns[0], rows[1], columns[1]], axis=1)


def _between(uniforms: Floats, low: float, high: float) -> Floats:
    return low + uniforms * (high - low)
