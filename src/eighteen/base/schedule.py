"""A recipe over a number of samples -> what every step does: phase, size, batch, learning rate. Pure."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from eighteen.base.recipe import Drops, Optim, Phase, Points, Recipe


@dataclass(frozen=True)
class Step:
    """One optimiser step.

    number counts from 0; first is the stream position of its first sample; epoch is that position in epochs.
    phase: its place in ``Recipe.flat_phases``, and row: the phase itself, of one size
    lr is already scaled to the phase's batch.
    """

    number: int
    phase: int
    row: Phase
    first: int
    epoch: float
    lr: float
    momentum: float
    label_smoothing: float

    @property
    def size(self) -> int:
        assert isinstance(self.row.size, int)
        return self.row.size

    @property
    def batch(self) -> int:
        return self.row.batch

    @property
    def micro_batch(self) -> int:
        """Most pictures in one forward pass of a rank; 0: its whole share."""
        return self.row.micro_batch or 0

    @property
    def after(self) -> int:
        """The stream position after its last sample."""
        return self.first + self.batch


_Span = tuple[int, Phase, float, float]  # a phase, and from which epoch of the recipe to which


@dataclass(frozen=True)
class _Stretch:
    """Steps of one phase, from ``step`` on, starting at stream position ``first``.

    planned: the epoch of the recipe it starts at, and how much of it each step passes
    """

    step: int
    first: int
    phase: int
    row: Phase
    planned: float
    planned_per_step: float


@dataclass(frozen=True)
class Schedule:
    """All steps of a run; ``at`` is a lookup, so that a run can start again anywhere.

    epochs: the recipe's      spans: its phases      end: where they end in the stream, between two steps
    """

    optim: Optim
    epochs: float
    num_samples: int
    spans: tuple[_Span, ...]
    stretches: tuple[_Stretch, ...]
    num_steps: int
    end: float

    def at(self, number: int) -> Step:
        """Step ``number`` of 0 .. num_steps-1; IndexError beyond."""
        if not 0 <= number < self.num_steps:
            raise IndexError(number)
        one = self.stretches[self._index(number)]
        first = one.first + (number - one.step) * one.row.batch
        return Step(number, one.phase, one.row, first, first / self.num_samples, *self._rates(one, number))

    def _index(self, number: int) -> int:
        return bisect.bisect_right(self.stretches, number, key=lambda stretch: stretch.step) - 1

    def _rates(self, one: _Stretch, number: int) -> tuple[float, float, float]:
        optim, planned = self.optim, self._planned(one, number)
        lr = learning_rate(optim, planned) * one.row.batch / optim.batch
        momentum, smoothing = (value_at(each, planned, optim.curve) for each in (optim.momentum, optim.label_smoothing))
        return lr, momentum, smoothing

    def _planned(self, one: _Stretch, number: int) -> float:
        return one.planned + (number - one.step) * one.planned_per_step

    def planned(self, number: int) -> float:
        """The epoch of the recipe at which this step begins; that of num_steps is its last."""
        return self.epochs if number >= self.num_steps else self._planned(self.stretches[self._index(number)], number)

    def first_from(self, planned: float) -> int:
        """The first step that begins at this epoch of the recipe or later; num_steps if none does."""
        return bisect.bisect_left(range(self.num_steps), planned, key=self.planned)

    def samples_before(self, number: int) -> int:
        """How many samples the steps before this one have seen; num_steps is allowed."""
        return self.at(number - 1).after if number else 0

    def steps_from(self, number: int) -> list[tuple[Phase, int]]:
        """How many steps of which phase there are from this one on."""
        ends = [stretch.step for stretch in self.stretches[1:]] + [self.num_steps]
        left = ((one.row, end - max(number, one.step)) for one, end in zip(self.stretches, ends, strict=True))
        return [(row, count) for row, count in left if count > 0]

    def visits(self, phase: int) -> int:
        """How often a phase sees each sample, to the nearest whole number."""
        ends = [stretch.step for stretch in self.stretches[1:]] + [self.num_steps]
        of_phase = (pair for pair in zip(self.stretches, ends, strict=True) if pair[0].phase == phase)
        return round(sum((end - one.step) * one.row.batch for one, end in of_phase) / self.num_samples)

    def pixels_from(self, number: int) -> int:
        """How many pixels the steps from this one on see."""
        return sum(count * row.batch * row.sizes[0] ** 2 for row, count in self.steps_from(number))

    def ends_epoch(self, step: Step) -> int | None:
        """The number of the epoch (from 1) that this step brings to its end, if it does; the last step always does."""
        if step.number == self.num_steps - 1:
            return max(1, math.ceil(min(self.end, step.after) / self.num_samples - 1e-6))
        whole = step.after // self.num_samples
        return whole if whole > step.first // self.num_samples else None

    def revised(self, number: int, factor: float, planned: float | None = None) -> Schedule:
        """From step ``number`` on ``factor`` times as many steps as the rest of the recipe has: it is passed faster or
        slower, each phase that is left in proportion, with at least one step; rates still end where they should.

        planned: the epoch of the recipe to go on from, before or after the one that is due
        """
        index = self._index(number)
        kept = self.stretches[: index + (self.stretches[index].step < number)]
        planned = self._planned(self.stretches[index], number) if planned is None else planned
        spans = [
            (phase, row, max(begin, planned), end) for phase, row, begin, end in self.spans if end > planned + 1e-9
        ]
        spans = spans or [(*self.spans[-1][:2], planned, self.epochs)]
        stretches, num_steps, end = _laid(spans, number, self.samples_before(number), self.num_samples, factor)
        return replace(self, stretches=(*kept, *stretches), num_steps=num_steps, end=end)


def schedule(recipe: Recipe, num_samples: int) -> Schedule:
    """Lay a recipe over a split of ``num_samples``.

    Each phase has the whole number of steps nearest to its epochs, at least one.
    """
    spans, end = list[_Span](), 0.0
    for number, row in enumerate(recipe.flat_phases):
        begin, end = end, end + row.epochs
        spans.append((number, row, begin, end))
    stretches, num_steps, samples = _laid(spans, 0, 0, num_samples, 1.0)
    return Schedule(recipe.optim, recipe.epochs, num_samples, tuple(spans), tuple(stretches), num_steps, samples)


def _laid(
    spans: Sequence[_Span], step: int, first: int, num_samples: int, factor: float
) -> tuple[list[_Stretch], int, float]:
    """The stretches of these phases, from and to an epoch of the recipe each, from a step and stream position on; the
    step after the last of them, and where they end in the stream."""
    stretches, end = [], float(first)
    for number, row, planned, until in spans:
        end += (until - planned) * factor * num_samples
        num_steps = max(1, round((end - first) / row.batch))
        stretches.append(_Stretch(step, first, number, row, planned, (until - planned) / num_steps))
        step, first = step + num_steps, first + num_steps * row.batch
    return stretches, step, end


def learning_rate(optim: Optim, epoch: float) -> float:
    """The rate at ``epoch`` (any fraction) for a batch of ``optim.batch``.

    Through the points as ``optim.curve`` says, or dropping step by step.
    """
    if isinstance(optim.lr, Drops):
        return optim.lr.start * optim.lr.factor ** math.floor(epoch / optim.lr.every)
    return value_at(optim.lr, epoch, optim.curve)


def value_at(value: float | Points, epoch: float, curve: str) -> float:
    """What goes through points, at ``epoch``; the last holds after it. A number is the same all the time."""
    if not isinstance(value, list):
        return value
    epochs, values = zip(*value, strict=True)
    right = bisect.bisect_right(epochs, epoch)
    if right == len(epochs):
        return values[-1]
    if curve == "step":
        return values[right - 1]
    along = (epoch - epochs[right - 1]) / (epochs[right] - epochs[right - 1])
    if curve == "cosine":
        along = (1 - math.cos(math.pi * along)) / 2
    return values[right - 1] + (values[right] - values[right - 1]) * along
