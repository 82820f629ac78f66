"""What the ranks compare while they train: how fast each is, and that all have the same weights.

They exchange a few bytes every 10 steps and read them two steps later, so that no step waits for them.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterator, Sequence

import torch
import torch.distributed
from torch import Tensor

from eighteen.base.errors import MachineError
from eighteen.base.schedule import Step
from eighteen.base.world import World
from eighteen.training.heartbeat import Heartbeat
from eighteen.training.state import State

EVERY, WEIGHTS_EVERY = 10, 100  # steps
# Numbers at a time. On a CPU so few that caches hold them and no threads are woken: 10 times as fast as whole tensors.
CHUNKS = {"cpu": 2**14, "cuda": 2**22}
SLOW = 0.75  # of the median speed of the others
NUM_TIMES = 3  # in a row that a rank has to be found slow: anything can disturb a few steps

_ODD = 0x9E3779B97F4A7C15 - 2**64  # multiplying with an odd number loses no bit of 64


class Comparison:
    """Call ``stepped`` after every step, on every rank."""

    def __init__(self, world: World, device: torch.device, state: State, pulse: Heartbeat) -> None:
        self._world, self._device, self._state, self._pulse = world, device, state, pulse
        if state.communication:
            state.communication.reached = pulse.reached
        self._busy_before, self._phase = 0.0, -1
        self._recent: deque[Sequence[int]] = deque(maxlen=NUM_TIMES)  # what ``_read`` found
        self._slow: set[int] = set()
        self._sent: tuple[int, bool, Tensor, torch.distributed.Work | None] | None = None
        self._arriving: tuple[int, bool, Tensor, torch.cuda.Event | None] | None = None

    def stepped(self, now: Step) -> Iterator[str]:
        """A sentence for each rank that has become slow. Raises MachineError if a rank has other weights."""
        if self._world.size == 1:
            return
        if self._arriving:
            yield from self._read(*self._arriving)
        self._arriving = self._sent and self._fetch(*self._sent)
        self._sent = None
        if (now.number + 1) % EVERY == 0:
            self._sent = self._send(now, with_weights=(now.number + 1) % WEIGHTS_EVERY == 0)

    def check(self) -> None:
        """Compare the weights now, and wait for it."""
        if self._world.size > 1:
            found = self._gathered(fingerprint(self._state.model.parameters())[None], wait=True)[0]
            _same_weights(found.flatten().tolist(), self._state.step)

    def _send(self, now: Step, *, with_weights: bool) -> tuple[int, bool, Tensor, torch.distributed.Work | None]:
        waited_s = self._state.communication.waited_s() if self._state.communication else 0.0
        busy = self._pulse.seconds["step"] + self._pulse.seconds["data"] - waited_s
        since, self._busy_before = busy - self._busy_before, busy
        # a phase begins with what is not its usual pace: pictures to fetch ahead, kernels to compile
        microseconds = round(1e6 * since) if now.phase == self._phase else 0
        self._phase = now.phase
        mine = torch.tensor([microseconds, 0], dtype=torch.int64).to(self._device, non_blocking=True)
        if with_weights:
            mine[1] = fingerprint(self._state.model.parameters())
        return now.number, with_weights, *self._gathered(mine, wait=False)

    def _gathered(self, mine: Tensor, *, wait: bool) -> tuple[Tensor, torch.distributed.Work | None]:
        every = mine.new_empty(self._world.size * len(mine))
        work = torch.distributed.all_gather_into_tensor(every, mine, async_op=not wait)
        return every.view(self._world.size, -1), work

    def _fetch(
        self, step: int, with_weights: bool, every: Tensor, work: torch.distributed.Work | None
    ) -> tuple[int, bool, Tensor, torch.cuda.Event | None]:
        if work:
            work.wait()  # since a step it has had time to arrive
        if self._device.type != "cuda":
            return step, with_weights, every, None
        every, done = every.to("cpu", non_blocking=True), torch.cuda.Event()
        done.record()
        return step, with_weights, every, done

    def _read(self, step: int, with_weights: bool, every: Tensor, done: torch.cuda.Event | None) -> Iterator[str]:
        if done:
            done.synchronize()
        if with_weights:
            _same_weights(every[:, 1].tolist(), step + 1)
        self._recent.append(every[:, 0].tolist())
        if len(self._recent) < NUM_TIMES or not all(map(all, self._recent)):
            return
        found = [slow_ranks(busy) for busy in self._recent]
        slow = set.intersection(*found) | (self._slow & set.union(*found))
        whole = [sum(busy) for busy in zip(*self._recent, strict=True)]
        for rank in sorted(slow - self._slow):
            steps = f"{EVERY * NUM_TIMES} steps up to step {step}"
            yield f"rank {rank} is slow: {speed(whole, rank):.2f} of the speed of the others over {steps}"
        self._slow = slow


def slow_ranks(busy: Sequence[float]) -> set[int]:
    """The ranks below 0.75 of the median speed of the others; busy: what each took for the same work, by rank."""
    return {rank for rank in range(len(busy)) if speed(busy, rank) < SLOW}


def speed(busy: Sequence[float], rank: int) -> float:
    """That of a rank, as a share of the median of the others."""
    return statistics.median([one for other, one in enumerate(busy) if other != rank]) / busy[rank]


def fingerprint(tensors: Iterator[Tensor]) -> Tensor:
    """64 bits of all tensors, in order, computed where they are: [] int64. One changed bit always changes it."""
    total: Tensor | int = 0
    odd: Tensor | None = None
    for tensor in tensors:
        size = CHUNKS[tensor.device.type]
        odd = torch.arange(1, 2 * size, 2, device=tensor.device) if odd is None else odd
        bits = tensor.detach().view(_INTEGERS[tensor.element_size()])
        # as it lies in memory, mostly channels_last: no copy
        for part in (bits.permute(0, 2, 3, 1) if bits.dim() == 4 else bits).flatten().split(size):
            total = total * _ODD + (part * odd[: len(part)]).sum()  # in 64 bits, and wraps around there
    assert isinstance(total, Tensor)
    return total


_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _same_weights(found: Sequence[int], step: int) -> None:
    if len(set(found)) == 1:
        return
    usual = max(found, key=lambda one: (found.count(one), -found.index(one)))  # of two, the first rank's
    others = [str(rank) for rank, one in enumerate(found) if one != usual]
    named = f"rank {', '.join(others)}" if len(others) == 1 else f"ranks {', '.join(others)}"
    raise MachineError(
        f"compare the weights of {len(found)} ranks after step {step}",
        got=f"other bits on {named}",
        need="the same on all",
        hint="test the memory of that device; then eighteen train --resume RUN, from before it",
    )
