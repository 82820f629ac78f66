"""The program as Python functions, with the names and defaults of the command line. ``eighteen`` exports them.

pack -> open -> train -> load -> predict: each takes a path, or what the one before it returned.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from functools import partial, wraps
from inspect import signature
from pathlib import Path
from tempfile import gettempdir
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Literal, ParamSpec

from eighteen.base import budget as budgets
from eighteen.base import fixes, request, result, rundir, world
from eighteen.base import recipe as recipes
from eighteen.base.errors import DataError, EighteenError, MachineError, PeerLost, Unwritable, UsageError
from eighteen.base.events import STOP, Event, Follower, OnEvent, mend
from eighteen.base.files import unwritable_is_said, write_atomic
from eighteen.base.hardware import environment, let_threads_sleep
from eighteen.base.lock import alone, held, holder
from eighteen.base.recipe import Budget, Recipe
from eighteen.base.result import Result
from eighteen.base.rundir import RunDir
from eighteen.data import dataset as datasets
from eighteen.data.dataset import Dataset
from eighteen.data.pack import pack as pack_source
from eighteen.data.plan import TINY_SIDE
from eighteen.data.report import PackReport

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import nn

    from eighteen.advice.finding import Finding
    from eighteen.advice.search import Tuned
    from eighteen.results.classifier import Classifier
    from eighteen.training.evaluate import Evaluation

P = ParamSpec("P")
Prepare = Callable[[ExitStack], tuple[RunDir, Dataset]]  # what it holds for the time of the training, it leaves there
Tune = Callable[[Recipe, Dataset], "Tuned"]

ENDED = ("done", "patience", "until", "BudgetSpent")  # reasons with which a run has come to its end
POLL_S = 0.5  # between two looks at a run that is to stop

open = datasets.open


def _opened(pack: Callable[P, PackReport]) -> Callable[P, Dataset]:
    """The same, but it returns the dataset instead of the report."""

    @wraps(pack)
    def packed(*args: P.args, **options: P.kwargs) -> Dataset:
        return open(pack(*args, **options).path)

    packed.__signature__ = signature(pack).replace(return_annotation=Dataset)  # type: ignore[attr-defined]  # for help()
    return packed


pack = _opened(pack_source)


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
    new: make a new run, whatever lies there
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
        named = model if isinstance(model, str) else None
        recipes.load(recipe, model=named, epochs=epochs, batch=batch, changes=changes, side=TINY_SIDE)
    from eighteen.training.preflight import preflight
    from eighteen.training.resolve import resolve

    here = world.from_environment()
    ranks = _num_ranks(gpus, procs, min_ranks, here)
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
            told = {"recipe": asked.model_dump(mode="json", exclude_none=True), "dataset": str(dataset.path)}
            dist.share(told, here, dist.device_of(here))
        return tune(asked, dataset, here, model=module, with_batch=with_batch)

    def prepare(stack: ExitStack) -> tuple[RunDir, Dataset]:
        if isinstance(recipe, str) and recipe != "auto":
            recipes.text(recipe)  # a mistyped name is said before anything is packed
        start = _imported(init, Path(runs_dir), say) if import_pth else init
        dataset = _dataset(data, say)
        resolved = resolve(
            recipe,
            dataset,
            say=say,
            model=model if isinstance(model, str) else None,
            epochs=epochs,
            is_timed=time is not None or cost is not None,
            batch=batch,
            changes=changes,
            init=start,
            freeze_to=freeze_to,
        )
        if module is not None:
            named = resolved.model.model_copy(update={"name": _path_of(module), "args": {}})
            resolved = resolved.model_copy(update={"model": named})
        resolved = _with_copies(resolved, checkpoint_to)
        asked = budgets.ask(resolved.budget, time=time, until=until, cost=cost, price_usd_h=price_usd_h, epochs=epochs)
        resolved = resolved.model_copy(update={"budget": asked})
        preflight(resolved, dataset, num_ranks=max(ranks, here.size), disk=Path(runs_dir), model=module)
        called = name or re.sub(r"[^\w.+-]+", "_", f"{dataset.path.stem}-{resolved.name}").lstrip(".")
        rundir.check_name(called)
        parent, facts = Path(runs_dir), {"recipe": resolved, "dataset": dataset.path, "digest": dataset.digest}
        with unwritable_is_said(parent, hint=f"df -h {runs_dir}, or --runs-dir another"):
            parent.mkdir(parents=True, exist_ok=True)
            with alone(parent):  # or two commands at once would both go on with one run
                candidates = rundir.unfinished(parent, called, **facts, tuning=tuning)
                run = None if new else _go_on(candidates, module, stack, say)
            if run is None:
                record = None
                if tuning:
                    resolved, record = _with_tuned(resolved, tuned(resolved, dataset), tuning, say)
                about = {**environment(), "dataset_digest": dataset.digest}
                new_run = {"recipe": resolved, "command": _command(dataset), "environment": about, "tuned": record}
                with alone(parent):
                    run = rundir.create(parent, called, **new_run)
                    _take(run, stack, say)
                say(f"run {run.path}")
        return run, dataset

    return _start(
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
        folder, url = _located(os.fspath(run), Path(runs_dir))
        if (end := folder.end()) and end["reason"] in ENDED:
            got = f"one that ended at step {end['step']}: {end['reason']}"
            hint = f"eighteen eval {folder.path} {data or _dataset_of(folder)}"
            raise UsageError(f"resume {folder.path}", got=got, need="a run that is not finished", hint=hint)
        recipe = _with_cost(folder, cost)
        dataset = open(data or _dataset_of(folder))
        _take(folder, stack, say)
        if cost is not None:
            write_atomic(folder.recipe, recipes.dump(recipe))
        _bring_copies(folder, url, say)
        _saved_step(folder, model)  # or it cannot go on
        room_to_resume(folder)
        return folder, dataset

    return _start(
        prepare,
        ranks=_num_ranks(gpus, procs, min_ranks, world.from_environment()),
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
            hint = f"eighteen eval {folder.path} {_dataset_of(folder)}"
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

    ranks = _num_ranks(gpus, procs, None, world.from_environment())
    dataset = target if isinstance(target, Dataset) else open(target)
    resolved = resolve(recipe, dataset, say=say, model=model, batch=batch, changes=changes)
    preflight(resolved, dataset, num_ranks=ranks, disk=Path(gettempdir()), model=None)
    return treatment.of_dataset(resolved, dataset, ranks=ranks, on_cpu=bool(procs), watch_s=seconds, fix=fix, say=say)


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


def _start(
    prepare: Prepare,
    *,
    ranks: int,
    min_ranks: int | None,
    on_cpu: bool,
    on_event: OnEvent | None,
    module: nn.Module | None,
    began: float,
    tuned: Tune | None = None,
) -> Result:
    """Train what ``prepare`` makes ready: in this process, as one of torchrun's ranks, or on ranks of our own."""
    let_threads_sleep()
    here = world.from_environment()
    if ranks > 1 or on_cpu:
        with ExitStack() as stack:
            run, dataset = prepare(stack)
            return _on_own_ranks(run, dataset, ranks, min_ranks, on_cpu, on_event, began)
    from eighteen.training import dist
    from eighteen.training.train import train as train_here

    device = dist.device_of(here)
    with dist.connected(here, device), ExitStack() as stack:
        run, dataset = _agreed(partial(prepare, stack), here, device, tuned)
        stack.enter_context(_run_disk(run))
        sink = _sinks(run, on_event, stack) if here.is_first else None
        sink = sink and _watched(run, sink)
        return train_here(recipes.load(str(run.recipe)), dataset, run, here, sink, model=module, began=began)


