"""Where a run is trained that has been made ready: by this process, one of torchrun's ranks, or ranks of our own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from eighteen.api.going_on import place_of_dataset
from eighteen.api.sinks import sinks, watch, watched
from eighteen.api.sources import Staging, bring, fetched
from eighteen.base import recipe as recipes
from eighteen.base import result, rundir, world
from eighteen.base.errors import DataError, EighteenError, MachineError, PeerLost, Unwritable, UsageError
from eighteen.base.events import STOP, Follower, OnEvent
from eighteen.base.files import unwritable_is_said
from eighteen.base.hardware import let_threads_sleep
from eighteen.base.recipe import Recipe
from eighteen.base.result import Result
from eighteen.base.rundir import RunDir
from eighteen.data.dataset import Dataset
from eighteen.data.places import is_url

if TYPE_CHECKING:
    import torch
    from torch import nn

    from eighteen.advice.search import Tuned

Prepare = Callable[[ExitStack], tuple[RunDir, Dataset]]  # what it holds for the time of the training, it leaves there
Tune = Callable[[Recipe, Dataset], "Tuned"]


def num_ranks(gpus: int | None, procs: int | None, min_ranks: int | None, here: world.World) -> int:
    """How many ranks to start; 1 is this process."""
    asked = gpus if gpus is not None else procs
    if min_ranks is not None and not 1 <= min_ranks <= (asked or 0):
        need = "from 1 to as many as --gpus or --procs starts"
        raise UsageError(f"--min-ranks {min_ranks}", got=f"{asked or 0} ranks to start", need=need, hint="--gpus 8")
    if asked is None:
        return 1
    flag = "--gpus" if gpus is not None else "--procs"
    if gpus is not None and procs is not None:
        raise UsageError(
            "start ranks",
            got="both --gpus and --procs",
            need="one of them",
            hint="--gpus for GPUs, --procs for CPU processes",
        )
    if here.size > 1:
        raise UsageError(
            f"{flag} {asked}",
            got="ranks that somebody else has started",
            need="one of the two",
            hint=f"leave out {flag} under torchrun",
        )
    if asked < 1:
        raise UsageError(flag, got=str(asked), need="at least 1", hint=f"{flag} 2")
    if gpus is not None:
        import torch

        found = torch.cuda.device_count()
        if gpus > found:
            hint = f"--gpus {found}" if found else f"--procs {gpus}, for CPU processes"
            raise MachineError(f"--gpus {gpus}", got=f"{found} GPUs", need="as many GPUs as ranks", hint=hint)
    return asked


def start(
    prepare: Prepare,
    *,
    ranks: int,
    min_ranks: int | None,
    on_cpu: bool,
    on_event: OnEvent | None,
    module: nn.Module | None,
    began: float,
    how: Staging,
    say: Callable[[str], object],
    tuned: Tune | None = None,
) -> Result:
    """Train what ``prepare`` makes ready: in this process, as one of torchrun's ranks, or on ranks of our own.

    how: its dataset is made ready
    """
    let_threads_sleep()
    here = world.from_environment()
    if ranks > 1 or on_cpu:
        with ExitStack() as stack:
            run, dataset = prepare(stack)
            bring(recipes.load(str(run.recipe)), dataset, how, stack, say)
            return _on_own_ranks(run, dataset, ranks, min_ranks, on_cpu, on_event, began)
    from eighteen.training import dist
    from eighteen.training.train import train as train_here

    device = dist.device_of(here)
    with dist.connected(here, device), ExitStack() as stack:
        run, dataset = _agreed(prepare, stack, here, device, tuned)
        recipe = recipes.load(str(run.recipe))
        failure = None
        try:
            bring(recipe, dataset, how, stack, say if here.is_first else lambda line: None)
        except EighteenError as error:
            failure = error
        if here.size > 1:
            dist.require_all(failure, here, device)
        elif failure:
            raise failure
        stack.enter_context(_run_disk(run))
        sink = sinks(run, on_event, stack) if here.is_first else None
        sink = sink and watched(run, sink)
        return train_here(recipe, dataset, run, here, sink, model=module, began=began)


def _agreed(
    prepare: Prepare, stack: ExitStack, here: world.World, device: torch.device, tuned: Tune | None
) -> tuple[RunDir, Dataset]:
    """What the first rank made ready, on every rank; its error, if it has one, ends them all.

    tuned: what the others are asked for first, where it is among what makes ready
    """
    if here.size == 1:
        return prepare(stack)
    from eighteen.training import dist

    made: tuple[RunDir, Dataset] | EighteenError | None = None
    if here.is_first:
        try:
            made = prepare(stack)
        except EighteenError as error:
            made = error
    paths = None
    if isinstance(made, tuple):
        place = place_of_dataset(made[0])
        paths = {"run": str(made[0].path), "dataset": place if is_url(place) else str(made[1].path)}
        paths["digest"] = made[1].digest
    paths = dist.share(paths, here, device)
    if tuned and paths and "recipe" in paths:
        with suppress(EighteenError):  # which the first rank has, too
            tuned(recipes.parse(paths["recipe"]), fetched(paths["dataset"], stack, lambda line: None))
        paths = dist.share(None, here, device)
    if paths is None:
        if isinstance(made, EighteenError):
            raise made
        got, need = "an error", "a run that it could make ready"
        raise PeerLost("wait for the first rank", got=got, need=need, hint="see what rank 0 printed")
    return _there(paths, made[1] if isinstance(made, tuple) else None, stack, here, device)


def _there(
    paths: Mapping[str, str], dataset: Dataset | None, stack: ExitStack, here: world.World, device: torch.device
) -> tuple[RunDir, Dataset]:
    """The run and the dataset of the first rank, on this one's machine, which may not see its disk."""
    from eighteen.training import bringing, dist

    failure = None
    try:
        dataset = dataset or fetched(paths["dataset"], stack, lambda line: None)
        if dataset.digest != paths["digest"]:
            got, need = "another dataset than on the first rank's machine", f"the one with the digest {paths['digest']}"
            raise DataError(f"open {dataset.path}", got=got, need=need, hint="copy it from there")
    except EighteenError as error:
        failure = error
    dist.require_all(failure, here, device)
    assert dataset is not None
    run = RunDir(Path(paths["run"]))
    bringing.bring(run, here, device)
    return rundir.open(run.path), dataset


def _on_own_ranks(
    run: RunDir,
    dataset: Dataset,
    num_ranks: int,
    min_ranks: int | None,
    on_cpu: bool,
    on_event: OnEvent | None,
    began: float,
) -> Result:
    from eighteen.training import supervisor

    follower = Follower(run.events)
    follower.new()  # what a run that is resumed has told before
    with _run_disk(run), ExitStack() as stack:
        sink, look = sinks(run, on_event, stack), watch(run)

        def tell() -> bool:
            new = follower.new()
            for event in new:
                look(event)
            return STOP in [sink(event) for event in new]

        supervisor.start(
            run.path,
            dataset.path,
            num_ranks=num_ranks,
            on_cpu=on_cpu,
            while_running=tell,
            min_ranks=min_ranks,
            began=began,
        )
    return result.of(run)


def _run_disk(run: RunDir) -> AbstractContextManager[None]:
    hint = f"df -h {run.path}; then eighteen train --resume {run.path}"
    return unwritable_is_said(run.path, hint=hint, kind=Unwritable)
