"""Starts the ranks of a run, and starts them again from the newest checkpoint when some die or hang.

What is not worth another attempt is raised: what a rank said it ended with, such as a dataset that cannot be used, or
that the ranks get no further than before.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from eighteen.base import recipe as recipes
from eighteen.base import rundir
from eighteen.base.errors import (
    BudgetSpent,
    DataError,
    Diverged,
    EighteenError,
    MachineError,
    OutOfMemory,
    PeerLost,
    Stopped,
    UsageError,
)
from eighteen.base.recipe import Train
from eighteen.base.rundir import RunDir
from eighteen.training import checkpoint
from eighteen.training.ranks import Attempt, End, Ranks

MAX_VAIN = 3  # attempts in a row that get no further
TWICE = 2  # so often in a row a rank ended an attempt in vain: it is left out, where that is allowed
MEANT = {kind.exit_code for kind in (UsageError, DataError, MachineError, Diverged, BudgetSpent, Stopped)}


def start(
    run: Path,
    dataset: Path,
    *,
    num_ranks: int,
    on_cpu: bool,
    while_running: Callable[[], object],
    min_ranks: int | None = None,
    began: float | None = None,
) -> None:
    """Train ``run`` on ``num_ranks`` processes of this machine until it is done.

    while_running is called about five times a second; if it returns true the ranks are asked to save and stop. Ctrl-C
    once asks the same, twice ends them at once (KeyboardInterrupt); SIGUSR1 asks them to save and go on.
    began: when the command did, on CLOCK_MONOTONIC; now, if left out
    min_ranks: how few may go on without one that keeps dying; None: all are needed
    Raises the error that a rank ended with; PeerLost if ranks died or hung and the others got no further.
    """
    began = time.monotonic() if began is None else began
    folder = rundir.open(run)
    trials = Trials(list(range(num_ranks)), min_ranks or num_ranks, recipes.load(str(folder.recipe)).train)
    trials.came_to(_saved_step(folder), _saved_step(folder))
    with signals() as (interrupted, wants_save):
        for number in range(2, 10**6):
            with Ranks(folder, dataset, places=trials.places, on_cpu=on_cpu, began=began) as ranks:
                attempt = ranks.watch(lambda: any([while_running(), interrupted()]), wants_save)
            if not any(end.code or end.is_hung for end in attempt.ends):
                return
            got_further = trials.came_to(_saved_step(folder), max(end.step for end in attempt.ends))
            gone = worth_another(attempt, got_further)
            will_fit = any(isinstance(end.error, OutOfMemory) for end in gone)  # in the parts that they wrote down
            if not gone or not (will_fit or trials.another(gone, got_further)):
                _tell_end(folder, error := _error(folder, attempt, trials.num_vain))
                raise error
            folder.event(
                "restart",
                attempt=number,
                reason=_named(gone),
                world=len(trials.places),
                step=_saved_step(folder),
                stacks=[path.name for path in attempt.stacks],
            )
            while_running()


@dataclass
class Trials:
    """Who takes part in the next attempt, and how many attempts were in vain.

    places: the devices of the ranks, by rank
    """

    places: list[int]
    min_ranks: int
    settings: Train
    num_vain: int = 0
    _saved: int = -1
    _step: int = -1
    _deaths: dict[int, int] = field(default_factory=dict)

    def came_to(self, saved: int, step: int) -> bool:
        """Whether the newest checkpoint, or the furthest step, is further than ever."""
        is_further = saved > self._saved or step > self._step
        self._saved, self._step = max(saved, self._saved), max(step, self._step)
        return is_further

    def another(self, gone: list[End], got_further: bool) -> bool:
        """Count an attempt that these ranks ended; whether there should be another."""
        self.num_vain = 0 if got_further else self.num_vain + 1
        dead = {self.places[end.rank] for end in gone}
        self._deaths = {place: 1 + (0 if got_further else self._deaths.get(place, 0)) for place in dead}
        lasting = [place for place in self.places if self._deaths.get(place, 0) < TWICE]
        if len(lasting) < len(self.places) and (num_ranks := _usable(len(lasting), self.settings)) >= self.min_ranks:
            self.places, self.num_vain, self._deaths = lasting[:num_ranks], 0, {}
        return self.num_vain < MAX_VAIN


def worth_another(attempt: Attempt, got_further: bool) -> list[End]:
    """The ranks for whose sake the others have to be started again; none if the end of this attempt stands."""
    if attempt.was_asked:
        return []
    if lacking := [end for end in attempt.ends if isinstance(end.error, OutOfMemory)]:
        return lacking
    if any(end.code in MEANT for end in attempt.ends):
        return []
    found = culprits(attempt.ends)
    if not got_further and any(end.code == EighteenError.exit_code for end in found):
        return []  # a bug, which would only show again
    return found


def culprits(ends: list[End]) -> list[End]:
    """Those that hung, else were killed, else failed, else only noticed: each explains what follows it."""
    hung = [end for end in ends if end.is_hung]
    killed = [end for end in ends if end.code is not None and end.code < 0]
    failed = [end for end in ends if end.code and end.code != PeerLost.exit_code]
    return hung or killed or failed or [end for end in ends if end.code]


@contextmanager
def signals() -> Iterator[tuple[Callable[[], bool], Callable[[], bool]]]:
    """While the block lasts signals are only noted, and two functions tell of them: whether there was a SIGINT or
    SIGTERM (KeyboardInterrupt if there were two), and whether there was a SIGUSR1 since the last call.
    """
    ends: list[int] = []
    saves: list[int] = []
    previous = {
        number: signal.signal(number, lambda received, _frame, heard=heard: heard.append(received))
        for number, heard in ((signal.SIGINT, ends), (signal.SIGTERM, ends), (signal.SIGUSR1, saves))
    }

    def interrupted() -> bool:
        if len(ends) > 1:
            raise KeyboardInterrupt
        return bool(ends)

    def wants_save() -> bool:
        return bool(saves and saves.pop())

    try:
        yield interrupted, wants_save
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _usable(num_ranks: int, settings: Train) -> int:
    """How many of so many ranks can share the work: those that divide the virtual workers, where there are any."""
    workers = settings.virtual_workers if settings.exact else 0
    return next((size for size in range(num_ranks, 0, -1) if workers % size == 0), 0)


def _saved_step(run: RunDir) -> int:
    """Of the newest checkpoint; 0 if there is none."""
    found = checkpoint.committed(run)
    return int(checkpoint.place(found[-1]).name.removeprefix("step-")) if found else 0


def _named(ends: list[End]) -> str:
    return " and ".join(str(end) for end in ends)


def _error(run: RunDir, attempt: Attempt, num_vain: int) -> EighteenError:
    """What a rank said it ended with, before what became of one, before that of one that only noticed."""
    ends = attempt.ends
    for end in ends:
        if end.error and not isinstance(end.error, PeerLost):
            return end.error
    gone = culprits(ends)
    if gone[0].error:
        return gone[0].error
    kind = PeerLost if gone[0].is_lost else EighteenError
    got = _named(gone) + (f", {num_vain} times in a row without getting further" if num_vain > 1 else "")
    where = f"the stacks of all ranks in {run.stacks}" if attempt.stacks else "what it printed above"
    hint = f"{where}; then eighteen train --resume {run.path}"
    return kind(f"train on {len(ends)} ranks", got=got, need="all ranks until the end", hint=hint)


def _tell_end(run: RunDir, error: EighteenError) -> None:
    """In place of the first rank, which does not, or cannot, tell of a lost peer."""
    if isinstance(error, PeerLost):
        facts = {"step": _saved_step(run), "exit_code": error.exit_code}
        run.event("end", reason=type(error).__name__, **facts)
        run.heartbeat(state=type(error).__name__, **facts)