def _located(run: str, runs_dir: Path) -> tuple[RunDir, str]:
    """A run to go on with, and where copies of its checkpoints lie, or ""; a copy gets a folder in ``runs_dir``."""
    from eighteen.training import copies

    if copies.is_url(run) or copies.is_copy(Path(run)):
        return copies.fetch_run(run, runs_dir)
    folder = rundir.open(run)
    return folder, recipes.load(str(folder.recipe)).train.checkpoint_to


def _bring_copies(run: RunDir, url: str, say: Callable[[str], object]) -> None:
    """Take the newest copy of a checkpoint, where the run has none as new; its lock is held."""
    from eighteen.training import checkpoint, copies

    try:
        told = copies.fetch(run, url) if url else []
    except MachineError as error:
        if not checkpoint.committed(run):
            raise
        told = [f"{error.tried}: {error.got}; going on without the copies"]
    for line in told:
        say(line)


def _with_copies(recipe: Recipe, url: str | None) -> Recipe:
    """The recipe whose checkpoints are copied to ``url``, or to what it says itself; both are tried first."""
    if not (url := url or recipe.train.checkpoint_to):
        return recipe
    from eighteen.training import copies

    place = copies.absolute(url)
    copies.require_place(place)
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"checkpoint_to": place})})


def _with_cost(run: RunDir, cost: str | float | None) -> Recipe:
    """The recipe of a run that may cost so much from now on; BudgetSpent if it ended at its cost and may not."""
    recipe, end = recipes.load(str(run.recipe)), run.end()
    if cost is None:
        if end and end["reason"] == "cost":
            tried, reached = f"resume {run.path}", f"step {end['step']:,}"
            raise budgets.gone(run.path, recipe.budget, end["clock_s"], tried=tried, reached=reached)
        return recipe
    budget = recipe.budget
    changes = budgets.paid(budget, cost, is_limit=budget.cost_usd is not None or budget.seconds is None)
    return recipe.model_copy(update={"budget": budget.model_copy(update=changes)})


