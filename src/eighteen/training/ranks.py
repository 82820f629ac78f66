"""One process per GPU: starts the ranks of a run on this machine, passes signals on, and ends with their exit code.

The ranks meet in a file and talk over the loopback interface, so nothing listens where others could reach it.
``python -m eighteen.training.ranks RUN DATASET`` is one rank.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from eighteen.base import recipe as recipes
from eighteen.base import rundir, world
from eighteen.base.errors import EighteenError

LOCAL_SOCKETS = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
GRACE_S = 30.0  # for the ranks to save and stop


def start(run: Path, dataset: Path, *, num_ranks: int, on_cpu: bool, while_running: Callable[[], object]) -> int:
    """Train ``run`` on ``num_ranks`` processes of this machine; returns the exit code of the first rank that failed, 0 if none did.

    while_running is called about five times a second; if it returns true the ranks are asked to save and stop. Ctrl-C once asks the same,
    twice ends them at once.
    """
    interrupts: list[int] = []
    previous = {number: signal.signal(number, lambda received, _frame: interrupts.append(received)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with tempfile.TemporaryDirectory(prefix="eighteen-") as meeting:
            processes = [_rank(run, dataset, rank, num_ranks, Path(meeting) / "store", on_cpu) for rank in range(num_ranks)]
            try:
                return _watch(processes, interrupts, while_running)
            finally:
                for process in processes:
                    process.kill()
                    process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _rank(run: Path, dataset: Path, rank: int, size: int, store: Path, on_cpu: bool) -> subprocess.Popen[bytes]:
    own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "EIGHTEEN_FILE_STORE": str(store)}
    environment = {**os.environ, **LOCAL_SOCKETS, **own, **({"CUDA_VISIBLE_DEVICES": ""} if on_cpu else {})}
    # A session of its own: Ctrl-C in the terminal reaches only us, and we decide what the ranks are told.
    return subprocess.Popen([sys.executable, "-m", "eighteen.training.ranks", str(run), str(dataset)], env=environment, start_new_session=True)


def _watch(processes: list[subprocess.Popen[bytes]], interrupts: list[int], while_running: Callable[[], object]) -> int:
    asked = grace = 0.0
    while any(process.poll() is None for process in processes):
        stop = while_running()
        if len(interrupts) > 1:
            return 130
        if (stop or interrupts) and not asked:
            asked = 1.0
            processes[0].send_signal(signal.SIGTERM)  # the ranks agree among themselves
        failed = [process.returncode for process in processes if process.returncode not in (None, 0)]
        if failed and (grace := grace + 0.2) > GRACE_S:
            return _exit_code(failed)
        try:
            processes[0].wait(0.2)
        except subprocess.TimeoutExpired:
            continue
        if all(process.returncode is not None for process in processes[1:]):
            break
        try:  # the first rank has ended: the others follow within moments, or not at all
            processes[-1].wait(0.2)
        except subprocess.TimeoutExpired:
            continue
    while_running()
    return _exit_code([process.returncode for process in processes if process.returncode != 0])


def _exit_code(failed: list[int]) -> int:
    """The most telling of the ranks' exit codes: a rank's own verdict before that of one that only lost its peer; 7 for one that was killed."""
    verdicts = sorted((code for code in failed if code > 0), key=lambda code: code in (1, 7))
    return verdicts[0] if verdicts else 7 if failed else 0


def main(arguments: list[str]) -> int:
    """One rank of ``RUN DATASET``."""
    from eighteen.data import dataset as datasets
    from eighteen.training.train import train

    run, data = rundir.open(arguments[0]), datasets.open(arguments[1])
    recipe = recipes.load(str(run.recipe))
    try:
        train(recipe, data, run, world.from_environment())
    except EighteenError as error:
        if world.from_environment().is_first:
            print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
