"""What a run is worth and what it can do: evaluated, loaded; and what its augmentation shows it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from eighteen.api.sources import open
from eighteen.base import recipe as recipes
from eighteen.base import rundir, world
from eighteen.base.errors import DataError, UsageError
from eighteen.base.files import unwritable_is_said
from eighteen.base.rundir import RunDir
from eighteen.data.dataset import Dataset

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import nn

    from eighteen.results.classifier import Classifier
    from eighteen.training.evaluate import Evaluation


def evaluate(
    run: str | os.PathLike[str],
    data: Dataset | str | os.PathLike[str],
    *,
    split: str | None = None,
    checkpoint: str | None = None,
    size: int | None = None,
    crop: float | None = None,
    rect: bool | None = None,
    tta: str | None = None,
    model: nn.Module | None = None,
    say: Callable[[str], object] = lambda line: None,
) -> Evaluation:
    """Evaluate a run's best weights on a split ("val" if there is one) and write the tables into ``run/eval/``.

    size, crop, rect, tta: instead of those of the recipe's last phase and ``[eval]``; RecipeError if one is not valid
    model: the module itself, where the recipe does not say how to build it      On several ranks under torchrun.
    say: called with a line for each bad sample that is left out, as ``data.tolerate`` of the run's recipe allows
    """
    from eighteen.data.tolerance import Tolerance
    from eighteen.results import tables
    from eighteen.training import checkpoint as checkpoints
    from eighteen.training import dist, models
    from eighteen.training.evaluate import evaluate as count
    from eighteen.training.precision import autocast_dtype

    folder, here = rundir.open(run), world.from_environment()
    dataset = data if isinstance(data, Dataset) else open(data)
    saved = checkpoints.open(folder.checkpoints / checkpoint) if checkpoint else checkpoints.best(folder)
    chosen = _split(dataset, split)
    _check_classes(saved.card.classes, dataset, folder)
    recipe, device = recipes.load(str(folder.recipe)), dist.device_of(here)
    settings = recipes.evaluated(recipe, size=size, crop=crop, rect=rect, tta=tta)
    bad = eval_folder(folder, dataset.path, chosen) / "bad.csv"
    if here.is_first:
        bad.unlink(missing_ok=True)  # of an evaluation before
    tolerance = Tolerance(bad, {chosen: dataset.splits[chosen].num_samples}, recipe.data, say)
    with dist.connected(here, device):
        restored = models.restore(saved.card, saved.weights(), model=model).to(device)
        dtype = autocast_dtype(recipe.train.precision, device)
        found = count(
            restored,
            dataset.splits[chosen],
            saved.card,
            settings,
            here,
            device=device,
            dtype=dtype,
            on_bad=tolerance,
        )
    if here.is_first:
        with unwritable_is_said(folder.eval, hint=f"df -h {folder.eval}; ls -ld {folder.eval}"):
            tables.write(found, eval_folder(folder, dataset.path, chosen))
    return found


def eval_folder(run: RunDir, data: Path, split: str) -> Path:
    """Where ``evaluate`` writes its tables."""
    return run.eval / f"{data.stem}-{split}"


def load(
    run: str | os.PathLike[str],
    *,
    checkpoint: str | None = None,
    model: nn.Module | None = None,
    device: str | None = None,
) -> Classifier:
    """The classifier that a run trained: its best weights, with the preprocessing they were trained with.

    model: the module itself, where the recipe does not say how to build it
    """
    import torch

    from eighteen.results.classifier import Classifier
    from eighteen.training import checkpoint as checkpoints
    from eighteen.training import models

    folder = rundir.open(run)
    saved = checkpoints.open(folder.checkpoints / checkpoint) if checkpoint else checkpoints.best(folder)
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Classifier(models.restore(saved.card, saved.weights(), model=model), saved.card, device=place)


def preview(
    data: Dataset | str | os.PathLike[str],
    *,
    recipe: str = "auto",
    changes: Sequence[str] = (),
    count: int = 32,
    seed: int = 0,
) -> Image:
    """A contact sheet of training pictures as the recipe's first phase augments them, with their labels."""
    from eighteen.results.preview import contact_sheet
    from eighteen.training.resolve import resolve

    if count < 1:
        raise UsageError("preview", got=f"count={count}", need="at least 1", hint="--count 32")
    dataset = data if isinstance(data, Dataset) else open(data)
    resolved = resolve(recipe, dataset, say=lambda line: None, changes=changes)
    return contact_sheet(dataset, resolved, count=count, seed=seed)


def _split(dataset: Dataset, name: str | None) -> str:
    chosen = name or ("val" if "val" in dataset.splits else "test" if "test" in dataset.splits else "train")
    if chosen not in dataset.splits:
        raise UsageError(
            f"evaluate the split {chosen}",
            got=f"a dataset with {', '.join(dataset.splits)}",
            need="one of those",
            hint="--split val",
        )
    return chosen


def _check_classes(classes: tuple[str, ...], dataset: Dataset, run: RunDir) -> None:
    if classes != dataset.classes:
        differing = next(
            (pair for pair in zip(classes, dataset.classes, strict=False) if pair[0] != pair[1]),
            (len(classes), len(dataset.classes)),
        )
        got = f"other classes in {dataset.path} ({differing[1]!r} where the run has {differing[0]!r})"
        raise DataError(
            f"evaluate {run.path}",
            got=got,
            need="the classes it was trained on, in the same order",
            hint="eighteen predict, for pictures of any kind",
        )
