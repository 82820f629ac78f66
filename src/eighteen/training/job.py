"""What a run is given and never changes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from eighteen.base.errors import RecipeError
from eighteen.base.hardware import num_cpus
from eighteen.base.order import Order
from eighteen.base.recipe import Recipe
from eighteen.base.rundir import RunDir
from eighteen.base.world import World
from eighteen.data.dataset import Dataset
from eighteen.data.wanted import order_of
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
    order: Order
    class_weights: torch.Tensor | None

    @property
    def num_classes(self) -> int:
        return len(self.data.classes)

    @property
    def channels(self) -> int:
        return self.data.channels if self.recipe.data.gray else 3

    @property
    def num_threads(self) -> int | None:
        """That compute on a CPU, or None for this rank's share of them. Kernels cut their sums by them, so an exact run
        has as many on any number of ranks.
        """
        train = self.recipe.train
        return max(1, num_cpus() // train.virtual_workers) if train.exact and self.device.type == "cpu" else None


def check_world(recipe: Recipe, num_ranks: int) -> None:
    """RecipeError if a batch, or the virtual workers of an exact run, cannot be shared by so many ranks."""
    parts, whose = num_ranks, f"the {num_ranks} ranks"
    if recipe.train.exact:
        parts, whose = recipe.train.virtual_workers, f"the {recipe.train.virtual_workers} virtual workers"
        if parts % num_ranks:
            need = f"a multiple of the number of ranks, {num_ranks}"
            ranks = 2 ** (min(num_ranks, parts).bit_length() - 1)
            raise RecipeError("train.virtual_workers", got=str(parts), need=need, hint=f"start {ranks} ranks")
    for number, phase in enumerate(recipe.phases):
        if phase.batch < 2 * parts:
            need, hint = f"at least 2 for each of {whose}", f"--batch {64 * parts}"
            raise RecipeError(f"phases[{number}].batch", got=str(phase.batch), need=need, hint=hint)


def job(recipe: Recipe, data: Dataset, run: RunDir, world: World) -> Job:
    """Raises RecipeError if the recipe does not fit the world."""
    check_world(recipe, world.size)
    train, device, weights = data.splits["train"], device_of(world), None
    if recipe.data.balance == "weights":
        counts = torch.bincount(torch.from_numpy(train.labels.copy()), minlength=len(data.classes)).float()
        weights = (train.num_samples / (len(data.classes) * counts.clamp(min=1))).to(device)
    return Job(
        recipe=recipe,
        data=data,
        run=run,
        world=world,
        device=device,
        dtype=autocast_dtype(recipe.train.precision, device),
        order=order_of(recipe, train),
        class_weights=weights,
    )
