"""Validation pictures whose label is likely wrong, as a trained model sees them: confident learning.

A label is doubted where the model gives another class at least the probability that it gives, on average, to the
pictures which bear that one (Northcutt et al. 2021, arXiv 1911.00068), and next to none to the label itself. Only the
validation split tells: of its train pictures a model has learned the wrong labels too.
"""

from __future__ import annotations

import time
from typing import NamedTuple, cast

import torch

from eighteen.base.recipe import Eval
from eighteen.base.rundir import RunDir
from eighteen.base.world import World
from eighteen.data.augment import normalise
from eighteen.data.dataset import Dataset
from eighteen.data.loader import eval_batches
from eighteen.data.tolerance import Bad
from eighteen.training import checkpoint, dist, models
from eighteen.training.precision import autocast_dtype

DOUBT = 0.02  # most probability that the model leaves to a label which is doubted
LIMIT_S = 20.0


class Doubt(NamedTuple):
    """A picture, as its source names it, its label, and what the model takes it for with which probability."""

    picture: str
    label: str
    likely: str
    probability: float


class Doubts(NamedTuple):
    """doubted: the surest first"""

    doubted: list[Doubt]
    looked_at: int


@torch.inference_mode()
def doubted(run: RunDir, data: Dataset, settings: Eval, *, limit_s: float = LIMIT_S) -> Doubts:
    """By the best weights of a run; of as many pictures as there is time for. Nothing without a validation split."""
    if "val" not in data.splits or not checkpoint.committed(run):
        return Doubts([], 0)
    saved, device = checkpoint.best(run), dist.device_of(World())
    if saved.card.classes != data.classes:
        return Doubts([], 0)
    model = models.restore(saved.card, saved.weights()).to(device).eval()
    dtype, split, ends = autocast_dtype("auto", device), data.splits["val"], time.monotonic() + limit_s
    found: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    how = {"device": device, "channels": saved.card.channels, "on_bad": _left_out}
    for batch in eval_batches(split, settings, World(), **how):
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            logits = cast(torch.Tensor, model(normalise(batch.images, saved.card.mean, saved.card.std)))
        found.append((logits.float().softmax(1).cpu(), batch.labels.cpu(), batch.ids))
        if time.monotonic() > ends:
            break
    chances, labels, ids = (torch.cat(parts) for parts in zip(*found, strict=True))
    origin, classes = split.renditions["full"].origin, data.classes
    return Doubts(
        [
            Doubt(origin(sample) or f"val {sample}", classes[label], classes[likely], probability)
            for sample, label, likely, probability in _doubts(chances, labels, ids)
        ],
        len(labels),
    )


def _doubts(chances: torch.Tensor, labels: torch.Tensor, ids: torch.Tensor) -> list[tuple[int, int, int, float]]:
    """(sample, label, likely class, its probability), the surest first.

    chances: [n, K] probabilities      labels, ids: [n] int64
    """
    num_classes = chances.shape[1]
    sums = torch.zeros(num_classes).index_add_(0, labels, chances.gather(1, labels[:, None])[:, 0])
    usual = sums / labels.bincount(minlength=num_classes).clamp(min=1)
    own = chances.gather(1, labels[:, None])[:, 0]
    best, likely = chances.max(1)
    rows = ((likely != labels) & (best >= usual[likely]) & (own <= DOUBT)).nonzero()[:, 0]
    rows = rows[best[rows].argsort(descending=True)].tolist()
    return [(int(ids[row]), int(labels[row]), int(likely[row]), float(best[row])) for row in rows]


def _left_out(bad: Bad) -> None:
    """Bad samples are told of elsewhere."""
