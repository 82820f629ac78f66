"""From what a person asked for to the recipe that runs: chosen, changed, fitted to the dataset, nothing left open."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eighteen.base import recipe as recipes
from eighteen.base import rundir
from eighteen.base.recipe import Model, Recipe
from eighteen.data.dataset import Dataset
from eighteen.training import auto, chirality
from eighteen.training.weights import normalisation_of

LARGEST_OF_SGD = 8_192  # with it SGD still trains ImageNet as well (Goyal et al. 2017, arXiv 1706.02677)


def resolve(
    recipe: str | Recipe,
    dataset: Dataset,
    *,
    say: Callable[[str], object],
    model: str | None = None,
    init: str | os.PathLike[str] | None = None,
    epochs: float | None = None,
    batch: int | None = None,
    is_timed: bool = False,
    **changes: Any,
) -> Recipe:
    """The recipe as it will be run on this dataset; ``say`` is told what was decided here.

    Weights to start from bring their model and the mean and std they were trained with, unless others are asked for.
    is_timed: the epochs will be as many as fit into the run's time      changes: see ``base.recipe.load``
    """
    facts = auto.facts(dataset, has_init=init is not None)
    is_auto = recipe == "auto"
    if is_auto:
        recipe, why = auto.choose(facts)
        say(f"recipe {recipe}: {why}")
    resolved = recipes.load(
        recipe,
        model=model or _model_of(init),
        init=None if init is None else os.fspath(init),
        epochs=epochs,
        batch=batch,
        side=facts.side if facts.is_raw else None,
        **changes,
    )
    if is_auto and batch is None and (fewer := auto.small_batch(resolved, facts.num_samples)):
        say(f"batches of {fewer} instead of {resolved.phases[0].batch}, because {facts.num_samples:,} pictures are few")
        resolved = recipes.load(resolved, batch=fewer)
    if is_auto and epochs is None and not is_timed and (more := auto.enough_epochs(resolved, facts.num_samples)):
        say(f"{more:g} epochs instead of {resolved.epochs:g}, because {facts.num_samples:,} pictures are few")
        resolved = recipes.stretched(resolved, more)
    largest = max(phase.batch for phase in resolved.phases)
    if resolved.optim.name == "sgd" and largest > LARGEST_OF_SGD:
        say(f"a batch of {largest:,} is large for sgd, which may not learn with it: --set optim.name=lars, or muon")
    if largest > facts.num_samples and (fewer := auto.small_batch(resolved, facts.num_samples)):
        say(f"a batch of {largest:,} has all {facts.num_samples:,} pictures more than once: --batch {fewer}")
    if resolved.augment.flip == "auto":
        resolved = _mirrored_or_not(resolved, dataset, say)
    if not resolved.augment.flip and resolved.eval.tta != "none":
        say(f"no test-time augmentation: {resolved.eval.tta} has mirror images, and augment.flip = false")
        resolved = resolved.model_copy(update={"eval": resolved.eval.model_copy(update={"tta": "none"})})
    return _normalised(resolved)


def _mirrored_or_not(recipe: Recipe, dataset: Dataset, say: Callable[[str], object]) -> Recipe:
    found = chirality.find(dataset, seed=recipe.train.seed)
    meaning = "mean something else" if found.is_chiral else "mean the same"
    right = f"right on {found.plain:.1%} of unseen pictures, {found.mirrored:.1%} of their mirror images"
    say(f"mirrored pictures {meaning}: a small classifier is {right}, {found.taught:.1%} after learning from both")
    flip = False if found.is_chiral else "alternate"
    return recipe.model_copy(update={"augment": recipe.augment.model_copy(update={"flip": flip})})


def _normalised(recipe: Recipe) -> Recipe:
    known = normalisation_of(recipe.model)
    if known is None or recipe.data.mean is not None or recipe.data.std is not None:
        return recipe
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"mean": known[0], "std": known[1]})})


def _model_of(init: str | os.PathLike[str] | None) -> Model | None:
    """The model of the run whose weights are the start."""
    return recipes.load(str(rundir.open(init).recipe)).model if init is not None and Path(init).is_dir() else None
