"""What a machine takes for each part of a training alone, as figures: seconds, how much is done in them, and how often
that was measured. Pure: ``measure`` and ``wires`` take the times, ``results.parts`` shows them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from eighteen.advice.feeding import Spread, spread
from eighteen.base.errors import DataError
from eighteen.base.hardware import environment
from eighteen.base.machine import Machine


@dataclass(frozen=True)
class Part:
    """kind: "disk", "decode", "copy", "step", "evaluate", "all-reduce", "checkpoint", or "run": of a whole one

    about: what else it is of, such as its size in pixels and its number of threads
    seconds: of doing it once      amount, unit: of what is done then      count: how often that was measured
    """

    kind: str
    about: Mapping[str, Any]
    seconds: Spread
    amount: float
    unit: str
    count: int

    @property
    def rate(self) -> float:
        """Units a second."""
        return self.amount / max(self.seconds.median, 1e-12)


@dataclass(frozen=True)
class Parts:
    """A whole measurement. unmeasured: what could not be, and why"""

    machine: Machine
    dataset: str
    recipe: str
    model: str
    num_weights: int
    device: str
    precision: str
    threads: int
    parts: Sequence[Part]
    unmeasured: Mapping[str, str] = field(default_factory=dict)

    def find(self, kind: str, **about: Any) -> Part | None:
        """The part of this kind that is of all this; None if it was not measured."""
        return next((one for one in self.parts if one.kind == kind and about.items() <= one.about.items()), None)


def part(kind: str, times: Sequence[float], amount: float, unit: str, **about: Any) -> Part:
    return Part(kind, about, spread(times), amount, unit, len(times))


def figures(found: Parts) -> dict[str, Any]:
    """All of them as JSON has it."""
    return {"v": 1, "environment": environment(), **asdict(found)}


def read(path: Path) -> Parts:
    """What ``eighteen bench --json`` wrote. DataError for anything else."""
    try:
        told = json.loads(path.read_text("utf-8"))
        told.pop("environment")
        if told.pop("v") != 1:
            raise ValueError("figures of a newer eighteen")
        return TypeAdapter(Parts).validate_python(told)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        got = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        need, hint = "the figures of a machine", "eighteen bench DATASET --json machine.json, on that machine"
        raise DataError(f"read {path}", got=got, need=need, hint=hint) from None


def bus_bytes_per_s(num_bytes: int, num_ranks: int, seconds: float) -> float:
    """Of an all-reduce: what each link carries in a ring, 2 (n - 1) / n times the bytes (NVIDIA's nccl-tests,
    PERFORMANCE.md), so that it compares with what a link can do.
    """
    return 2 * (num_ranks - 1) / num_ranks * num_bytes / seconds
