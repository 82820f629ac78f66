"""How far a rank is, in a few bytes of memory that others can read: stamped by it, watched by whoever started it.

The main thread says what it does next, a thread of its own that the process still runs. A stamp is a write to memory:
nothing in a step enters the kernel. Times are those of CLOCK_MONOTONIC in seconds, which all processes of a machine
share.
"""

from __future__ import annotations

import math
import mmap
import os
import statistics
import struct
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

T = TypeVar("T")

BEAT_S = 0.5
GENEROUS_S = 600.0  # for what has no usual length: the first step of a phase compiles, a checkpoint waits for a disk
SILENT_S = 60.0  # loading a library can keep all threads of a process from running, but not so long
NUM_KEPT = 64  # durations that the usual one is taken of
FACTOR = 5.0  # a step may take as many times the usual
# What has a usual length, and after what, waits for pictures left aside: after something else the other ranks may still
# be at that, as the first one saves and may have more to evaluate.
AFTER = {"step": "step", "evaluate": "evaluate", "compare": "step"}


class Beat(NamedTuple):
    """alive, progressed: when the process and its main thread last said something; 0: never

    silent_s: how long the process may be silent now
    limit_s: how long the main thread may be; infinite while it waits for pictures, and at the end
    step: steps done, -1 before the first; reached: what it has passed since that step began
    """

    alive: float = 0.0
    progressed: float = 0.0
    silent_s: float = SILENT_S
    limit_s: float = GENEROUS_S
    step: float = -1.0
    reached: float = 0.0


class Heartbeat:
    """What this rank says of itself, for as long as the block lasts: in the file ``path``, or in its own memory.

    hang_s: what is said to hang after that is what hangs, or after 5 times the median of the last 64 of its kind
    is_supervised: somebody reads the file
    is_alone: nobody sees all ranks: what comes after something unusual has time too
    """

    def __init__(self, path: Path | None = None, *, hang_s: float = 10.0, is_alone: bool = False) -> None:
        self.hang_s, self.is_alone, self.is_supervised = hang_s, is_alone, path is not None
        self.seconds: defaultdict[str, float] = defaultdict(float)  # spent so far, by kind
        self._memory = _memory(path)
        self._fields = memoryview(self._memory).cast("d")
        self._durations: defaultdict[tuple[str, int], deque[float]] = defaultdict(lambda: deque(maxlen=NUM_KEPT))
        self._now: tuple[str, int] = ("start", 0)
        self._last = "start"  # before it or now, but no wait for pictures
        self._began = time.monotonic()
        self._is_usual = False  # whether the piece under way may be compared with others
        self._ended = threading.Event()
        self._set(Beat(self._began, self._began))

    def __enter__(self) -> Heartbeat:
        threading.Thread(target=self._beat, name="eighteen-heartbeat", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.doing("end")
        self._ended.set()

    def doing(self, kind: str, *, phase: int = 0, step: int | None = None) -> None:
        """The main thread is about to do ``kind``: "step", "evaluate", "compare" (weights, with the other ranks),
        "data" (wait for pictures), "end" (what is left when no other rank waits any more), or any other word.

        step: how many are done, where one begins
        """
        now, before = time.monotonic(), self._now
        self.seconds[before[0]] += now - self._began
        if self._is_usual or not self._durations[before]:
            self._durations[before].append(now - self._began)
        self._is_usual = bool(self._durations[kind, phase]) and (self._last == AFTER.get(kind) or not self.is_alone)
        self._now, self._began = (kind, phase), now
        if kind != "data":
            self._last = kind
        self._fields[2] = SILENT_S if kind in ("start", "end") else self.hang_s
        self._fields[3] = self._limit_s(kind, phase)
        if step is not None:
            self._fields[4], self._fields[5] = step, 0.0
        self.reached()

    def reached(self) -> None:
        """The main thread has come past something: between ranks that wait for each other this tells who is behind."""
        self._fields[5] += 1.0
        self._fields[1] = time.monotonic()

    def over(self, items: Iterable[T], kind: str, *, phase: int = 0) -> Iterator[T]:
        """The items; waiting for one is waiting for data, and what is done with it is ``kind``, of its own usual length
        in each phase.
        """
        self.doing("data")
        for item in items:
            self.doing(kind, phase=phase)
            yield item
            self.doing("data")

    def now(self) -> Beat:
        return Beat(*self._fields[: len(Beat._fields)])

    def _limit_s(self, kind: str, phase: int) -> float:
        if kind in ("data", "end"):
            return math.inf
        if kind not in AFTER or not self._is_usual:
            return GENEROUS_S
        return max(self.hang_s, FACTOR * statistics.median(self._durations[kind, phase]))

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            self._fields[0] = time.monotonic()

    def _set(self, beat: Beat) -> None:
        for place, value in reversed(list(enumerate(beat))):  # ``alive`` last: only then do the others count
            self._fields[place] = value


def read(path: Path, *, started: float) -> Beat:
    """What a rank says of itself. One that was started then and has not said a word yet may take its time."""
    try:
        beat = Beat(*struct.unpack(f"{len(Beat._fields)}d", path.read_bytes()))
    except (FileNotFoundError, struct.error):
        beat = Beat()
    return beat if beat.alive else Beat(started + GENEROUS_S, started)


def hanging(beats: dict[int, Beat], now: float) -> list[int]:
    """The ranks that keep all from going on, or none while somebody does.

    A process that no longer runs is known by its own silence. Otherwise nobody has said a word for longer than any may
    be silent: those who are least far are the ones that the others wait for.
    """
    if stopped := [rank for rank, beat in beats.items() if now - beat.alive > beat.silent_s]:
        return stopped
    if not beats or any(now - beat.progressed <= beat.limit_s for beat in beats.values()):
        return []
    least = min((beat.step, beat.reached) for beat in beats.values())
    return [rank for rank, beat in beats.items() if (beat.step, beat.reached) == least]


def _memory(path: Path | None) -> mmap.mmap:
    size = 8 * len(Beat._fields)
    if path is None:
        return mmap.mmap(-1, size)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.ftruncate(descriptor, size)
        return mmap.mmap(descriptor, size)
    finally:
        os.close(descriptor)
