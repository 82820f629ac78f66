"""How fast the loader feeds a trainer: passes go in; CPU time a picture, images a second and scaling come out.

Pure: ``passes`` makes the passes, ``results.feeding`` shows what they amount to.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Task:
    """What is made of each picture: a random part of it, as in training, or its centre, as in evaluation."""

    name: str
    size: int
    is_random: bool


TASKS = (Task("crop 128", 128, True), Task("crop 224", 224, True), Task("val 224", 224, False))


@dataclass(frozen=True)
class Setting:
    """What a pass does.

    bare: no loader, only its decoder: bytes that are in memory already, one batch after another into the same memory
    """

    task: Task
    rendition: str
    num_threads: int
    bare: bool = False


@dataclass(frozen=True)
class Pass:
    """Once through all pictures, threads started and ended.

    cpu_s: user and system time of the process; of a bare pass without the verifying of checksums
    stages_s: seconds of threads, by stage; empty for the loader's evaluation, which does not tell
    grown_bytes: memory of the process at its height above that before; None where the system does not tell
    """

    num_pictures: int
    wall_s: float
    cpu_s: float
    stages_s: Mapping[str, float]
    grown_bytes: int | None


Passes = Mapping[Setting, Sequence[Pass]]  # as many a setting, those of one round at the same place


@dataclass(frozen=True)
class Spread:
    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """What the passes of a setting amount to.

    speedup: images/s over those of one thread      over_bare: CPU time over that of the bare pass; both round by round
    shares: of the stages in what threads spent, adding up to 1
    read_bytes: a picture      grown_bytes: the most of all passes
    """

    setting: Setting
    cpu_ms: Spread  # a picture
    images_per_s: Spread
    speedup: Spread | None
    over_bare: Spread | None
    shares: Mapping[str, float]
    read_bytes: float
    grown_bytes: int | None


@dataclass(frozen=True)
class Feeding:
    """A whole measurement; open_s and first_batch_s: to open the dataset, and from there to the first batch."""

    decoder: str
    num_pictures: int
    batch: int
    num_repeats: int
    open_s: float
    first_batch_s: float
    rows: Sequence[Row]


def thread_counts(num_cpus: int) -> list[int]:
    """1, 2, 4 ... and all of them."""
    return sorted({num_cpus, *(2**power for power in range(num_cpus.bit_length()))})


def rows(passes: Passes, *, read_bytes: Mapping[str, float]) -> list[Row]:
    """A row a setting; read_bytes: a picture, by rendition."""
    return [
        Row(
            setting,
            spread([1000 * one.cpu_s / one.num_pictures for one in done]),
            spread([one.num_pictures / one.wall_s for one in done]),
            _ratios(passes.get(replace(setting, num_threads=1), ()), done, "wall_s"),
            None if setting.bare else _ratios(done, passes.get(replace(setting, bare=True), ()), "cpu_s"),
            shares(done),
            0.0 if setting.bare else read_bytes[setting.rendition],
            max((one.grown_bytes for one in done if one.grown_bytes is not None), default=None),
        )
        for setting, done in passes.items()
    ]


def spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


def shares(passes: Sequence[Pass]) -> dict[str, float]:
    """The part of each stage in what the threads spent, over all passes."""
    stages = {stage: sum(one.stages_s[stage] for one in passes) for stage in passes[0].stages_s}
    total = sum(stages.values())
    return {stage: seconds / total for stage, seconds in stages.items()} if total else {}


def _ratios(above: Sequence[Pass], below: Sequence[Pass], time: str) -> Spread | None:
    """Of a time, pass by pass; None where there is nothing to compare with."""
    if not (above and below):
        return None
    return spread([getattr(a, time) / getattr(b, time) for a, b in zip(above, below, strict=True)])
