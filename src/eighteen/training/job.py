"""What a run is given and never changes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from eighteen.base.order import Order
from eighteen.base.recipe import Recipe
from eighteen.base.rundir import RunDir
from eighteen.base.schedule import Schedule, schedule
from eighteen.base.world import World
from eighteen.data.dataset import Dataset
from eighteen.training.dist import device_of
from eighteen.training.precision import autocast_dtype


@dataclass(frozen=True, eq=False)
class Job:
    """dtype: what autocast computes in, None for plain float32

    class_weights: [K] float32 of mean 1 over the samples, or None
    """

    recipe: Recipe
    data: Dataset
    run: RunDir
    world: World
    device: torch.device
    dtype: torch.dtype | None
    plan: Schedule
    order: Order
    class_weights: torch.Tensor | None

    @property
    def num_classes(self) -> int:
        return len(self.data.classes)

    @property
    def channels(self) -> int:
        return self.data.channels if self.recipe.data.gray else 3


def job(recipe: Recipe, data: Dataset, run: RunDir, world: World) -> Job:
    train, device, balance = data.splits["train"], device_of(world), recipe.data.balance
    weights = None
    if balance == "weights":
        counts = torch.bincount(torch.from_numpy(train.labels.copy()), minlength=len(data.classes)).float()
        weights = (train.num_samples / (len(data.classes) * counts.clamp(min=1))).to(device)
    return Job(
        recipe=recipe,
        data=data,
        run=run,
        world=world,
        device=device,
        dtype=autocast_dtype(recipe.train.precision, device),
        plan=schedule(recipe, train.num_samples),
        order=Order(recipe.train.seed, train.num_samples, train.labels if balance == "sampling" else None),
        class_weights=weights,
    )
