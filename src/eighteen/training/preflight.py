"""What can be refused before a run exists: all that a dataset, a model, the number of ranks or the disk rules out."""

from __future__ import annotations

import math
from pathlib import Path

from torch import nn

from eighteen.base.errors import RecipeError, UsageError
from eighteen.base.files import require_room
from eighteen.base.hardware import available_bytes
from eighteen.base.recipe import Optim, Recipe
from eighteen.base.rundir import RunDir
from eighteen.data.dataset import Dataset
from eighteen.data.loader import require_renditions
from eighteen.training import checkpoint, models
from eighteen.training.job import check_world
from eighteen.training.optim import parameter_groups
from eighteen.training.weights import weights_of

NUM_CHECKPOINTS = 4  # at once: the last two, the best, and one that is being written
OTHERS_BYTES = 16 * 2**20  # of a run: events, logs, tables


def preflight(
    recipe: Recipe, data: Dataset, *, num_ranks: int, disk: Path | None = None, model: nn.Module | None = None
) -> None:
    """Build the recipe's model once, and raise RecipeError or DataError if it could not be trained on ``data``.

    disk: where the run will lie; MachineError if its checkpoints do not fit there
    """
    check_world(recipe, num_ranks)
    if recipe.budget.until and "val" not in data.splits:
        got, need = f"a dataset with {' and '.join(data.splits)}", "a split val, which is evaluated"
        raise UsageError("--until", got=got, need=need, hint=f"eighteen pack SOURCE {data.path} --val 0.1 --force")
    named = {f"phases.{number}.rendition": one.rendition for number, one in enumerate(recipe.phases) if one.rendition}
    for split in data.splits.values():
        require_renditions(split, {**named, "data.rendition": recipe.data.rendition})
    channels = data.channels if recipe.data.gray else 3
    for number, phase in enumerate(recipe.phases):
        # batches that are under way in the loader, at the least
        num_bytes = 5 * channels * max(phase.sizes) ** 2 * math.ceil(phase.batch / num_ranks)
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
    sizes = sorted(
        {
            *(side for phase in recipe.phases for side in phase.sizes),
            *(recipe.eval_in(phase).size for phase in recipe.phases),
        }
    )
    models.try_out(model, recipe.model.name, num_classes=len(data.classes), in_chans=channels, sizes=sizes)
    if init := models.weights_asked_for(recipe.model):
        models.fresh_names(model, weights_of(init), origin=init)
    frozen = {weight: weight.requires_grad for weight in model.parameters()}
    if recipe.model.freeze_to:
        models.freeze_to(model, recipe.model.freeze_to)
    parameter_groups(model, weight_decay=0.0, lr_scale=recipe.model.lr_scale)
    num_bytes = checkpoint_bytes(model, recipe.optim)
    for weight, trains in frozen.items():  # a person's own module is given back as it came
        weight.requires_grad_(trains)
    if disk is not None:
        hint = f"df -h {disk}; make room there, or --runs-dir on another disk"
        require_room(disk, NUM_CHECKPOINTS * num_bytes + OTHERS_BYTES, tried=f"train into {disk}", hint=hint)


def room_to_resume(run: RunDir) -> None:
    """MachineError if the disk of a run that has checkpoints has no room for those to come."""
    if not (saved := checkpoint.committed(run)):
        return
    num_bytes = sum(file.stat().st_size for file in saved[-1].iterdir())
    num_new = max(1, NUM_CHECKPOINTS - len(saved))  # one is always written before another goes
    hint = f"df -h {run.path}; make room there, then eighteen train --resume {run.path}"
    require_room(run.path, num_new * num_bytes + OTHERS_BYTES, tried=f"resume {run.path}", hint=hint)


def checkpoint_bytes(model: nn.Module, optim: Optim) -> int:
    """Bytes of one checkpoint: the weights, their moving average, and what the optimiser keeps of those that train."""
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    trained = sum(weight.nbytes for weight in model.parameters() if weight.requires_grad)
    copies = {"sgd": 1 if optim.momentum else 0, "lars": 1 if optim.momentum else 0, "muon": 1, "adamw": 2}[optim.name]
    return weights * (2 if optim.ema else 1) + trained * copies
