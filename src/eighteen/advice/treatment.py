"""The doctor at work: evidence is gathered, findings are drawn from it, and what can be fixed is tried.

In: a run, or a recipe and a dataset. Out: findings; ``say`` is told what is done meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from eighteen.advice import examination, labels
from eighteen.advice.doctor import diagnose
from eighteen.advice.finding import Finding, fixed
from eighteen.advice.remedy import Remedy, remedies, speed
from eighteen.base import events
from eighteen.base import recipe as recipes
from eighteen.base.errors import DataError, EighteenError
from eighteen.base.hardware import environment
from eighteen.base.lock import holder
from eighteen.base.recipe import Recipe
from eighteen.base.rundir import RunDir
from eighteen.data import dataset as datasets
from eighteen.data.dataset import Dataset

Say = Callable[[str], object]


def of_run(run: RunDir, *, say: Say) -> list[Finding]:
    """What a run's events show, of one that trains as well. DataError if it has told of no steps yet."""
    seen = events.standing(events.read(run.events)) if run.events.exists() else []
    if not any(one["event"] == "step" for one in seen):
        need, hint = "one that has trained for some steps", f"eighteen train --resume {run.path}"
        raise DataError(f"examine {run.path}", got="a run without steps", need=need, hint=hint)
    data = None
    try:
        data = datasets.open((run.path / "command.txt").read_text("utf-8").splitlines()[-1])
    except (DataError, OSError) as error:
        say(f"the dataset is not looked at: {error.got if isinstance(error, DataError) else error}")
    is_here = holder(run) is None and run.read_environment().get("platform") == environment()["platform"]
    recipe = recipes.load(str(run.recipe))
    try:
        found = examination.of_run(recipe, data, seen, is_here=is_here, say=say)
        if data and is_here:
            say("looking at the labels of the validation split")
            doubts = labels.doubted(run, data, recipe.final_eval)
            found = replace(found, doubted=doubts.doubted, num_labels=doubts.looked_at)
    except EighteenError as error:  # such as a model that only the program which trained it can build
        say(f"nothing is tried, the events alone are looked at: {error.tried}: {error.got}")
        found = examination.of_run(recipe, data, seen, is_here=False, say=say)
    return diagnose(found)


def of_dataset(
    recipe: Recipe, data: Dataset, *, ranks: int, on_cpu: bool, watch_s: float, fix: bool, say: Say
) -> list[Finding]:
    """What a short training shows; what is left of it when all has been fixed that can be, where that is asked for."""

    def examine(recipe: Recipe) -> examination.Evidence:
        return examination.examine(recipe, data, ranks=ranks, on_cpu=on_cpu, watch_s=watch_s, say=say)

    seen = examine(recipe)
    first = speed(seen)
    say(f"{first:,.0f} images/s")
    changed: dict[str, Any] = {}
    for remedy in remedies(recipe, seen, examine) if fix else ():
        say(_told(remedy))
        changed |= remedy.finding.fix if remedy.is_kept else {}
        seen = remedy.seen
    if fix:
        say(f"{first:,.0f} -> {speed(seen):,.0f} images/s, {speed(seen) / max(1e-9, first):.2f} times as fast")
        say(f"eighteen train {data.path} {fixed(changed)}" if changed else "nothing was changed")
    return diagnose(seen)


def _told(remedy: Remedy) -> str:
    found, rates = remedy.finding, f"{remedy.before:,.0f} -> {remedy.after:,.0f} images/s"
    foretold = f"{found.gain.likely:.2f} foretold" if found.gain else "nothing foretold"
    end = "kept" if remedy.is_kept else "taken back"
    return f"{found.code}: {fixed(found.fix)}: {rates}, {remedy.gain:.2f} times ({foretold}), {end}"
