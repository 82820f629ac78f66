"""Steps that one rank takes alone, on noise or on pictures: which of them fit into memory, and how long they take.

None of them waits for another rank, so whoever runs out of memory keeps nobody waiting. On a GPU torch is told how much
it may take. On the CPU the kernel would end the process: a step larger than all before it is only taken if there is
room for what those took, in proportion.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

from eighteen.advice.ceilings import synchronize
from eighteen.advice.noise import noise
from eighteen.advice.passes import forget_peak_memory, memory_bytes
from eighteen.base.recipe import Eval, Phase, Recipe
from eighteen.base.schedule import Step, schedule
from eighteen.base.world import World
from eighteen.data.augment import normalise
from eighteen.data.crops import rectangle
from eighteen.data.kept import Setting as Keep
from eighteen.data.loader import TrainLoader, free_memory, kept_bytes
from eighteen.training import state as states
from eighteen.training.job import Job
from eighteen.training.room import is_out_of_memory
from eighteen.training.step import train_step, update

MARGIN = 0.1  # of what is free, that stays so
AUGMENTED = 3  # copies in float32 of a share's pictures, while they are augmented
UNDER_WAY = 3  # batches in the loader, beside those that it is ahead
FAR = 4  # times as many pictures as the last step had, at most: what it took of free parts of the heap nobody sees
MOST_TURNS = 12  # of each step: more say nothing new
WARM_UP, MIN_FED, MOST_FED = 3, 3, 30  # steps with pictures before the clock, and on it
LONG = 10_000  # epochs: a plan that does not end while something is measured


class Alone:
    """A model, an optimiser and averages of weights like the run's; what becomes of them does not matter.

    model: stands in for the recipe's
    """

    def __init__(self, this: Job, model: nn.Module | None = None) -> None:
        bare = this.recipe.model.model_copy(update={"init": None})
        optim = this.recipe.optim.model_copy(update={"lr": [(0.0, 0.0)]})
        recipe = this.recipe.model_copy(update={"model": bare, "optim": optim})
        self._this = replace(this, recipe=recipe, world=World())
        self._state = states.start(self._this, model, with_init=False)
        self.has_batch_norm = any(
            isinstance(one, nn.modules.batchnorm._BatchNorm) for one in self._state.model.modules()
        )
        self.gradient_bytes = sum(weight.nbytes for weight in self._state.weights)
        self._on_cpu = this.device.type == "cpu"
        self._before = forget_peak_memory() if self._on_cpu else 0

    @property
    def blind_for(self) -> str:
        """Why nobody can say what a step takes, if so."""
        return "this system does not tell how much memory a step takes" if self._before is None else ""

    def fitting(self, counts: Sequence[int], work: Callable[[int], object], free_bytes: float) -> int:
        """The largest of these counts, which rise, that can be worked with in so many bytes more than were in use at
        first; 0 if none can. On the CPU the smallest goes first, and then always the largest that should fit by it.
        """
        fitted = grown = 0
        with self._capped(free_bytes):
            while left := [one for one in counts if one > fitted and grown * one <= free_bytes * max(1, fitted)]:
                if self._on_cpu:
                    left = [one for one in left if one <= FAR * fitted] or left[:1]
                count = left[-1]
                try:
                    work(count)
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    counts = [one for one in counts if one < count]
                    continue
                fitted = count
                if self._on_cpu:
                    grown = max(grown, (memory_bytes("VmHWM") or 0) - (self._before or 0))
        self._state.optimizer.zero_grad()  # of a step that was broken off
        return fitted

    @contextmanager
    def _capped(self, free_bytes: float) -> Iterator[None]:
        """For as long as the block lasts no more than that is to be had."""
        gc.collect()
        if self._on_cpu:
            forget_peak_memory()
            yield
            return
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(self._this.device).total_memory
        most = (torch.cuda.memory_reserved(self._this.device) + free_bytes) / total
        torch.cuda.set_per_process_memory_fraction(min(1.0, max(0.0, most)), self._this.device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, self._this.device)
            torch.cuda.empty_cache()

    def step(self, row: Phase, count: int) -> None:
        """One step with so many pictures of a phase, all in one part."""
        self._take(self._now(row, count), noise(self._this, size=row.sizes[0], count=count))

    def evaluate(self, sides: tuple[int, int], count: int) -> None:
        """One forward pass of an evaluation. sides: height and width in pixels"""
        pixels = torch.zeros(count, self._this.channels, *sides, dtype=torch.uint8, device=self._this.device)
        dtype, card = self._this.dtype, self._state.card
        with states.averaged_weights(self._state), torch.inference_mode():
            self._state.model.eval()
            images = normalise(pixels.contiguous(memory_format=torch.channels_last), card.mean, card.std)
            with torch.autocast(self._this.device.type, dtype, enabled=dtype is not None):
                self._state.model(images).float()

    def seconds(self, row: Phase, counts: Sequence[int], until: float) -> dict[int, float]:
        """Of a step with each of these counts, which have been tried: the median, as a busy machine has steps of any
        length. In turns until then (on CLOCK_MONOTONIC), at least one and at most 12.
        """
        batches = {count: noise(self._this, size=row.sizes[0], count=count) for count in counts}
        found = {count: list[float]() for count in counts}
        for _ in range(MOST_TURNS):
            for count, batch in batches.items():
                now = self._now(row, count)
                found[count].append(self._timed(lambda now=now, batch=batch: self._take(now, batch)))
            if time.monotonic() > until:
                break
        return {count: statistics.median(times) for count, times in found.items()}

    def update_s(self) -> float:
        """Seconds of what a step does once, however many parts it has: clip, optimiser, averages."""

        def once() -> float:
            for weight in self._state.weights:
                weight.grad = torch.zeros_like(weight)
            outcome = torch.zeros(4, device=self._this.device)
            return self._timed(lambda: update(self._this, self._state, outcome))

        return statistics.median(once() for _ in range(3))

    def fed_s(self, row: Phase, threads: int, until: float, *, start: int = 0, kept: Keep = "never") -> float:
        """Seconds of a step whose pictures so many threads decode meanwhile; on a GPU, of the pictures alone.

        until: on CLOCK_MONOTONIC; 6 steps at least, 33 at most      start: the first step
        kept: where decoded pictures are kept
        """
        this = replace(self._this, recipe=_alone(self._this.recipe, row))
        split, marks = this.data.splits["train"], list[float]()
        loader = TrainLoader(
            split,
            schedule(this.recipe, split.num_samples),
            this.order,
            this.world,
            augment=this.recipe.augment,
            device=this.device,
            channels=this.channels,
            rendition=this.recipe.data.rendition,
            kept=kept,
            num_threads=threads,
            prefetch=1,  # it is full as soon as possible
            start=start,
        )
        loader.on_bad = lambda bad: None  # the run will tell
        with loader:
            for now, batch in loader:
                if self._on_cpu:
                    self._take(now, batch)
                synchronize(this.device)
                marks.append(time.monotonic())
                if len(marks) >= WARM_UP + (MIN_FED if marks[-1] > until else MOST_FED):
                    break
        return (marks[-1] - marks[WARM_UP - 1]) / (len(marks) - WARM_UP)

    def _now(self, row: Phase, count: int) -> Step:
        alone = row.model_copy(update={"batch": count, "micro_batch": 0})
        return schedule(_alone(self._this.recipe, alone), self._this.data.splits["train"].num_samples).at(0)

    def _take(self, now: Step, batch) -> None:
        train_step(self._this, self._state, batch, now, count_hits=False, asks=(False, False, False))

    def _timed(self, work: Callable[[], object]) -> float:
        synchronize(self._this.device)
        began = time.perf_counter()
        work()
        synchronize(self._this.device)
        return time.perf_counter() - began


def free_bytes(this: Job) -> float:
    """That this rank may take, on its device; a margin is left."""
    free = free_memory(this.world, this.device)
    return (1 - MARGIN) * (free.host if free.device is None else free.device)


def kept(this: Job) -> list[tuple[str, int] | None]:
    """Where each of the recipe's ``flat_phases`` will keep its pictures, and in how many bytes; None: nowhere."""
    split, recipe = this.data.splits["train"], this.recipe
    plan, how = schedule(recipe, split.num_samples), {"free": free_memory(this.world, this.device)}
    return [
        kept_bytes(split, row, recipe.data, channels=this.channels, visits=plan.visits(number), **how)
        for number, row in enumerate(recipe.flat_phases)
    ]


