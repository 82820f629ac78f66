"""Applies what the doctor found, one fix after the other, and keeps those that make training faster.

In: a recipe, its findings, and how to examine another one. Out: the recipe that is left, and what each fix has done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from eighteen.advice.doctor import diagnose
from eighteen.advice.evidence import Evidence
from eighteen.advice.finding import Finding, toml
from eighteen.base import recipe as recipes
from eighteen.base.recipe import Recipe

WORTH = 1.02  # times the images/s: what brings less is taken back
MOST = 6  # fixes that are tried

Examine = Callable[[Recipe], Evidence]


@dataclass(frozen=True)
class Remedy:
    """What came of a fix.

    before, after: images/s of all ranks, pauses counted
    recipe, seen: what stands from here on: with the fix, or as before where it was taken back
    """

    finding: Finding
    before: float
    after: float
    recipe: Recipe
    seen: Evidence

    @property
    def gain(self) -> float:
        return self.after / max(1e-9, self.before)

    @property
    def is_kept(self) -> bool:
        return self.gain >= WORTH


def remedies(recipe: Recipe, seen: Evidence, examine: Examine) -> Iterator[Remedy]:
    """Fixes of what costs time, the dearest finding first; each goes on from what the one before has left."""
    tried = set[str]()
    for _ in range(MOST):
        found = next((one for one in diagnose(seen) if one.gain and one.fix and one.code not in tried), None)
        if found is None:
            return
        tried.add(found.code)
        changed = applied(recipe, found.fix)
        after = examine(changed)
        remedy = Remedy(found, speed(seen), speed(after), changed, after)
        if not remedy.is_kept:
            remedy = replace(remedy, recipe=recipe, seen=seen)
        recipe, seen = remedy.recipe, remedy.seen
        yield remedy


def applied(recipe: Recipe, fix: Mapping[str, Any]) -> Recipe:
    """The recipe with a fix; "batch" is that of the command line, which the learning rates follow."""
    changes = [f"{key}={toml(value)}" for key, value in fix.items() if key != "batch"]
    return recipes.load(recipe, batch=fix.get("batch"), changes=changes)


def speed(seen: Evidence) -> float:
    """Images/s of all ranks, pauses counted."""
    return seen.window.images / seen.window.seconds if seen.window else 0.0
