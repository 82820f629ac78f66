"""What an all-reduce takes between ranks: seconds by number of ranks and of bytes.

Between ranks that somebody has started (torchrun, on several machines) all of them call ``between``. Alone, ``here``
starts as many processes as are asked for, which meet in a folder, and listen nowhere but on the loopback interface.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence

import torch
import torch.distributed

from eighteen.advice.ceilings import synchronize
from eighteen.advice.peers import asked
from eighteen.base.world import World, from_environment, leave
from eighteen.training import dist

SMALL = 4  # bytes, of which an all-reduce is all latency
ROUNDS = {True: 30, False: 5}  # of small ones, and of large ones


def here(num_ranks: int, num_bytes: int, *, on_cpu: bool) -> dict[int, list[float]]:
    """Between so many new processes of this machine: seconds of each all-reduce, by its bytes. Raises as ``asked``."""
    told = asked(num_ranks, "eighteen.advice.wires", str(num_bytes), on_cpu=on_cpu)
    return {int(size): seconds for size, seconds in json.loads(told).items()}


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


def _main(arguments: Sequence[str]) -> None:
    if not arguments:  # whoever started us says how many bytes, once all ranks have come so far
        print("ready", flush=True)
        arguments = [sys.stdin.readline()]
    world = from_environment()
    device = dist.device_of(world)
    with dist.connected(world, device):
        found = between(world, device, int(arguments[0]))
    if world.is_first:
        print(json.dumps(found))


if __name__ == "__main__":
    _main(sys.argv[1:])
    leave(0)