def most_kept(this: Job, where: Sequence[tuple[str, int] | None]) -> int:
    """Bytes of the device's memory that these take at once: on a GPU those of two phases, where one follows another."""
    if this.device.type == "cpu":
        return max((one[1] for one in where if one), default=0)
    ours = [one if one and one[0] == "device" else None for one in where]
    pairs = zip([None, *ours], ours, strict=False)
    return max(sum(one[1] for one in {before, after} - {None} if one) for before, after in pairs)


def pictures_bytes(this: Job, row: Phase, share: int) -> int:
    """Of a rank's share of a batch: as it is augmented, and of those that the loader has under way."""
    num_values = share * this.channels * row.sizes[0] ** 2
    return (4 * AUGMENTED + this.recipe.data.prefetch + UNDER_WAY) * num_values


def longest_sides(this: Job, settings: Eval) -> tuple[int, int]:
    """Height and width of the largest pictures of an evaluation."""
    if not settings.rect:
        return settings.size, settings.size
    index = this.data.splits["val"].renditions["full"].index
    ratios = index["width"] / index["height"]
    width, height = rectangle(settings.size, float(max(ratios.max(), 1 / ratios.min())))
    return height, width


def _alone(recipe: Recipe, row: Phase) -> Recipe:
    """The recipe as one long phase, of the batch and the micro-batch that ``row`` says."""
    train = recipe.train.model_copy(update={"ghost_batch": 0})
    return recipe.model_copy(update={"phases": (row.model_copy(update={"epochs": LONG}),), "train": train})
