"""The ranks of a run on this machine, as processes: one attempt to train, from their start until all have ended.

The ranks meet in a folder and talk over the loopback interface, so nothing listens where others could reach it. Each
attempt has a folder of its own: what is left of dead ranks misleads nobody.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from eighteen.base import errors
from eighteen.base.clock import BEGAN
from eighteen.base.errors import EighteenError, OutOfMemory, PeerLost
from eighteen.base.rundir import RunDir, stamp
from eighteen.base.world import FILE_STORE
from eighteen.training import heartbeat

SUPERVISOR = "EIGHTEEN_SUPERVISOR"  # its process id, for the ranks, which end with it
LOCAL_SOCKETS = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
POLL_S = 0.2
GRACE_S = 30.0  # for the ranks to save and stop
LOST_S = 1.0  # for those that lost a peer to say so
STACKS_S = 0.5  # to write them down
HELD = {signal.SIGTERM, signal.SIGUSR1}  # held back in a rank until its trainer listens, seconds after its start


@dataclass(frozen=True)
class End:
    """How a rank ended.

    code: its exit code, or minus the signal that ended it; None: it ended because we ended all
    is_hung: it kept the others from going on, or did not run at all
    step: steps it had done, -1 before the first      error: what it said, if it did
    """

    rank: int
    code: int | None
    is_hung: bool = False
    step: int = -1
    error: EighteenError | None = None

    @property
    def is_lost(self) -> bool:
        """Whether it had no say in its end."""
        return self.is_hung or (self.code is not None and self.code < 0)

    def __str__(self) -> str:
        if self.is_hung:
            return f"rank {self.rank} hung"
        if isinstance(self.error, OutOfMemory):
            return f"rank {self.rank} ran out of memory"
        if self.code is not None and self.code < 0:
            return f"rank {self.rank} killed by {signal.Signals(-self.code).name}"
        return f"rank {self.rank} ended with exit code {self.code}"


@dataclass(frozen=True)
class Attempt:
    """What came of an attempt. was_asked: to stop; stacks: of those that were left when others were gone"""

    ends: list[End]
    was_asked: bool
    stacks: list[Path]


class Ranks:
    """The processes of one attempt, for as long as the block lasts; leaving it ends those that are left.

    places: which of this machine's devices each rank takes
    began: when the command did, on CLOCK_MONOTONIC
    """

    def __init__(self, run: RunDir, dataset: Path, *, places: Sequence[int], on_cpu: bool, began: float) -> None:
        self._run, self._dataset, self._places, self._on_cpu = run, dataset, places, on_cpu
        self._began = began
        self._stacks: list[Path] = []

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="eighteen-")
        self._meeting, self._started = Path(self._folder.name), time.monotonic()
        self._processes: list[subprocess.Popen[bytes]] = []
        try:
            for rank in range(len(self._places)):
                self._processes.append(self._start(rank))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()
        self._folder.cleanup()

    def watch(self, wants_stop: Callable[[], bool], wants_save: Callable[[], bool]) -> Attempt:
        """Wait until all have ended, or until some have and the others can only be ended.

        wants_stop: called about five times a second; once it is true the ranks are asked to save and stop
        wants_save: as often; whenever it is true they are asked to save and go on
        """
        asked, noticed, patience_s, hung = False, math.inf, math.inf, list[int]()
        while any(process.poll() is None for process in self._processes):
            if wants_save():
                self._processes[0].send_signal(signal.SIGUSR1)
            if wants_stop() and not asked:
                asked = True
                self._processes[0].send_signal(signal.SIGTERM)  # the ranks agree among themselves
            codes = [process.returncode for process in self._processes if process.returncode]
            hung = self._hung()
            if codes or hung:
                noticed = min(noticed, time.monotonic())
                patience_s = 0.0 if hung else min(patience_s, *(_patience_s(code) for code in codes))
            if time.monotonic() - noticed >= patience_s:
                break
            time.sleep(POLL_S)
        wants_stop()
        codes = [process.poll() for process in self._processes]
        self._save_stacks()
        self._kill()
        return Attempt([self._end(rank, code, rank in hung) for rank, code in enumerate(codes)], asked, self._stacks)

    def _start(self, rank: int) -> subprocess.Popen[bytes]:
        own = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(len(self._places)),
            "LOCAL_WORLD_SIZE": str(len(self._places)),
            FILE_STORE: str(self._meeting / "store"),
            SUPERVISOR: str(os.getpid()),
            BEGAN: repr(self._began),
            "CUDA_VISIBLE_DEVICES": "" if self._on_cpu else _devices(self._places),
        }
        # A session of its own: Ctrl-C in the terminal reaches only us, and we decide what the ranks are told.
        with held_back():
            return subprocess.Popen(
                [*command(), str(self._run.path), str(self._dataset)],
                env={**os.environ, **LOCAL_SOCKETS, **own},
                start_new_session=True,
            )

    def _hung(self) -> list[int]:
        beats = {
            rank: heartbeat.read(beat_file(self._meeting, rank), started=self._started)
            for rank, process in enumerate(self._processes)
            if process.poll() is None
        }
        return heartbeat.hanging(beats, time.monotonic())

    def _save_stacks(self) -> None:
        """Let those that still are there write down where their threads stand: also those that were stopped."""
        # one that has no file yet would end of the signal; whatever it does is no secret: it loads
        left = [
            (rank, process)
            for rank, process in enumerate(self._processes)
            if process.poll() is None and stack_file(self._meeting, rank).exists()
        ]
        for _, process in left:
            process.send_signal(signal.SIGUSR2)
            process.send_signal(signal.SIGCONT)
        if left:
            time.sleep(STACKS_S)
        for rank, _ in left:
            if written := stack_file(self._meeting, rank).read_bytes():
                self._run.stacks.mkdir(exist_ok=True)
                self._stacks.append(self._run.stacks / f"{stamp()}-rank-{rank}.txt")
                self._stacks[-1].write_bytes(written)

    def _kill(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()

    def _end(self, rank: int, code: int | None, is_hung: bool) -> End:
        step = heartbeat.read(beat_file(self._meeting, rank), started=self._started).step
        try:
            kind, (tried, got, need, hint) = json.loads(error_file(self._meeting, rank).read_text("utf-8"))
        except FileNotFoundError:
            return End(rank, code, is_hung, int(step))
        return End(rank, code, is_hung, int(step), getattr(errors, kind)(tried, got=got, need=need, hint=hint))


def command() -> list[str]:
    """What a rank is started with, before run and dataset."""
    return [sys.executable, "-m", "eighteen.training.rank"]


def beat_file(meeting: Path, rank: int) -> Path:
    return meeting / f"beat-{rank}"


def error_file(meeting: Path, rank: int) -> Path:
    return meeting / f"error-{rank}.json"


def stack_file(meeting: Path, rank: int) -> Path:
    return meeting / f"stacks-{rank}.txt"


@contextmanager
def held_back() -> Iterator[None]:
    """What is started now inherits that these signals wait until it lets them in."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)


def _patience_s(code: int) -> float:
    """How long the others may still end by themselves after one has ended so."""
    if code < 0:
        return 0.0
    return LOST_S if code in (1, PeerLost.exit_code) else GRACE_S


def _devices(places: Sequence[int]) -> str:
    """CUDA_VISIBLE_DEVICES for ranks that take these of the devices we see."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return ",".join(visible.split(",")[place] if visible else str(place) for place in places)
