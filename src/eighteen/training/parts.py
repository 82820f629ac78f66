"""The parts in which a rank's share of a batch goes through the model, and how what they give becomes one step.

``Slices`` are as large as memory or the recipe wants; gradients add up where they are, and DDP averages the ranks'.

``Workers`` are virtual workers: the same bits on 1, 2, 4 ... ranks. A batch is always cut into as many parts as there
are virtual workers, and each rank computes its share of them, one by one. What they give is added up in a binary tree
whose shape does not depend on the ranks: float addition is not associative, but a + b is b + a.

With both, each part starts from the running statistics that the step began with, and what they become is averaged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import cast

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from eighteen.base.world import World
from eighteen.data.maker import Batch
from eighteen.training.dist import Communication


@dataclass(frozen=True)
class Part:
    """start, stop: rows of the rank's share      key: of its random numbers, like no other part's of the step"""

    key: int
    start: int
    stop: int
    is_last: bool


class Slices:
    """Parts as large as a step wants them.

    net: what the step calls; DDP, or a module that is alone      buffers: all running statistics in one tensor
    counters: all integer buffers in one tensor: they count steps and not parts
    before: both as a step began
    """

    def __init__(self, net: nn.Module, buffers: Tensor, counters: Tensor, world: World) -> None:
        self._net, self._buffers, self._counters, self._world = net, buffers, counters, world
        self._in_ddp = isinstance(net, DistributedDataParallel)
        self._sum = torch.zeros_like(buffers)
        self.loss_scale = world.size  # DDP takes the mean over ranks

    def cut(self, batch: Batch, size: int, most: int) -> list[Part]:
        """The parts of a rank's share of a batch of ``size``, of ``most`` samples each or 0, the whole share; with them
        a step begins.
        """
        mine = self._world.slice(size)
        num_samples = mine.stop - mine.start
        starts = range(0, max(1, num_samples), most or max(1, num_samples))
        self._num_parts, self.before = len(starts), (self._buffers.clone(), self._counters.clone())
        if self._num_parts > 1:
            self._sum.zero_()
        return [
            Part(
                key=self._world.rank + self._world.size * number,
                start=batch.row(start),
                stop=batch.row(min(start + starts.step, num_samples)),
                is_last=number == len(starts) - 1,
            )
            for number, start in enumerate(starts)
        ]

    def counts(self, size: int, most: int) -> set[int]:
        """How many pictures a part of a whole batch of ``size`` can have."""
        mine = self._world.slice(size)
        num_samples = mine.stop - mine.start
        most = most or num_samples
        return {min(most, num_samples - start) for start in range(0, num_samples, most)}

    @contextmanager
    def computing(self, part: Part) -> Iterator[None]:
        """For the time of a part's forward and backward pass. Gradients travel between ranks only with the last."""
        if self._num_parts > 1:
            self.take_back()
        with cast(DistributedDataParallel, self._net).no_sync() if self._in_ddp and not part.is_last else nullcontext():
            yield
        if self._num_parts > 1:
            self._sum += self._buffers

    def finish(self) -> None:
        """All parts are done."""
        if self._num_parts > 1:
            torch.div(self._sum, self._num_parts, out=self._buffers)

    def take_back(self) -> None:
        """What a forward pass has done to the buffers."""
        _put_back((self._buffers, self._counters), self.before)


class Workers:
    """``count`` virtual workers, of which this rank has its share; parts are theirs, whatever a step wants.

    The gradients of ``weights`` become views of one flat tensor, as ``buffers``, all running statistics, are already.
    counters: all integer buffers in one tensor: they count steps and not parts
    before: both as a step began
    """

    loss_scale = 1

    def __init__(
        self,
        weights: list[nn.Parameter],
        buffers: Tensor,
        counters: Tensor,
        world: World,
        count: int,
        communication: Communication | None,
    ) -> None:
        self._world, self._count, self._buffers, self._counters = world, count, buffers, counters
        self._communication = communication
        self._sizes = [sum(weight.numel() for weight in weights), buffers.numel()]
        self._gradients = torch.zeros(self._sizes[0], device=weights[0].device)
        for weight, part in zip(weights, self._gradients.split([one.numel() for one in weights]), strict=True):
            weight.grad = part.as_strided(weight.shape, weight.stride(), part.storage_offset())  # in its own layout

    def cut(self, batch: Batch, size: int, most: int) -> list[Part]:
        """The parts of a rank's share of a batch of ``size``; with them a step begins."""
        self.before = self._buffers.clone(), self._counters.clone()
        self._branches: list[tuple[int, Tensor]] = []  # (level, sum): complete branches of the tree, the largest first
        share, first = self._count // self._world.size, self._world.slice(size).start
        mine = range(share * self._world.rank, share * (self._world.rank + 1))
        slices = [(worker, World(worker, self._count).slice(size)) for worker in mine]
        return [
            Part(worker, batch.row(part.start - first), batch.row(part.stop - first), worker == mine[-1])
            for worker, part in slices
        ]

    def counts(self, size: int, most: int) -> set[int]:
        """How many pictures a part of a whole batch of ``size`` can have."""
        share = self._count // self._world.size
        mine = range(share * self._world.rank, share * (self._world.rank + 1))
        slices = (World(worker, self._count).slice(size) for worker in mine)
        return {one.stop - one.start for one in slices}

    @contextmanager
    def computing(self, part: Part) -> Iterator[None]:
        """For the time of a part's forward and backward pass; then what it gave goes into the tree."""
        self._gradients.zero_()
        self.take_back()
        yield
        level, total = 0, torch.cat([self._gradients, self._buffers])
        while self._branches and self._branches[-1][0] == level:
            total = self._branches.pop()[1].add_(total)
            level += 1
        self._branches.append((level, total))

    def finish(self) -> None:
        """All parts are done: gradients are the sum over all ranks' parts, running statistics the mean."""
        ((_, total),) = self._branches  # a rank has a power of two of them, and so one branch
        if self._communication:
            self._communication.ready()
            total = _sum_over_ranks(total, self._world)
        gradients, statistics = total.split(self._sizes)
        self._gradients.copy_(gradients)
        self._buffers.copy_(statistics.div_(self._count))

    def take_back(self) -> None:
        """What a forward pass has done to the buffers."""
        _put_back((self._buffers, self._counters), self.before)


def _put_back(tensors: Iterable[Tensor], before: Iterable[Tensor]) -> None:
    for tensor, kept in zip(tensors, before, strict=True):
        tensor.copy_(kept)


def _sum_over_ranks(own: Tensor, world: World) -> Tensor:
    """The upper part of the tree: each rank adds up one slice of what all have, then all get all slices.

    As much traffic as a ring all-reduce, whose order of additions depends on the number of ranks.
    """
    padded = nn.functional.pad(own, (0, -own.numel() % world.size))
    slices = torch.empty_like(padded)
    torch.distributed.all_to_all_single(slices, padded)
    parts = list(slices.view(world.size, -1))
    while len(parts) > 1:
        parts = [left + right for left, right in zip(parts[::2], parts[1::2], strict=True)]
    torch.distributed.all_gather_into_tensor(padded, parts[0])
    return padded[: own.numel()]
