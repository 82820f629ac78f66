"""Who hears of a run's events: its log, its TensorBoard files, the doctor, and whoever asked."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from eighteen.base import fixes
from eighteen.base import recipe as recipes
from eighteen.base.events import STOP, Event, OnEvent
from eighteen.base.rundir import RunDir


def sinks(run: RunDir, on_event: OnEvent | None, stack: ExitStack) -> OnEvent:
    """What follows every run's events: its log, its TensorBoard files, and whoever asked."""
    from eighteen.results.log import Log
    from eighteen.results.tensorboard import TensorBoard

    followers: list[OnEvent] = [stack.enter_context(Log(run.log)), stack.enter_context(TensorBoard(run.tensorboard))]

    def tell(event: Event) -> object:
        for follower in followers:
            follower(event)
        return on_event(event) if on_event else None

    return tell


def watched(run: RunDir, sink: OnEvent) -> OnEvent:
    """The same sink, which is also told what the doctor finds meanwhile."""
    look = watch(run)

    def tell(event: Event) -> object:
        found = look(event)
        return STOP if STOP in [sink(one) for one in (event, found) if one] else None

    return tell


def watch(run: RunDir) -> Callable[[Event], Event | None]:
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
