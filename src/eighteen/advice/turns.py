"""What turns of training amount to: turns go in; images/s, overhead and shares of ceilings come out.

Pure: ``training`` takes the turns, ``results.training`` shows what they amount to.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from eighteen.advice.ceilings import Ceilings
from eighteen.advice.feeding import Spread, spread
from eighteen.advice.roofline import Kernel, Roofline, roofline

Pictures = Literal["synthetic", "real"]
Loop = Literal["ours", "bare", "lightning"]
RIVALS: tuple[Loop, Loop] = ("bare", "lightning")


@dataclass(frozen=True)
class Variant:
    """What takes a turn.

    pictures: "synthetic": batches that lie on the device; "real": read, decoded and cropped by the loader
    compiled: by torch.compile
    loop: our trainer; "bare": only a loop of PyTorch's calls; "lightning": the Trainer of the package of that name
    """

    size: int
    batch: int
    pictures: Pictures
    compiled: bool
    loop: Loop = "ours"

    @property
    def name(self) -> str:
        how = "compiled" if self.compiled else "eager"
        return f"{self.size} px, {self.pictures}, {how}{'' if self.loop == 'ours' else f', {self.loop}'}"


@dataclass(frozen=True)
class Turn:
    """Steps one after the other: seconds a step, and which share of them the trainer waited for pictures."""

    step_s: float
    waited: float


Turns = Mapping[Variant, Sequence[Turn]]  # as many a variant, those of one round at the same place


@dataclass(frozen=True)
class Row:
    """What the turns of a variant amount to.

    over_bare: step time over that of the bare loop, round by round; None where there is none to compare with
    lightning_over: Lightning's step time over this one, likewise
    of_matmul, of_memory: the model's arithmetic and bytes a second, of the ceilings
    of_roofline: images/s, of what both together allow
    first_s: the whole of the turn before the first round, in which torch compiles
    """

    variant: Variant
    images_per_s: Spread
    over_bare: Spread | None
    lightning_over: Spread | None
    waited: Spread
    of_matmul: float
    of_memory: float
    of_roofline: float
    first_s: float


@dataclass(frozen=True)
class Training:
    """A whole measurement.

    ceilings: medians of those measured once a round      rooflines: by size      left_out: variants, and why
    """

    model: str
    recipe: str
    device: str
    num_threads: int
    num_steps: int
    num_rounds: int
    ceilings: Ceilings
    rooflines: Mapping[int, Roofline]
    rows: Sequence[Row]
    left_out: Mapping[str, str]


def rows(
    turns: Turns, *, first_s: Mapping[Variant, float], rooflines: Mapping[int, Roofline], top: Ceilings
) -> list[Row]:
    """A row a variant."""
    return [_row(variant, turns, first_s[variant], rooflines[variant.size], top) for variant in turns]


def _row(variant: Variant, turns: Turns, first_s: float, most: Roofline, top: Ceilings) -> Row:
    done = turns[variant]
    speed = spread([variant.batch / turn.step_s for turn in done])
    is_compared = variant.loop == "ours" and variant.pictures == "synthetic"
    bare, lightning = (turns.get(replace(variant, loop=loop), []) if is_compared else [] for loop in RIVALS)
    return Row(
        variant,
        speed,
        _ratios(done, bare),
        _ratios(lightning, done),
        spread([turn.waited for turn in done]),
        speed.median * most.flops / top.flops_per_s,
        speed.median * most.num_bytes / top.bytes_per_s,
        speed.median / most.images_per_s,
        first_s,
    )


def _ratios(above: Sequence[Turn], below: Sequence[Turn]) -> Spread | None:
    """Of step times, round by round."""
    return spread([a.step_s / b.step_s for a, b in zip(above, below, strict=True)]) if above and below else None


def rooflines(kernels: Mapping[int, Sequence[Kernel]], top: Ceilings) -> dict[int, Roofline]:
    return {size: roofline(some, top) for size, some in kernels.items()}


def medians(several: Sequence[Ceilings]) -> Ceilings:
    flops, num_bytes = (
        statistics.median(getattr(one, key) for one in several) for key in ("flops_per_s", "bytes_per_s")
    )
    return Ceilings(several[0].dtype, flops, num_bytes)
