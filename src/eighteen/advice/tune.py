"""``--tune auto``: how many threads decode, in how large parts a batch is computed, and, if asked, how large it is.

In: a recipe, a dataset, and which rank of which world this is; all ranks ask together. Out: ``Tuned``, the same on
every rank, see ``search``. What was found is kept between runs in ``tuned.json`` (``base.cache``), by all that decides
it.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from eighteen.advice import peers
from eighteen.advice.search import LIMIT_S, Search, Tuned
from eighteen.base import cache as caches
from eighteen.base import errors
from eighteen.base import recipe as recipes
from eighteen.base.errors import EighteenError
from eighteen.base.files import write_atomic
from eighteen.base.hardware import num_cpus, version_of
from eighteen.base.machine import memory_limit
from eighteen.base.recipe import Recipe
from eighteen.base.rundir import RunDir
from eighteen.base.world import World, from_environment, leave
from eighteen.data import dataset as datasets
from eighteen.data.dataset import Dataset
from eighteen.training import dist
from eighteen.training.calibration import device_name
from eighteen.training.job import job
from eighteen.training.train import torch_settings


def tune(
    recipe: Recipe,
    data: Dataset,
    world: World,
    *,
    model: nn.Module | None = None,
    with_batch: bool = False,
    limit_s: float = LIMIT_S,
    began: float | None = None,
) -> Tuned:
    """Called by all ranks of the world, and the same on each.

    What the recipe says itself stays: ``data.threads``, a phase's or ``train.micro_batch``, all where ``train.exact``.
    model: stands in for the recipe's      with_batch: find the batch, too
    began: when the time began, on CLOCK_MONOTONIC; if left out, as soon as what the run itself needs is loaded
    raises MachineError if not even a part of 2 pictures, or the evaluation, fits into memory
    """
    asked, device = time.monotonic(), dist.device_of(world)
    with dist.connected(world, device):
        known = _known(recipe, data, world, device, with_batch) if world.is_first and model is None else None
        if (shared := dist.share(known and asdict(known), world, device)) is not None:
            return _again(_TUNED.validate_python(shared), asked)
        this = job(recipe, data, RunDir(Path(os.devnull)), world)  # in which nothing is written
        with torch_settings(this):  # which loads a compiler, for seconds
            began = time.monotonic() if began is None else began
            search = Search(this, copy.deepcopy(model), limit_s, began)
            found = search.tuned(with_batch=with_batch)
        found = replace(found, seconds=time.monotonic() - began)
        if world.is_first and model is None and search.had_time:
            caches.write(cache(), _key(recipe, data, world, device, with_batch), asdict(found))
        return found


def on_new_ranks(recipe: Recipe, data: Dataset, *, num_ranks: int, on_cpu: bool, with_batch: bool) -> Tuned:
    """The same for ranks that are not there yet: tried by processes that are started for it, on this machine."""
    began = time.monotonic()
    world, device = World(0, num_ranks, 0, num_ranks), torch.device("cpu" if on_cpu else "cuda")
    if (found := _known(recipe, data, world, device, with_batch)) is not None:
        return _again(found, began)
    with TemporaryDirectory(prefix="eighteen-") as folder:
        write_atomic(path := Path(folder) / "recipe.toml", recipes.dump(recipe))
        words = (str(path), str(data.path), json.dumps(with_batch), repr(began))
        told = json.loads(peers.asked(num_ranks, "eighteen.advice.tune", *words, on_cpu=on_cpu))
    if "error" in told:
        kind, (tried, got, need, hint) = told["error"]
        raise getattr(errors, kind)(tried, got=got, need=need, hint=hint)
    return replace(_TUNED.validate_python(told), seconds=time.monotonic() - began)


def _again(found: Tuned, began: float) -> Tuned:
    """What was found before."""
    return replace(found, seconds=time.monotonic() - began, is_cached=True)


def cache() -> Path:
    return caches.place("tuned.json")


_TUNED = TypeAdapter(Tuned)


def _known(recipe: Recipe, data: Dataset, world: World, device: torch.device, with_batch: bool) -> Tuned | None:
    """What an earlier run has found; None where there was none, or the file says something else."""
    try:
        return _TUNED.validate_python(caches.read(cache(), _key(recipe, data, world, device, with_batch)))
    except ValidationError:
        return None


def _key(recipe: Recipe, data: Dataset, world: World, device: torch.device, with_batch: bool) -> str:
    train = {"precision", "deterministic", "exact", "micro_batch", "ghost_batch"}
    limit = memory_limit()
    return caches.key(
        {
            "model": recipe.model.model_dump(mode="json", exclude={"init"}),
            "optim": [recipe.optim.name, bool(recipe.optim.ema), bool(recipe.optim.clip)],
            "phases": [phase.model_dump(mode="json") for phase in recipe.phases],
            "others": [each.model_dump(mode="json") for each in (recipe.augment, recipe.eval, recipe.data)],
            "train": recipe.train.model_dump(mode="json", include=train),
            "dataset": data.digest,
            "machine": [device_name(device), num_cpus(), limit and limit[0]],
            "ranks": [world.size, world.local_size],
            "versions": [version_of("eighteen"), torch.__version__],
            "with_batch": with_batch,
        }
    )


def _main(arguments: Sequence[str]) -> None:
    """One rank of ``on_new_ranks``: what was found, or why nothing was, as JSON."""
    path, dataset, with_batch, began = arguments
    world = from_environment()
    try:
        recipe, data = recipes.load(path), datasets.open(dataset, brings=True)
        told = asdict(tune(recipe, data, world, with_batch=json.loads(with_batch), began=float(began)))
    except EighteenError as error:
        told = {"error": [type(error).__name__, [error.tried, error.got, error.need, error.hint]]}
    if world.is_first:
        print(json.dumps(told))


if __name__ == "__main__":
    _main(sys.argv[1:])
    leave(0)
