"""Nets that train in no time, as recipes name them: ``small_nets:grouped``, and some that fail on purpose.

Each takes [N, in_chans, H, W] float, H and W from 8 px up, and returns logits [N, num_classes].
"""

from __future__ import annotations

import hashlib
import math
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

PACE_S = "EIGHTEEN_TEST_PACE_S"
GATE = "EIGHTEEN_TEST_GATE"  # a named pipe: ``gated`` waits at its sixth step until somebody opens it for writing


def grouped(num_classes: int, in_chans: int) -> nn.Sequential:
    """Without batch statistics: what it learns does not depend on how a batch is cut.

    Smooth: at the kink of a ReLU the last bit of a sum decides, and after 24 steps rounding alone made 4e-3.
    """
    body = nn.Sequential(
        nn.Conv2d(in_chans, 8, 3, 2, 1, bias=False),
        nn.GroupNorm(2, 8),
        nn.SiLU(),
        nn.Conv2d(8, 16, 3, 2, 1),
        nn.SiLU(),
    )
    return _with_head(body, num_classes)


def normed(num_classes: int, in_chans: int) -> nn.Sequential:
    """With all that makes a resume hard: batch norm's running statistics and dropout's random numbers."""
    body = nn.Sequential(
        nn.Conv2d(in_chans, 8, 3, 2, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Conv2d(8, 16, 3, 2, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
    )
    return _with_head(body, num_classes)


def smooth(num_classes: int, in_chans: int) -> nn.Sequential:
    """Batch norm, and neither dropout nor kinks: worlds differ only by rounding where batch statistics do not."""
    body = nn.Sequential(
        nn.Conv2d(in_chans, 8, 3, 2, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.SiLU(),
        nn.Conv2d(8, 16, 3, 2, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.SiLU(),
    )
    return _with_head(body, num_classes)


def _with_head(body: nn.Sequential, num_classes: int) -> nn.Sequential:
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(OrderedDict(body=body, pool=pool, head=nn.Linear(16, num_classes)))


def broad(num_classes: int, in_chans: int) -> nn.Module:
    """With many weights, 2 MB of them: for tests of disks."""
    body = nn.Sequential(nn.AdaptiveAvgPool2d(16), nn.Flatten(), nn.Linear(in_chans * 256, 640), nn.SiLU())
    return nn.Sequential(OrderedDict(body=body, head=nn.Linear(640, num_classes)))


class Faulty(nn.Module):
    """``net``, whose logits are nan in the forward passes ``nan_at`` of training, counted from 0, on one rank.

    witness: where each rank writes down the digest of its weights before each of these passes, if not ""
    """

    def __init__(self, net: nn.Module, nan_at: Sequence[int], rank: int, witness: str = "") -> None:
        super().__init__()
        self.net, self._count = net, -1
        here = int(os.environ.get("RANK", rank))
        self._nan_at = nan_at if here == rank else ()
        self._witness = f"{witness}-{here}" if witness else None

    def forward(self, images: Tensor) -> Tensor:
        self._count += self.training
        if self._witness and self.training:
            with open(self._witness, "a") as file:
                print(digest(self.net), file=file)
        return self.net(images) * (math.nan if self.training and self._count in self._nan_at else 1.0)


def faulty(num_classes: int, in_chans: int, nan_at: Sequence[int] = (), rank: int = 0) -> Faulty:
    return Faulty(normed(num_classes, in_chans), nan_at, rank)


def faulty_grouped(
    num_classes: int, in_chans: int, nan_at: Sequence[int] = (), rank: int = 0, witness: str = ""
) -> Faulty:
    return Faulty(grouped(num_classes, in_chans), nan_at, rank, witness)


def digest(net: nn.Module) -> str:
    """Of the bits of all weights."""
    sha = hashlib.sha256()
    for tensor in net.state_dict().values():
        sha.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()


class Gated(nn.Module):
    """``normed``, but with a gate: see ``GATE``."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.step = net, 0

    def forward(self, images: Tensor) -> Tensor:
        self.step += self.training
        if self.step == 6 and self.training and (gate := os.environ.get(GATE)):
            print("at the gate", file=sys.stderr, flush=True)
            os.close(os.open(gate, os.O_RDONLY))
        return self.net(images)


class Troubled(nn.Module):
    """``net`` on a bad machine: each forward pass of training takes ``slow_s`` longer, until step ``slow_to``, and a
    bit of a weight flips at step ``flip_at``; on one rank, or on all if it is None.
    """

    def __init__(self, net: nn.Module, slow_s: float, slow_to: float, flip_at: int, rank: int | None) -> None:
        super().__init__()
        self.net, self._count = net, -1
        is_meant = rank is None or int(os.environ.get("RANK", 0)) == rank
        self._slow_s, self._slow_to, self._flip_at = slow_s, slow_to if is_meant else 0, flip_at if is_meant else -1

    def forward(self, images: Tensor) -> Tensor:
        self._count += self.training
        if self.training and self._count < self._slow_to:
            time.sleep(self._slow_s)
        if self.training and self._count == self._flip_at:
            next(self.parameters()).detach().view(torch.int32)[0, 0, 0, 0] ^= 1 << 7
        return self.net(images)


def troubled(
    num_classes: int,
    in_chans: int,
    slow_s: float = 0.0,
    slow_to: float = math.inf,
    flip_at: int = -1,
    rank: int | None = None,
    net: str = "grouped",
) -> Troubled:
    return Troubled(globals()[net](num_classes, in_chans), slow_s, slow_to, flip_at, rank)


class Cramped(nn.Module):
    """``net``, which wants more memory than any machine has for more than ``room`` pictures (of each rank) at a time,
    from its forward pass ``since`` of training on.
    """

    def __init__(self, net: nn.Module, room: Sequence[int], since: int) -> None:
        super().__init__()
        self.net, self._since, self._count = net, since, -1
        self._room = room[int(os.environ.get("RANK", 0)) % len(room)]

    def forward(self, images: Tensor) -> Tensor:
        self._count += self.training
        logits = self.net(images)
        if self.training and self._count >= self._since and len(images) > self._room:
            torch.empty(2**52)
        return logits


def cramped(num_classes: int, in_chans: int, room: Sequence[int], since: int = 0, net: str = "normed") -> Cramped:
    return Cramped(globals()[net](num_classes, in_chans), room, since)


class Paced(nn.Module):
    """``normed``, whose forward passes of training take as long as ``PACE_S`` says."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        time.sleep(float(os.environ.get(PACE_S, 0)) * self.training)
        return self.net(images)


def paced(num_classes: int, in_chans: int) -> Paced:
    return Paced(normed(num_classes, in_chans))


def gated(num_classes: int, in_chans: int) -> Gated:
    return Gated(normed(num_classes, in_chans))


def heavy_gated(num_classes: int, in_chans: int) -> Gated:
    """``gated``, with 64 MB that learn nothing, so that saving takes a while."""
    net = gated(num_classes, in_chans)
    net.ballast = nn.Parameter(torch.zeros(2**24), requires_grad=False)
    return net


def crooked(num_classes: int, in_chans: int) -> nn.Module:
    """One logit too many."""
    return grouped(num_classes + 1, in_chans)


class Pair(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.net(images), images


def pair(num_classes: int, in_chans: int) -> Pair:
    """Returns a tuple."""
    return Pair(grouped(num_classes, in_chans))


def picky(num_classes: int, in_chans: int) -> nn.Module:
    """Takes pictures of 32 px only."""
    return nn.Sequential(nn.Flatten(), nn.Linear(in_chans * 32 * 32, num_classes))


def no_module(num_classes: int, in_chans: int) -> Tensor:
    return torch.zeros(num_classes, in_chans)
