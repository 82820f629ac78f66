"""A contact sheet: train pictures as a model sees them, cropped and augmented, with their labels beneath.

In: a dataset and a recipe. Out: an RGB picture. The pictures are the first of the run that this recipe would be.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from eighteen.base.order import Order
from eighteen.base.recipe import Recipe
from eighteen.base.schedule import schedule
from eighteen.base.world import World
from eighteen.data.augment import augment
from eighteen.data.dataset import Dataset
from eighteen.data.loader import TrainLoader
from eighteen.results.fonts import fitted, font_for, fonts

MIN_SIDE = 112  # pixels; smaller pictures are shown as a whole multiple of their size, so that a name fits beneath
_TEXT, _LINE, _GAP = 12, 15, 8  # pixels
_INK, _PAPER = (30, 34, 40), (255, 255, 255)


def contact_sheet(
    dataset: Dataset, recipe: Recipe, *, count: int = 32, seed: int | None = None, phase: int = 0
) -> Image.Image:
    """``count`` augmented train pictures as one phase would have them, in a grid, with the names of their classes.

    Beneath mixed pictures stand both names and their shares. seed: of the run; by default the recipe's
    """
    images, targets = _augmented(dataset, recipe, count, recipe.train.seed if seed is None else seed, phase)
    captions = [_caption(target, dataset.classes) for target in targets.tolist()]
    return _sheet(images, captions)


def _augmented(dataset: Dataset, recipe: Recipe, count: int, seed: int, phase: int) -> tuple[NDArray[np.uint8], Tensor]:
    """images [N, S, S, 3] uint8, targets as ``augment`` gives them."""
    split = dataset.splits["train"]
    one_batch = recipe.phases[phase].model_copy(update={"batch": count, "epochs": count / split.num_samples})
    plan = schedule(recipe.model_copy(update={"phases": (one_batch,)}), split.num_samples)
    channels = dataset.channels if recipe.data.gray else 3
    mean, std = recipe.data.mean or dataset.mean, recipe.data.std or dataset.std
    mean, std = (per_channel * (channels // len(per_channel)) for per_channel in (mean, std))
    device, order = torch.device("cpu"), Order(seed, split.num_samples)
    with TrainLoader(
        split,
        plan,
        order,
        World(),
        augment=recipe.augment,
        device=device,
        channels=channels,
        rendition=recipe.data.rendition,
    ) as loader:
        _, batch = next(loader)
    images, targets = augment(batch, recipe.augment, seed=seed, num_classes=dataset.num_classes, mean=mean, std=std)
    pixels = images.permute(0, 2, 3, 1).numpy() * np.array(std, np.float32) + np.array(mean, np.float32)
    pixels = (pixels.clip(0, 1) * 255).round().astype(np.uint8)
    return np.broadcast_to(pixels, (*pixels.shape[:3], 3)), targets


def _caption(target: int | list[float], classes: tuple[str, ...]) -> list[str]:
    """The lines beneath a picture: the name of its class, or of both it was mixed from, the larger share first."""
    if isinstance(target, int):
        return [_printable(classes, target)]
    likely = sorted((label for label in range(len(classes)) if target[label] >= 0.005), key=lambda k: -target[k])
    if len(likely) == 1:
        return [_printable(classes, likely[0])]
    return [f"{target[label]:.0%} {_printable(classes, label)}" for label in likely]


def _printable(classes: tuple[str, ...], label: int) -> str:
    """A class's name, or its number where no font has its letters."""
    name = classes[label]
    return name if name.isprintable() and name.strip() and font_for(name, _TEXT) else f"#{label}"


def _sheet(images: NDArray[np.uint8], captions: list[list[str]]) -> Image.Image:
    count, side = images.shape[:2]
    shown = side * max(1, math.ceil(MIN_SIDE / side))
    step_x, step_y = shown + _GAP, shown + _GAP + _LINE * max(len(caption) for caption in captions)
    columns = min(count, round(math.sqrt(count * 1.6)))  # about as wide as a screen
    sheet = Image.new("RGB", (columns * step_x + _GAP, -(-count // columns) * step_y + _GAP), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, (pixels, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = _GAP + number % columns * step_x, _GAP + number // columns * step_y
        tile = Image.fromarray(np.ascontiguousarray(pixels)).resize((shown, shown), Image.Resampling.NEAREST)
        sheet.paste(tile, (x, y))
        for line, text in enumerate(caption):
            font = font_for(text, _TEXT) or fonts(_TEXT)[0]
            pen.text((x, y + shown + 2 + line * _LINE), fitted(text, font, shown), _INK, font)
    return sheet
