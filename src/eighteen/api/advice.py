"""Why training is slow: the doctor, for a run or a dataset."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING

from eighteen.api.ranks import num_ranks
from eighteen.api.sources import open
from eighteen.base import rundir, world
from eighteen.base.errors import UsageError
from eighteen.base.hardware import let_threads_sleep
from eighteen.base.recipe import Recipe
from eighteen.data.dataset import Dataset

if TYPE_CHECKING:
    from eighteen.advice.finding import Finding


def doctor(
    target: Dataset | str | os.PathLike[str],
    *,
    recipe: str | Recipe = "auto",
    model: str | None = None,
    batch: int | None = None,
    changes: Sequence[str] = (),
    gpus: int | None = None,
    procs: int | None = None,
    seconds: float = 10.0,
    fix: bool = False,
    say: Callable[[str], object] = lambda line: None,
) -> list[Finding]:
    """Find out why training is slow, or learns wrongly: the dearest finding first.

    target: a run, whose events are read; or a dataset, on which a training by ``recipe`` is tried for ``seconds``
    recipe, model, batch, changes, gpus, procs: as of ``train``; for a dataset only
    fix: of a dataset: apply what can be, one by one, and keep what helps; ``say`` is told the story, and what to type

    Raises UsageError, DataError or MachineError as ``train`` does.
    """
    from eighteen.advice import treatment

    path = None if isinstance(target, Dataset) else Path(target)
    if path and (path / "recipe.toml").is_file():
        if fix:
            need, hint = "a dataset, or a run that is started with it", "eighteen train photos.e18 --fix"
            raise UsageError(f"doctor {path} --fix", got="a run", need=need, hint=hint)
        return treatment.of_run(rundir.open(path), say=say)
    let_threads_sleep()
    from eighteen.training.preflight import preflight
    from eighteen.training.resolve import resolve

    ranks = num_ranks(gpus, procs, None, world.from_environment())
    dataset = target if isinstance(target, Dataset) else open(target)
    resolved = resolve(recipe, dataset, say=say, model=model, batch=batch, changes=changes)
    preflight(resolved, dataset, num_ranks=ranks, disk=Path(gettempdir()), model=None)
    return treatment.of_dataset(resolved, dataset, ranks=ranks, on_cpu=bool(procs), watch_s=seconds, fix=fix, say=say)
