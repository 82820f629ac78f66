"""``--recipe auto``: which bundled recipe fits the data and the machine, and why."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from eighteen.base.recipe import Recipe
from eighteen.data.dataset import Dataset
from eighteen.data.index import MOST_CHECKED, some_rows

MIN_STEPS = 600  # fewer leave even a small net half-trained
LEAST_STEPS, LEAST_BATCH = 8, 16  # of an epoch; and what batch norm needs
LARGE = 50_000  # samples from which a ResNet-50 on a GPU pays
TINY_SIDE = 64  # pixels; such pictures are stored raw and trained at their own size


class Facts(NamedTuple):
    """side: the median short side of the train pictures, in pixels; is_raw: all of one tiny size, stored raw."""

    num_samples: int
    side: int
    is_raw: bool
    has_gpu: bool
    has_init: bool


class Choice(NamedTuple):
    recipe: str
    why: str


def facts(data: Dataset, *, has_init: bool) -> Facts:
    """What decides, read from a dataset's index and this machine."""
    import torch

    full = data.splits["train"].renditions["full"]
    rows = full.index if len(full.index) <= MOST_CHECKED else some_rows(full.index)
    sides = np.minimum(rows["width"], rows["height"])
    return Facts(len(full.index), int(np.median(sides)), full.kind == "raw", torch.cuda.is_available(), has_init)


def choose(facts: Facts) -> Choice:
    """The recipe for what is known, with one line that says why."""
    data = f"{facts.num_samples:,} pictures of about {facts.side} px"
    machine = "a GPU" if facts.has_gpu else "no GPU"
    if facts.is_raw:
        return Choice("tiny", f"{data}, all of one size")
    if facts.has_init:
        return Choice("finetune", "there are weights to start from")
    if facts.has_gpu and facts.num_samples >= LARGE:
        return Choice("fast", f"{data}, {machine}")
    return Choice("small", f"{data}, {machine}")


def small_batch(recipe: Recipe, num_samples: int) -> int | None:
    """A smaller batch, where the recipe's own would have a dataset in less than 8 steps; None where it fits."""
    most = max(LEAST_BATCH, 2 ** (max(1, num_samples // LEAST_STEPS).bit_length() - 1))
    return most if recipe.phases[0].batch > most else None


def enough_epochs(recipe: Recipe, num_samples: int) -> float | None:
    """More epochs, where the recipe's own give so small a dataset too few steps to learn; None where they suffice."""
    steps = sum(phase.epochs * num_samples / phase.batch for phase in recipe.phases)
    return float(math.ceil(recipe.epochs * MIN_STEPS / steps)) if steps < MIN_STEPS else None
