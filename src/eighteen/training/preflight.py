"""What can be refused before a run exists: all that a dataset, a model or the number of ranks rules out of a recipe."""

from __future__ import annotations

import math

from torch import nn

from eighteen.base.errors import RecipeError
from eighteen.base.hardware import available_bytes
from eighteen.base.recipe import Recipe
from eighteen.data.dataset import Dataset
from eighteen.training import models
from eighteen.training.optim import parameter_groups
from eighteen.training.weights import weights_of


def preflight(recipe: Recipe, data: Dataset, *, num_ranks: int, model: nn.Module | None = None) -> None:
    """Build the recipe's model once, and raise RecipeError or DataError if it could not be trained on ``data``."""
    for number, phase in enumerate(recipe.phases):
        if phase.batch < 2 * num_ranks:
            need, hint = f"at least 2 for each of the {num_ranks} ranks", f"--batch {64 * num_ranks}"
            raise RecipeError(f"phases[{number}].batch", got=str(phase.batch), need=need, hint=hint)
    channels = data.channels if recipe.data.gray else 3
    for number, phase in enumerate(recipe.phases):
        # batches that are under way in the loader, at the least
        num_bytes = 5 * channels * phase.size**2 * math.ceil(phase.batch / num_ranks)
        if num_bytes > (room := available_bytes()):
            got, need = f"{num_bytes:,} bytes of pixels in a batch", f"at most the {room:,} bytes that are free"
            raise RecipeError(f"phases[{number}].batch", got=got, need=need, hint="--batch 64, or a smaller size")
    for name in ("mean", "std"):
        given = getattr(recipe.data, name)
        if given is not None and len(given) not in (1, channels):
            got, need = f"{len(given)} values", f"one for each of {channels} channels"
            raise RecipeError(f"data.{name}", got=got, need=need, hint=f"leave out data.{name}")
    if model is None:
        model = models.build(recipe.model, num_classes=len(data.classes), in_chans=channels)
    sizes = sorted({*(phase.size for phase in recipe.phases), recipe.eval.size})
    models.try_out(model, recipe.model.name, num_classes=len(data.classes), in_chans=channels, sizes=sizes)
    if init := models.weights_asked_for(recipe.model):
        models.fresh_names(model, weights_of(init), origin=init)
    frozen = {weight: weight.requires_grad for weight in model.parameters()}
    if recipe.model.freeze_to:
        models.freeze_to(model, recipe.model.freeze_to)
    parameter_groups(model, weight_decay=0.0, lr_scale=recipe.model.lr_scale)
    for weight, trains in frozen.items():  # a person's own module is given back as it came
        weight.requires_grad_(trains)
