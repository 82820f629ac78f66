"""A recipe over a number of samples -> what every step does: phase, size, batch, learning rate. Pure."""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass

from eighteen.base.recipe import Drops, Optim, Phase, Recipe


@dataclass(frozen=True)
class Step:
    """One optimiser step.

    number counts from 0; first is the stream position of its first sample; epoch is that position in epochs.
    lr is already scaled to the phase's batch.
    """

    number: int
    phase: int
    size: int
    batch: int
    min_scale: float
    first: int
    epoch: float
    lr: float


@dataclass(frozen=True)
class _Stretch:
    """The steps of one phase: from ``step`` on, starting at stream position ``first``."""

    step: int
    first: int
    phase: Phase


@dataclass(frozen=True)
class Schedule:
    """All steps of a run; ``at`` is a lookup, so that a run can start again anywhere."""

    optim: Optim
    epochs: float
    num_samples: int
    stretches: tuple[_Stretch, ...]
    num_steps: int

    def at(self, number: int) -> Step:
        """Step ``number`` of 0 .. num_steps-1; IndexError beyond."""
        if not 0 <= number < self.num_steps:
            raise IndexError(number)
        index = bisect.bisect_right(self.stretches, number, key=lambda stretch: stretch.step) - 1
        stretch = self.stretches[index]
        phase = stretch.phase
        first = stretch.first + (number - stretch.step) * phase.batch
        epoch = first / self.num_samples
        lr = learning_rate(self.optim, epoch) * phase.batch / self.optim.batch
        return Step(number, index, phase.size, phase.batch, phase.min_scale, first, epoch, lr)

    def samples_before(self, number: int) -> int:
        """How many samples the steps before this one have seen; num_steps is allowed."""
        if number == 0:
            return 0
        last = self.at(number - 1)
        return last.first + last.batch

    def pixels_from(self, number: int) -> int:
        """How many pixels the steps from this one on see."""
        ends = [stretch.step for stretch in self.stretches[1:]] + [self.num_steps]
        steps = (max(0, end - max(number, one.step)) for one, end in zip(self.stretches, ends, strict=True))
        return sum(n * one.phase.batch * one.phase.size**2 for n, one in zip(steps, self.stretches, strict=True))

    def ends_epoch(self, step: Step) -> int | None:
        """The number of the epoch (from 1) that this step brings to its end, if it does; the last step always does."""
        after = step.first + step.batch
        if step.number == self.num_steps - 1:
            return max(1, math.ceil(min(self.epochs, after / self.num_samples) - 1e-6))
        whole = after // self.num_samples
        return whole if whole > step.first // self.num_samples else None


def schedule(recipe: Recipe, num_samples: int) -> Schedule:
    """Lay a recipe over a split of ``num_samples``.

    Each phase has the whole number of steps nearest to its epochs, at least one.
    """
    stretches, step, first, end = [], 0, 0, 0.0
    for phase in recipe.phases:
        stretches.append(_Stretch(step, first, phase))
        end += phase.epochs * num_samples
        num_steps = max(1, round((end - first) / phase.batch))
        step, first = step + num_steps, first + num_steps * phase.batch
    return Schedule(recipe.optim, recipe.epochs, num_samples, tuple(stretches), step)


def learning_rate(optim: Optim, epoch: float) -> float:
    """The rate at ``epoch`` (any fraction) for a batch of ``optim.batch``.

    Through the points as ``optim.curve`` says, or dropping step by step.
    """
    if isinstance(optim.lr, Drops):
        return optim.lr.start * optim.lr.factor ** math.floor(epoch / optim.lr.every)
    epochs, values = zip(*optim.lr, strict=True)
    right = bisect.bisect_right(epochs, epoch)
    if right == len(epochs):
        return values[-1]
    if optim.curve == "step":
        return values[right - 1]
    along = (epoch - epochs[right - 1]) / (epochs[right] - epochs[right - 1])
    if optim.curve == "cosine":
        along = (1 - math.cos(math.pi * along)) / 2
    return values[right - 1] + (values[right] - values[right - 1]) * along
