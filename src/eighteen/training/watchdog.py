"""A rank that somebody else has started (torchrun, Slurm) looks after itself: nobody here can see or end the others.

Where its run does not go on it writes down where its threads stand and ends, so that whoever started it can start all
again: with 75 where a checkpoint is there to go on from, else with 7.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from torch.distributed.distributed_c10d import Store, _get_default_store

from eighteen.base.errors import EighteenError, PeerLost, Stopped
from eighteen.base.rundir import RunDir, stamp
from eighteen.training import checkpoint
from eighteen.training.dist import peers_needed
from eighteen.training.heartbeat import Heartbeat, hanging
from eighteen.training.job import Job

T = TypeVar("T")

POLL_S = 0.5
ANSWER_S = 2.0  # for the store, which may stand behind a dead link
WAITING = "eighteen/waits-for-pictures"


@contextmanager
def watchdog(this: Job, pulse: Heartbeat) -> Iterator[None]:
    """Watch this rank for as long as the block lasts, unless a supervisor does or it is the only one.

    PeerLost becomes Stopped where a checkpoint is there.
    """
    if not pulse.is_alone:
        with peers_needed(this.world):
            yield
        return
    ended = threading.Event()
    store = _get_default_store()
    threading.Thread(target=_watch, args=(this, pulse, store, ended), name="eighteen-watchdog", daemon=True).start()
    try:
        with peers_needed(this.world):
            yield
    except PeerLost as error:
        raise _as_stopped(this.run, error) from error
    finally:
        ended.set()


def _watch(this: Job, pulse: Heartbeat, store: Store, ended: threading.Event) -> None:
    while not ended.wait(POLL_S):
        beat, now = pulse.now(), time.monotonic()
        if beat.limit_s == float("inf"):
            _within(ANSWER_S, lambda: store.add(WAITING, 1))
        if hanging({this.world.rank: beat}, now) and not _somebody_waits(store) and not ended.is_set():
            _give_up(this, now - beat.progressed)


def _somebody_waits(store: Store) -> bool:
    """Whether another rank says these very seconds that it waits for pictures: slow, but it will go on."""
    before = _within(ANSWER_S, lambda: store.add(WAITING, 0))
    if before is None:
        return False
    time.sleep(4 * POLL_S)
    return _within(ANSWER_S, lambda: store.add(WAITING, 0)) not in (before, None)


def _within(seconds: float, call: Callable[[], T]) -> T | None:
    """What a call returns, or None if it fails or takes longer."""
    found: list[T] = []

    def run() -> None:
        with suppress(RuntimeError):
            found.append(call())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else None


def _give_up(this: Job, silent_s: float) -> None:
    rank, size = this.world.rank, this.world.size
    this.run.stacks.mkdir(exist_ok=True)
    path = this.run.stacks / f"{stamp()}-rank-{rank}.txt"
    with path.open("w") as file:
        faulthandler.dump_traceback(file, all_threads=True)
    got = f"no step of rank {rank} for {silent_s:.0f} s: a rank hangs, or the way to it does"
    hint = f"where it stands is in {path}; then eighteen train --resume {this.run.path}"
    error = _as_stopped(
        this.run, PeerLost(f"train on {size} ranks", got=got, need="all ranks until the end", hint=hint)
    )
    if this.world.is_first:
        this.run.event("end", reason=type(error).__name__, exit_code=error.exit_code)
    print(error, file=sys.stderr, flush=True)
    os._exit(error.exit_code)


def _as_stopped(run: RunDir, error: PeerLost) -> EighteenError:
    """The same, but with the code that says that the same command goes on, if it does."""
    if not checkpoint.committed(run):
        return error
    return Stopped(error.tried, got=error.got, need=error.need, hint=error.hint)
