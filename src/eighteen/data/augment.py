"""Augmentation on the device: a Batch of uint8 pictures -> normalised float pictures and their targets.

``augment`` draws every parameter of every sample on the host, by counter, and moves them together; the public
operations below it are pure functions of pictures and parameters. None of them loops over pictures or waits for the
device.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from eighteen.base.errors import RecipeError
from eighteen.base.order import uniform
from eighteen.base.recipe import Augment
from eighteen.data.draws import pairs, parameters
from eighteen.data.maker import Batch

Fill = Literal["zero", "reflect"]


def augment(
    batch: Batch,
    section: Augment,
    *,
    seed: int,
    num_classes: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> tuple[Tensor, Tensor]:
    """All that a recipe's [augment] asks for beyond crop and flip, in this order; what is off costs nothing.

    translate, then rotate/scale/shear (what comes into view is black, or reflected) -> brightness and contrast,
    normalise -> cutout, erase (with the mean colour) -> mixup or cutmix of samples 2i and 2i + 1; where both are on,
    each pair has an even chance of either. The partner of a bad sample stays as it is; all others keep theirs.

    mean, std: of pixels in [0, 1], one a channel
    returns images [N, C, H, W] float32 channels_last, and labels [N] int64 or, with mixup or cutmix, [N, num_classes]
    float32 whose rows sum to 1
    raises RecipeError if a shift is as large as the picture
    """
    images, targets = batch.images, batch.labels
    visits, ids = batch.visits.numpy(), batch.ids.numpy()
    places = None if batch.places is None else batch.places.numpy()
    drawn = parameters(section, partial(uniform, seed, visits, ids), *images.shape[2:], places=places)
    partners = None if places is None else torch.from_numpy(pairs(places)).to(images.device)
    moved = _moved(drawn, images.device)
    if "translate" in moved:
        images = translate(images, moved["translate"].long(), largest=section.translate, fill=section.translate_fill)
    if "affine" in moved:
        images = affine(images, moved["affine"].view(-1, 2, 3), fill=section.translate_fill)
    gain = lift = None
    if "colour" in moved:
        gain, lift = colour_change(images, *moved["colour"].unbind(1))
    images = normalise(images, mean, std, gain=gain, lift=lift)
    for boxes in ("cutout", "erase"):
        if boxes in moved:
            images = erase(images, moved[boxes])
    if "mixup" in moved:
        images = mixup(images, moved["mixup"][:, 0], partners)
    if "cutmix" in moved:
        images = cutmix(images, moved["cutmix"], partners)
    if "kept" in moved:
        targets = mixed_targets(targets, moved["kept"][:, 0], num_classes, partners)
    return images, targets


def normalise(
    images: Tensor,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    *,
    gain: Tensor | None = None,
    lift: Tensor | None = None,
) -> Tensor:
    """(pixels / 255 * gain + lift - mean) / std, as one multiply-add: [N, C, H, W] of 0..255, any dtype -> float32,
    channels_last.

    mean, std: one a channel      gain, lift: [N] float32, 1 and 0 if not given
    """
    _, channels, _, width = images.shape
    scale, shift, colour = _multiply_add(mean, std, width, images.device)
    if gain is not None and lift is not None:
        scale, shift = scale * gain[:, None, None], shift + colour * lift[:, None, None]
    pixels = _rows(images).to(torch.float32, copy=True)
    return _pictures(torch.addcmul(shift, pixels, scale, out=pixels), channels)


def translate(images: Tensor, offsets: Tensor, *, largest: int, fill: Fill) -> Tensor:
    """Shift each picture by whole pixels; what comes into view is black or the picture's reflection.

    images: [N, C, H, W] uint8      offsets: [N, 2] int64 down and right, within -largest..largest
    """
    pixels = images.permute(0, 2, 3, 1)
    _, height, width, _ = pixels.shape
    if largest >= min(height, width):
        hint = f"--set augment.translate={min(height, width) // 8}"
        raise RecipeError("augment.translate", got=f"{largest} pixels", need=f"less than the size {width}", hint=hint)
    if fill == "zero":
        padded = F.pad(pixels, (0, 0, largest, largest, largest, largest))
    else:
        rows, columns = (_reflected(side, largest, images.device) for side in (height, width))
        padded = pixels.index_select(1, rows).index_select(2, columns)
    # windows[n, y, x] is the picture n as seen from y, x: a view, of which one is copied for each picture
    windows = padded.unfold(1, height, 1).unfold(2, width, 1).permute(0, 1, 2, 4, 5, 3)
    every = torch.arange(len(images), device=images.device)
    return windows[every, largest - offsets[:, 0], largest - offsets[:, 1]].permute(0, 3, 1, 2)


def affine(images: Tensor, matrices: Tensor, *, fill: Fill) -> Tensor:
    """Turn, scale and shear each picture about its centre, bilinearly; what comes into view is black or the picture's
    reflection.

    images: [N, C, H, W] of 0..255
    matrices: [N, 2, 3] float32, from places in the result to places in the picture, both in [-1, 1]
    returns [N, C, H, W] float32 of 0..255, channels_last
    """
    if not len(images):
        return images.float()
    padding = "reflection" if fill == "reflect" else "zeros"
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    moved = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode=padding, align_corners=False)
    return moved.contiguous(memory_format=torch.channels_last)


def colour_change(images: Tensor, brightness: Tensor, contrast: Tensor) -> tuple[Tensor, Tensor]:
    """Brightness, then contrast about the picture's mean, as gain and lift of its pixels in [0, 1] (Howard 2013, arXiv
    1312.5402). Nothing is clipped.

    images: [N, C, H, W] of 0..255      brightness, contrast: [N] factors
    returns gain [N], lift [N] for ``normalise``
    """
    average = images.permute(0, 2, 3, 1).float().mean((1, 2, 3)) / 255
    return brightness * contrast, brightness * average * (1 - contrast)


def erase(images: Tensor, boxes: Tensor) -> Tensor:
    """Set a box of each picture to 0, the mean colour of normalised pixels: [N, C, H, W] float -> the same.

    Cutout (DeVries and Taylor 2017, arXiv 1708.04552) and random erasing (Zhong et al. 2017, arXiv 1708.04896) differ
    in their boxes.
    boxes: [N, 4] top, left, bottom, right in pixels, the last two exclusive
    """
    return _pictures(_rows(images).masked_fill(_inside(boxes, images), 0), images.shape[1])


def mixup(images: Tensor, kept: Tensor, partners: Tensor | None = None) -> Tensor:
    """Blend samples 2i and 2i + 1, each keeping its share of itself (Zhang et al. 2018, arXiv 1710.09412); an odd last
    one stays as it is.

    images: [N, C, H, W] float      kept: [N] float in [0, 1]      partners: [N] int64, where they are others
    """
    return torch.lerp(images[_partners(images, partners)], images, kept[:, None, None, None])


def cutmix(images: Tensor, boxes: Tensor, partners: Tensor | None = None) -> Tensor:
    """Exchange a box between samples 2i and 2i + 1 (Yun et al. 2019, arXiv 1905.04899); an odd last one stays as it is.

    images: [N, C, H, W] float      boxes: [N, 4] top, left, bottom, right in pixels, the same for both of a pair
    partners: [N] int64, where they are others
    """
    rows = _rows(images)
    return _pictures(torch.where(_inside(boxes, images), rows[_partners(images, partners)], rows), images.shape[1])


def mixed_targets(labels: Tensor, kept: Tensor, num_classes: int, partners: Tensor | None = None) -> Tensor:
    """labels: [N] int64, kept: [N] float32, the share of a sample's own label -> [N, num_classes] float32, the rest its
    partner's; rows sum to 1.
    """
    classes = torch.arange(num_classes, device=labels.device)
    own, other = ((label[:, None] == classes).float() for label in (labels, labels[_partners(labels, partners)]))
    return torch.lerp(other, own, kept[:, None])


def _moved(drawn: dict[str, NDArray[np.float64]], device: torch.device) -> dict[str, Tensor]:
    """The arrays as float32 tensors on the device, each [N, k], by one copy that nobody waits for."""
    if not drawn:
        return {}
    together = torch.from_numpy(np.concatenate([*drawn.values()], axis=1).astype(np.float32))
    if device.type == "cuda":
        together = together.pin_memory().to(device, non_blocking=True)
    return dict(zip(drawn, together.split([array.shape[1] for array in drawn.values()], dim=1), strict=True))


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # an evaluation may be the first to ask, and training the next
def _multiply_add(
    mean: tuple[float, ...], std: tuple[float, ...], width: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """scale, shift and 1 / std, each [width * C], such that pixels of 0..255 * scale + shift are normalised."""
    means, stds = np.array(mean), np.array(std)
    rows = (1 / (255 * stds), -means / stds, 1 / stds)
    scale, shift, inverse = (torch.tensor(np.tile(row, width), dtype=torch.float32, device=device) for row in rows)
    return scale, shift, inverse


def _rows(images: Tensor) -> Tensor:
    """[N, C, H, W] channels_last -> [N, H, W * C], a view: with long rows every elementwise operation runs at full
    width (8x faster for C = 3).
    """
    count, channels, height, width = images.shape
    return images.permute(0, 2, 3, 1).reshape(count, height, width * channels)


def _pictures(rows: Tensor, channels: int) -> Tensor:
    """The inverse of ``_rows``."""
    count, height, _ = rows.shape
    return rows.view(count, height, rows.shape[2] // channels, channels).permute(0, 3, 1, 2)


def _inside(boxes: Tensor, images: Tensor) -> Tensor:
    """[N, H, W * C] bool: which pixels of ``_rows`` lie in their picture's box."""
    _, channels, height, width = images.shape
    top, left, bottom, right = boxes[:, :, None].unbind(1)
    y = torch.arange(height, device=boxes.device)
    x = torch.arange(width * channels, device=boxes.device) // channels
    return ((y >= top) & (y < bottom))[:, :, None] & ((x >= left) & (x < right))[:, None, :]


def _partners(batch: Tensor, partners: Tensor | None) -> Tensor:
    """0 <-> 1, 2 <-> 3 ...; an odd last one is its own; or the ``partners`` that are given."""
    if partners is not None:
        return partners
    every = torch.arange(len(batch), device=batch.device)
    return (every ^ 1).clamp_(max=len(batch) - 1)


def _reflected(side: int, by: int, device: torch.device) -> Tensor:
    """-by .. side + by - 1, mirrored into 0 .. side - 1 about the outermost pixels."""
    places = torch.arange(-by, side + by, device=device).abs()
    return (side - 1) - ((side - 1) - places).abs()
