"""Runs as functions: begun, gone on with, and asked to stop."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Literal

from eighteen.api.going_on import bring_copies, go_on, located, place_of_dataset, saved_step, take, with_cost
from eighteen.api.ranks import num_ranks, start
from eighteen.api.sources import dataset_of, fetched, named
from eighteen.base import budget as budgets
from eighteen.base import recipe as recipes
from eighteen.base import request, rundir, world
from eighteen.base.errors import UsageError
from eighteen.base.events import Event, Follower, OnEvent
from eighteen.base.files import unwritable_is_said, write_atomic
from eighteen.base.hardware import environment, let_threads_sleep
from eighteen.base.lock import alone, holder
from eighteen.base.recipe import Budget, Recipe
from eighteen.base.result import Result
from eighteen.base.rundir import RunDir
from eighteen.data.dataset import Dataset
from eighteen.data.places import absolute, is_url
from eighteen.data.plan import TINY_SIDE

if TYPE_CHECKING:
    from torch import nn

    from eighteen.advice.search import Tuned

ENDED = ("done", "patience", "until", "BudgetSpent")  # reasons with which a run has come to its end
POLL_S = 0.5  # between two looks at a run that is to stop


def train(
    data: Dataset | str | os.PathLike[str],
    *,
    recipe: str | Recipe = "auto",
    model: str | nn.Module | None = None,
    epochs: float | None = None,
    batch: int | Literal["auto"] | None = None,
    changes: Sequence[str] = (),
    tune: Literal["auto", "off"] = "off",
    init: str | os.PathLike[str] | None = None,
    freeze_to: str | None = None,
    import_pth: bool = False,
    gpus: int | None = None,
    procs: int | None = None,
    min_ranks: int | None = None,
    name: str | None = None,
    runs_dir: str | os.PathLike[str] = "runs",
    checkpoint_to: str | None = None,
    new: bool = False,
    into: str | os.PathLike[str] | None = None,
    fix: bool = False,
    time: str | float | None = None,
    until: str | None = None,
    cost: str | float | None = None,
    price_usd_h: float | None = None,
    began: float | None = None,
    on_event: OnEvent | None = None,
    say: Callable[[str], object] = lambda line: None,
) -> Result:
    """Train a classifier and return what it reached; the run lies in ``runs_dir/NAME-UTC``.

    A run there that the same call began and that was stopped, killed or failed by its machine goes on instead.

    data: a dataset, its path, or a source, which is then packed beside itself first
    recipe: a bundled name, a TOML file, "auto", or a Recipe
    model: a timm name, package.module:function, or a module: [N, C, H, W] -> [N, K] logits
    epochs, batch, changes: see ``base.recipe.load``; a batch of "auto" is found by ``tune``
    tune: "auto": before the first step find how many threads decode, and in how large parts a batch is computed
    init: a run or a safetensors file to start from      freeze_to: the last stage that keeps its weights
    import_pth: ``init`` is a .pth file and the like, which is converted first: see ``training.import_pth``
    gpus, procs: ranks to start on this machine, on GPUs or as CPU processes; neither: this process, or torchrun's ranks
    min_ranks: with how few of them the run may go on, without one that keeps dying; all, if left out
    checkpoint_to: a path or a URL of fsspec, where each checkpoint is copied to as well
    new: make a new run, whatever lies there      into: in this folder, which a launch has made for it
    fix: apply what the doctor finds and is safe, at the end of an epoch
    time: how long it may take: "18m", "1h30m", or seconds; as many epochs as fit
    cost: the same in dollars ("$2"); with ``epochs`` a limit, before which it saves and ends
    until: "top1=0.93": end with the first evaluation that is as good
    price_usd_h: of the machines, to tell what the run cost
    began: when the time began, on CLOCK_MONOTONIC; with this call, if left out
    on_event: called with every event; may return ``eighteen.STOP``
    say: called with each line for people, e.g. why a recipe was chosen

    Raises UsageError, DataError or MachineError before anything is spent; Stopped, Diverged or BudgetSpent as
    training.train does.
    """
    began = monotonic() if began is None else began
    changes = [*changes, "train.fix=true"] if fix else changes
    if isinstance(recipe, str):  # before anything is loaded
        budgets.ask(Budget(), time=time, until=until, cost=cost, price_usd_h=price_usd_h, epochs=epochs)
    if batch == "auto" and tune == "off":
        need, hint = "--tune auto, which finds it", "--tune auto --batch auto"
        raise UsageError("--batch auto", got="--tune off", need=need, hint=hint)
    tuning = None if tune == "off" else "batch" if batch == "auto" else "parts"
    batch = None if batch == "auto" else batch
    let_threads_sleep()
    if recipe != "auto" and init is None:  # what is wrong in it is said before torch is loaded: in a second, not four
        known = model if isinstance(model, str) else None
        recipes.load(recipe, model=known, epochs=epochs, batch=batch, changes=changes, side=TINY_SIDE)
    from eighteen.training.preflight import preflight
    from eighteen.training.resolve import resolve

    here = world.from_environment()
    ranks = num_ranks(gpus, procs, min_ranks, here)
    module = model if model is not None and not isinstance(model, str) else None
    if module is not None and ranks > 1:
        raise UsageError(
            "train a module on several ranks",
            got=f"{ranks} ranks",
            need="a model that each can build",
            hint="model='package.module:function'",
        )

    def tuned(asked: Recipe, dataset: Dataset) -> Tuned:
        from eighteen.advice.tune import on_new_ranks, tune
        from eighteen.training import dist

        with_batch = tuning == "batch"
        if ranks > 1 or procs:
            return on_new_ranks(asked, dataset, num_ranks=ranks, on_cpu=bool(procs), with_batch=with_batch)
        if here.is_first:  # the others wait for it
            place = data if isinstance(data, str) and is_url(data) else str(dataset.path)
            told = {"recipe": asked.model_dump(mode="json", exclude_none=True), "dataset": place}
            dist.share(told, here, dist.device_of(here))
        return tune(asked, dataset, here, model=module, with_batch=with_batch)

    def prepare(stack: ExitStack) -> tuple[RunDir, Dataset]:
        if isinstance(recipe, str) and recipe != "auto":
            recipes.text(recipe)  # a mistyped name is said before anything is packed
        weights = _imported(init, Path(runs_dir), say) if import_pth else init
        dataset = dataset_of(data, say)
        resolved = resolve(
            recipe,
            dataset,
            say=say,
            model=model if isinstance(model, str) else None,
            epochs=epochs,
            is_timed=time is not None or cost is not None,
            batch=batch,
            changes=changes,
            init=weights,
            freeze_to=freeze_to,
        )
        if module is not None:
            own = resolved.model.model_copy(update={"name": _path_of(module), "args": {}})
            resolved = resolved.model_copy(update={"model": own})
        resolved = _with_copies(resolved, checkpoint_to)
        asked = budgets.ask(resolved.budget, time=time, until=until, cost=cost, price_usd_h=price_usd_h, epochs=epochs)
        resolved = resolved.model_copy(update={"budget": asked})
        parent = Path(into).parent if into else Path(runs_dir)
        preflight(resolved, dataset, num_ranks=max(ranks, here.size), disk=parent, model=module)
        called = name or re.sub(r"[^\w.+-]+", "_", f"{dataset.path.stem}-{resolved.name}").lstrip(".")
        rundir.check_name(called)
        place = named(data, dataset)
        facts = {"recipe": resolved, "place": place, "digest": dataset.digest}
        with unwritable_is_said(parent, hint=f"df -h {parent}, or --runs-dir another"):
            parent.mkdir(parents=True, exist_ok=True)
            with alone(parent):  # or two commands at once would both go on with one run
                candidates = rundir.unfinished(parent, called, **facts, tuning=tuning)
                run = None if new or into else go_on(candidates, module, stack, say)
            if run is None:
                record = None
                if tuning:
                    resolved, record = _with_tuned(resolved, tuned(resolved, dataset), tuning, say)
                about = {**environment(), "dataset_digest": dataset.digest}
                new_run = {"recipe": resolved, "command": _command(place), "environment": about, "tuned": record}
                with alone(parent):
                    run = rundir.create(parent, called, **new_run, into=Path(into) if into else None)
                    take(run, stack, say)
                say(f"run {run.path}")
        return run, dataset

    return start(
        prepare,
        ranks=ranks,
        min_ranks=min_ranks,
        on_cpu=bool(procs),
        on_event=on_event,
        module=module,
        began=began,
        tuned=tuned,
    )


def resume(
    run: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str] | None = None,
    gpus: int | None = None,
    procs: int | None = None,
    min_ranks: int | None = None,
    model: nn.Module | None = None,
    cost: str | float | None = None,
    runs_dir: str | os.PathLike[str] = "runs",
    began: float | None = None,
    on_event: OnEvent | None = None,
    say: Callable[[str], object] = lambda line: None,
) -> Result:
    """Go on with a run from its newest checkpoint, or its beginning, with the recipe it has.

    run: a run, or the copy of one that ``checkpoint_to`` made (URL/RUN), which is first fetched into ``runs_dir``
    data: only if the dataset has moved      began: as of ``train``: the rest of its time counts from then on
    cost: what the whole run may cost from now on ("$8"), as its limit or, where it has a time, as that
    A run whose own checkpoints are gone, or older than their copies, goes on from the newest copy; ``say`` is told.
    Raises UsageError if the run has come to its end, or another process trains it; BudgetSpent if it has cost what it
    may; else as ``train`` does.
    """
    began = monotonic() if began is None else began
    from eighteen.training.preflight import room_to_resume

    def prepare(stack: ExitStack) -> tuple[RunDir, Dataset]:
        folder, url = located(os.fspath(run), Path(runs_dir))
        if (end := folder.end()) and end["reason"] in ENDED:
            got = f"one that ended at step {end['step']}: {end['reason']}"
            hint = f"eighteen eval {folder.path} {data or place_of_dataset(folder)}"
            raise UsageError(f"resume {folder.path}", got=got, need="a run that is not finished", hint=hint)
        recipe = with_cost(folder, cost)
        dataset = fetched(os.fspath(data or place_of_dataset(folder)), say)
        take(folder, stack, say)
        if cost is not None:
            write_atomic(folder.recipe, recipes.dump(recipe))
        bring_copies(folder, url, say)
        saved_step(folder, model)  # or it cannot go on
        room_to_resume(folder)
        return folder, dataset

    return start(
        prepare,
        ranks=num_ranks(gpus, procs, min_ranks, world.from_environment()),
        min_ranks=min_ranks,
        on_cpu=bool(procs),
        on_event=on_event,
        module=model,
        began=began,
    )


def stop(
    run: str | os.PathLike[str],
    *,
    now: bool = False,
    wait: bool = False,
    on_event: OnEvent | None = None,
    say: Callable[[str], object] = lambda line: None,
) -> Event | None:
    """Ask a run that trains, here or on another machine that sees its folder, to save and stop.

    now: at its next step; else at the end of its epoch
    wait: until it has ended; on_event is called with what it tells until then, and its ``end`` event is returned, if
        there is one
    Raises DataError if there is no run, UsageError if nobody trains it.
    """
    folder = rundir.open(os.fspath(run))
    if holder(folder) is None:
        end, hint = folder.end(), f"eighteen train --resume {folder.path}, to go on with it"
        got = f"one that ended at step {end['step']}: {end['reason']}" if end else "one that no process trains"
        if end and end["reason"] in ENDED:
            hint = f"eighteen eval {folder.path} {place_of_dataset(folder)}"
        raise UsageError(f"stop {folder.path}", got=got, need="a run that trains", hint=hint)
    follower, end, running = Follower(folder.events), None, True
    follower.new()
    with unwritable_is_said(folder.path, hint=f"ls -ld {folder.path}, or kill -TERM the process in {folder.lock}"):
        request.ask(folder, "step" if now else "epoch")
    say(f"asked {folder.path} to save and stop {'at its next step' if now else 'at the end of its epoch'}")
    while wait and running:
        sleep(POLL_S)
        running = holder(folder) is not None
        for event in follower.new():
            end = event if event["event"] == "end" else end
            if on_event:
                on_event(event)
    return end


def _with_copies(recipe: Recipe, url: str | None) -> Recipe:
    """The recipe whose checkpoints are copied to ``url``, or to what it says itself; both are tried first."""
    if not (url := url or recipe.train.checkpoint_to):
        return recipe
    from eighteen.training import copies

    place = absolute(url, flag="--checkpoint-to")
    copies.require_place(place)
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"checkpoint_to": place})})


def _with_tuned(
    recipe: Recipe, found: Tuned, tuning: str, say: Callable[[str], object]
) -> tuple[Recipe, dict[str, Any]]:
    """The recipe with what was found for it, and what the run keeps of that. tuning: what was looked for"""
    from eighteen.advice.search import applied

    for line in found.left:
        say(line)
    before = recipe.phases[0].batch
    if found.batch and found.batch != before:
        say(f"batches of {found.batch} instead of {before}: learning rates follow, {found.batch / before:g} times")
    asked = {"recipe": recipes.dump(recipe), "tuning": tuning}
    return applied(recipe, found), {"v": 1, "asked": asked, "found": found.facts}


def _imported(init: str | os.PathLike[str] | None, runs_dir: Path, say: Callable[[str], object]) -> Path:
    """The weights of a foreign file, converted; kept with the runs, since their recipes name it."""
    from eighteen.training.import_pth import import_pth

    if init is None:
        need, hint = "the file to import", "--init weights.pth --import-pth"
        raise UsageError("--import-pth", got="no --init", need=need, hint=hint)
    found = import_pth(Path(init), runs_dir / ".imported")
    say(f"imported {init} as {found}")
    return found


def _path_of(module: nn.Module) -> str:
    return f"{type(module).__module__}:{type(module).__qualname__}"


def _command(place: str) -> str:
    """The command line, and where the dataset lies on a line of its own, which ``resume`` reads."""
    return f"{shlex.join(sys.argv)}\n{place}"
