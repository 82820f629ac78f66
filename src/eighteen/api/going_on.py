"""Runs that are gone on with: where they lie, whether they can, and the copies of their checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from eighteen.base import budget as budgets
from eighteen.base import recipe as recipes
from eighteen.base import request, rundir
from eighteen.base.errors import DataError, MachineError, UsageError
from eighteen.base.events import mend
from eighteen.base.files import unwritable_is_said
from eighteen.base.lock import held
from eighteen.base.recipe import Recipe
from eighteen.base.rundir import RunDir
from eighteen.data.places import is_url

if TYPE_CHECKING:
    from torch import nn


def located(run: str, runs_dir: Path) -> tuple[RunDir, str]:
    """A run to go on with, and where copies of its checkpoints lie, or ""; a copy gets a folder in ``runs_dir``."""
    from eighteen.training import copies

    if is_url(run) or copies.is_copy(Path(run)):
        return copies.fetch_run(run, runs_dir)
    folder = rundir.open(run)
    return folder, recipes.load(str(folder.recipe)).train.checkpoint_to


def place_of_dataset(run: RunDir) -> str:
    """A path or a URL."""
    return (run.path / "command.txt").read_text("utf-8").splitlines()[-1]


def take(run: RunDir, stack: ExitStack, say: Callable[[str], object]) -> None:
    """Hold a run's lock for as long as the stack lasts; UsageError if another process trains it."""
    with unwritable_is_said(run.path, hint=f"df -h {run.path}; ls -ld {run.path}"):
        if not stack.enter_context(held(run)):
            say(f"warning: {run.path} lies where there are no locks: see to it that no other process trains it")
        request.clear(run)
        mend(run.events)


def go_on(
    candidates: Iterable[RunDir], module: nn.Module | None, stack: ExitStack, say: Callable[[str], object]
) -> RunDir | None:
    """The first of these runs that no process trains and that can go on, taken; None if there is none."""
    for run in candidates:
        try:
            with ExitStack() as trial:
                take(run, trial, say)
                bring_copies(run, with_cost(run, None).train.checkpoint_to, say)
                step = saved_step(run, module)
                stack.enter_context(trial.pop_all())
        except (UsageError, DataError) as error:
            say(f"not going on with {run.path}: got {error.got}")
            continue
        say(f"going on with {run.path} from step {step} (--new starts another)")
        return run
    return None


def bring_copies(run: RunDir, url: str, say: Callable[[str], object]) -> None:
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


def saved_step(run: RunDir, module: nn.Module | None) -> int:
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


def with_cost(run: RunDir, cost: str | float | None) -> Recipe:
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
