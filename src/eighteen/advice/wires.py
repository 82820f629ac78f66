"""What an all-reduce takes between ranks: seconds by number of ranks and of bytes.

Between ranks that somebody has started (torchrun, on several machines) all of them call ``between``. Alone, ``here``
starts as many processes as are asked for, which meet in a folder, and listen nowhere but on the loopback interface.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.distributed

from eighteen.advice.ceilings import synchronize
from eighteen.base.errors import MachineError
from eighteen.base.world import FILE_STORE, World, from_environment, leave
from eighteen.training import dist
from eighteen.training.ranks import LOCAL_SOCKETS

SMALL = 4  # bytes, of which an all-reduce is all latency
ROUNDS = {True: 30, False: 5}  # of small ones, and of large ones
LIMIT_S = 120.0  # for ranks that we start


def here(num_ranks: int, num_bytes: int, *, on_cpu: bool) -> dict[int, list[float]]:
    """Between so many new processes of this machine: seconds of each all-reduce, by its bytes.

    raises MachineError with what they said if they fail
    """
    with TemporaryDirectory(prefix="eighteen-") as folder, ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "eighteen.advice.wires", str(num_bytes)],
                    env=os.environ | _environment(rank, num_ranks, Path(folder), on_cpu),
                    stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            for rank in range(num_ranks)
        ]
        try:
            told = [process.communicate(timeout=LIMIT_S) for process in processes]
        except subprocess.TimeoutExpired:
            told = [("", f"no answer for {LIMIT_S:g} s")]
        finally:
            for process in processes:
                process.kill()
    if any(process.returncode for process in processes):
        said = next((error.strip().splitlines()[-1] for _, error in told if error.strip()), "nothing")
        need, hint = "an all-reduce", "see what the ranks said"
        raise MachineError(f"connect {num_ranks} ranks", got=said, need=need, hint=hint)
    return {int(size): seconds for size, seconds in json.loads(told[0][0]).items()}


def between(world: World, device: torch.device, num_bytes: int) -> dict[int, list[float]]:
    """Between the ranks of this world, all of which call it: seconds of each all-reduce, by its bytes; the slowest
    rank's.
    """
    found = {}
    for size in (SMALL, num_bytes):
        payload, rounds = torch.zeros(size // 4, device=device), ROUNDS[size == SMALL]
        times = [_once(payload, device) for _ in range(1 + rounds)][1:]  # the first one also connects
        slowest = torch.tensor(times, device=device)
        torch.distributed.all_reduce(slowest, torch.distributed.ReduceOp.MAX)
        found[size] = slowest.tolist()
    return found


def _once(payload: torch.Tensor, device: torch.device) -> float:
    torch.distributed.barrier()
    synchronize(device)
    began = time.perf_counter()
    torch.distributed.all_reduce(payload)
    synchronize(device)
    return time.perf_counter() - began


def _environment(rank: int, size: int, folder: Path, on_cpu: bool) -> dict[str, str]:
    ranks = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size}
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if on_cpu else {}
    return (
        {name: str(value) for name, value in ranks.items()}
        | LOCAL_SOCKETS
        | hidden
        | {FILE_STORE: str(folder / "meet")}
    )


def _main(arguments: Sequence[str]) -> None:
    world = from_environment()
    device = dist.device_of(world)
    with dist.connected(world, device):
        found = between(world, device, int(arguments[0]))
    if world.is_first:
        print(json.dumps(found))


if __name__ == "__main__":
    _main(sys.argv[1:])
    leave(0)