def _go_on(
    candidates: Iterable[RunDir], module: nn.Module | None, stack: ExitStack, say: Callable[[str], object]
) -> RunDir | None:
    """The first of these runs that no process trains and that can go on, taken; None if there is none."""
    for run in candidates:
        try:
            with ExitStack() as trial:
                _take(run, trial, say)
                _bring_copies(run, _with_cost(run, None).train.checkpoint_to, say)
                step = _saved_step(run, module)
                stack.enter_context(trial.pop_all())
        except (UsageError, DataError) as error:
            say(f"not going on with {run.path}: got {error.got}")
            continue
        say(f"going on with {run.path} from step {step} (--new starts another)")
        return run
    return None


def _take(run: RunDir, stack: ExitStack, say: Callable[[str], object]) -> None:
    """Hold a run's lock for as long as the stack lasts; UsageError if another process trains it."""
    with unwritable_is_said(run.path, hint=f"df -h {run.path}; ls -ld {run.path}"):
        if not stack.enter_context(held(run)):
            say(f"warning: {run.path} lies where there are no locks: see to it that no other process trains it")
        request.clear(run)
        mend(run.events)


def _saved_step(run: RunDir, module: nn.Module | None) -> int:
    """Where a run goes on. DataError if none of its checkpoints can be read, UsageError if they are of another module.

    module: what stands in for the recipe's model
    """
    from eighteen.training import checkpoint

    if not checkpoint.committed(run):
        return 0
    saved = checkpoint.newest(run)
    if module is not None:
        ours, theirs = (
            {name: one.shape for name, one in each.items()} for each in (module.state_dict(), saved.tensors("model"))
        )
        if ours != theirs:
            got, need = "weights of other names or shapes", "the module that it was started with"
            raise UsageError(f"go on with {run.path}", got=got, need=need, hint="that module, or a new run")
    return saved.step


