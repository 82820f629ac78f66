"""What a recipe reads of a dataset: its renditions, and the order in which its first epoch needs their shards. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from eighteen.base.order import Order
from eighteen.base.recipe import Recipe
from eighteen.data.dataset import Dataset, Rendition, Split
from eighteen.data.loader import choose_rendition, rendition_for

LITTLE_BYTES, FEW_SHARDS = 256 * 2**20, 4  # up to either, all come before training starts


def order_of(recipe: Recipe, split: Split) -> Order:
    """The order of a run's train samples."""
    labels = split.labels if recipe.data.balance == "sampling" else None
    starts = None
    if recipe.data.order == "by-shards":
        starts = shard_starts(rendition_for(split, recipe.flat_phases[0], recipe.data.rendition))
    return Order(recipe.train.seed, split.num_samples, labels, starts)


def shard_starts(rendition: Rendition) -> NDArray[np.int64]:
    """The first sample of each shard, and the number of samples: [S + 1]."""
    column = rendition.index["shard"]
    starts = np.searchsorted(column, np.arange(len(rendition.shards), dtype=column.dtype))
    # an index whose shards are not in order is none that a pack writes: what is read stays right, only its turn is not
    return np.append(np.maximum.accumulate(starts), len(column)).astype(np.int64)


def shards(recipe: Recipe, data: Dataset) -> list[str]:
    """The files of the samples that a run reads: those of the first phase first, in the order of its first epoch, then
    those of evaluations and of other phases, each once.
    """
    train = data.splits["train"]
    first, *others = _renditions(recipe, data)
    order = order_of(recipe, train).shards if recipe.data.order == "by-shards" else range(len(first.shards))
    files = [first.shards[shard] for shard in order]
    return [*dict.fromkeys([*files, *(file for other in others for file in other.shards)])]


def pays_to_stream(recipe: Recipe, data: Dataset) -> bool:
    """Whether training should start before all that it reads is here, which makes its first epoch one by shards.

    Not where little is lacking, where classes are drawn evenly, or where steps are timed before the first.
    """
    if data.arriving is None or recipe.data.balance == "sampling" or recipe.budget.seconds is not None:
        return False
    first = rendition_for(data.splits["train"], recipe.flat_phases[0], recipe.data.rendition)
    lacking = data.arriving.lacking(first.shards)
    return len(lacking) > FEW_SHARDS and data.arriving.num_bytes_to_come(lacking) > LITTLE_BYTES


def _renditions(recipe: Recipe, data: Dataset) -> Iterator[Rendition]:
    phases = recipe.flat_phases
    train, val = data.splits["train"], data.splits.get("val")
    yield rendition_for(train, phases[0], recipe.data.rendition)
    for settings in [] if val is None else map(recipe.eval_in, phases):
        assert val
        yield choose_rendition(val, "auto", size=settings.size, share=settings.crop**2, square=True)
    for row in phases[1:]:
        yield rendition_for(train, row, recipe.data.rendition)
