"""One process per GPU: starts the ranks of a run on this machine, passes signals on, and ends with their exit code.

The ranks meet in a file and talk over the loopback interface, so nothing listens where others could reach it.
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
from collections.abc import Callable
from pathlib import Path

from eighteen.base import errors
from eighteen.base.errors import EighteenError, PeerLost
from eighteen.base.world import FILE_STORE

LOCAL_SOCKETS = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
POLL_S = 0.2
GRACE_S = 30.0  # for the ranks to save and stop
HELD = {signal.SIGTERM, signal.SIGUSR1}  # held back in a rank until its trainer listens, seconds after its start


def start(run: Path, dataset: Path, *, num_ranks: int, on_cpu: bool, while_running: Callable[[], object]) -> None:
    """Train ``run`` on ``num_ranks`` processes of this machine.

    while_running is called about five times a second; if it returns true the ranks are asked to save and stop. Ctrl-C
    once asks the same, twice ends them at once (KeyboardInterrupt); SIGUSR1 asks them to save and go on. Raises the
    error that a rank ended with; PeerLost if one was killed.
    """
    interrupts: list[int] = []
    saves: list[int] = []
    previous = {
        number: signal.signal(number, lambda received, _frame, heard=heard: heard.append(received))
        for number, heard in ((signal.SIGINT, interrupts), (signal.SIGTERM, interrupts), (signal.SIGUSR1, saves))
    }
    try:
        with tempfile.TemporaryDirectory(prefix="eighteen-") as meeting:
            processes = [
                _rank(run, dataset, rank, num_ranks, Path(meeting) / "store", on_cpu) for rank in range(num_ranks)
            ]
            try:
                _watch(processes, interrupts, saves, while_running)
                codes = [process.poll() for process in processes]
            finally:
                for process in processes:
                    process.kill()
                    process.wait()
            _raise_error(Path(meeting), codes)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _rank(run: Path, dataset: Path, rank: int, size: int, store: Path, on_cpu: bool) -> subprocess.Popen[bytes]:
    own = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        FILE_STORE: str(store),
    }
    environment = {**os.environ, **LOCAL_SOCKETS, **own, **({"CUDA_VISIBLE_DEVICES": ""} if on_cpu else {})}
    # A session of its own: Ctrl-C in the terminal reaches only us, and we decide what the ranks are told.
    # It inherits what is held back.
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    try:
        command = [sys.executable, "-m", "eighteen.training.rank", str(run), str(dataset)]
        return subprocess.Popen(command, env=environment, start_new_session=True)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)


def _watch(
    processes: list[subprocess.Popen[bytes]],
    interrupts: list[int],
    saves: list[int],
    while_running: Callable[[], object],
) -> None:
    """Wait until all ranks have ended, or until ``GRACE_S`` after one has failed."""
    asked, failed_at = False, math.inf
    while any(process.poll() is None for process in processes):
        while saves:
            processes[0].send_signal(saves.pop())
        if len(interrupts) > 1:
            raise KeyboardInterrupt
        if (while_running() or interrupts) and not asked:
            asked = True
            processes[0].send_signal(signal.SIGTERM)  # the ranks agree among themselves
        if any(process.returncode for process in processes):
            failed_at = min(failed_at, time.monotonic())
            if time.monotonic() - failed_at > GRACE_S:
                break
        time.sleep(POLL_S)
    while_running()


def _raise_error(meeting: Path, codes: list[int | None]) -> None:
    """Raise what a rank said it ended with, before that of one that only noticed."""
    if not any(codes):
        return
    told = [json.loads(file.read_text("utf-8")) for file in sorted(meeting.glob("error-*.json"))]
    for kind, (tried, got, need, hint) in sorted(told, key=lambda error: error[0] == PeerLost.__name__):
        raise getattr(errors, kind)(tried, got=got, need=need, hint=hint)
    code, rank = min((code, rank) for rank, code in enumerate(codes) if code)  # a killed one explains the others
    kind = PeerLost if code < 0 else EighteenError
    got = f"rank {rank} {f'killed by {signal.Signals(-code).name}' if code < 0 else f'ended with exit code {code}'}"
    hint = "what it printed above; then eighteen train --resume RUN"
    raise kind(f"train on {len(codes)} ranks", got=got, need="all ranks until the end", hint=hint)