def _agreed(
    prepare: Callable[[], tuple[RunDir, Dataset]], here: world.World, device: Any, tuned: Tune | None
) -> tuple[RunDir, Dataset]:
    """What the first rank made ready, on every rank; its error, if it has one, ends them all.

    tuned: what the others are asked for first, where it is among what makes ready
    """
    if here.size == 1:
        return prepare()
    from eighteen.training import dist

    made: tuple[RunDir, Dataset] | EighteenError | None = None
    if here.is_first:
        try:
            made = prepare()
        except EighteenError as error:
            made = error
    paths = {"run": str(made[0].path), "dataset": str(made[1].path)} if isinstance(made, tuple) else None
    paths = dist.share(paths, here, device)
    if tuned and paths and "recipe" in paths:
        with suppress(EighteenError):  # which the first rank has, too
            tuned(recipes.parse(paths["recipe"]), open(paths["dataset"]))
        paths = dist.share(None, here, device)
    if paths is None:
        if isinstance(made, EighteenError):
            raise made
        got, need = "an error", "a run that it could make ready"
        raise PeerLost("wait for the first rank", got=got, need=need, hint="see what rank 0 printed")
    return made if isinstance(made, tuple) else (rundir.open(paths["run"]), open(paths["dataset"]))


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
        sink, watch = _sinks(run, on_event, stack), _watch(run)

        def tell() -> bool:
            new = follower.new()
            for event in new:
                watch(event)
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


def _sinks(run: RunDir, on_event: OnEvent | None, stack: ExitStack) -> OnEvent:
    """What follows every run's events: its log, its TensorBoard files, and whoever asked."""
    from eighteen.results.log import Log
    from eighteen.results.tensorboard import TensorBoard

    sinks: list[OnEvent] = [stack.enter_context(Log(run.log)), stack.enter_context(TensorBoard(run.tensorboard))]

    def tell(event: Event) -> object:
        for sink in sinks:
            sink(event)
        return on_event(event) if on_event else None

    return tell


def _watched(run: RunDir, sink: OnEvent) -> OnEvent:
    """The same sink, which is also told what the doctor finds meanwhile."""
    watch = _watch(run)

    def tell(event: Event) -> object:
        found = watch(event)
        return STOP if STOP in [sink(one) for one in (event, found) if one] else None

    return tell


def _watch(run: RunDir) -> Callable[[Event], Event | None]:
    """Looks on for the doctor: writes down what it finds, has it fixed where the recipe lets it, and returns it."""
    from eighteen.advice.watch import Watch
    from eighteen.results.findings import facts

    recipe = recipes.load(str(run.recipe))
    look = Watch(recipe)

    def watch(event: Event) -> Event | None:
        found = look(event)
        if found is None:
            return None
        if is_fixed := recipe.train.fix and found.is_safe:
            fixes.ask(run, found.fix)
        return run.event("finding", **facts(found), fixed=is_fixed)

    return watch


def _dataset(data: Dataset | str | os.PathLike[str], say: Callable[[str], object]) -> Dataset:
    """The dataset itself, opened, or a source packed beside itself."""
    if isinstance(data, Dataset):
        return data
    path = Path(data)
    if path.suffix == ".e18" or (path / datasets.FACTS).exists():
        return open(path)
    packed = beside(path)
    say(f"packing {path} into {packed}")
    for line in pack_source(path, packed).lines():  # what was refused, too
        say(line)
    return open(packed)


def _imported(init: str | os.PathLike[str] | None, runs_dir: Path, say: Callable[[str], object]) -> Path:
    """The weights of a foreign file, converted; kept with the runs, since their recipes name it."""
    from eighteen.training.import_pth import import_pth

    if init is None:
        need, hint = "the file to import", "--init weights.pth --import-pth"
        raise UsageError("--import-pth", got="no --init", need=need, hint=hint)
    found = import_pth(Path(init), runs_dir / ".imported")
    say(f"imported {init} as {found}")
    return found


def beside(source: Path) -> Path:
    """Where a source is packed if nobody says: NAME.e18 beside it."""
    source = source.resolve()
    return source.with_name(f"{source.stem if source.is_file() else source.name}.e18")


def _num_ranks(gpus: int | None, procs: int | None, min_ranks: int | None, here: world.World) -> int:
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


def _path_of(module: nn.Module) -> str:
    return f"{type(module).__module__}:{type(module).__qualname__}"


def _command(dataset: Dataset) -> str:
    """The command line, and the dataset's path on a line of its own, which ``resume`` reads."""
    return f"{shlex.join(sys.argv)}\n{dataset.path.resolve()}"


def _dataset_of(run: RunDir) -> str:
    return (run.path / "command.txt").read_text("utf-8").splitlines()[-1]
