"""A search for how many threads should decode, in how large parts a batch is computed, and how large it is.

In: a job, on each of its ranks at once. Out: ``Tuned``, the same on every rank. Each tries by itself, and nothing is
decided before all have agreed on what was measured: they take the least that any of them found.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.distributed
from torch import nn

from eighteen.advice import alone, wires
from eighteen.advice.alone import Alone
from eighteen.advice.feeding import thread_counts
from eighteen.base import recipe as recipes
from eighteen.base.errors import MachineError
from eighteen.base.hardware import num_cpus
from eighteen.base.recipe import Phase, Recipe
from eighteen.base.world import World
from eighteen.training.job import Job
from eighteen.training.room import LEAST

LIMIT_S, SHARE = 30.0, 0.02  # that tuning may take, and of the run's time; the smaller one counts
NEAR, NEAR_KNEE = 0.02, 0.05  # of the best images/s, by which a smaller part, and a smaller batch, may be slower
LEAST_NORMED = 32  # pictures of a part that batch norm takes statistics of, where it is a matter of speed alone
AHEAD = 1.1  # times what a GPU's steps take, that its loader makes
FEWEST = 32  # parts of a share that are ever worth it for speed: more of them only cost
LEAST_STEPS, LARGEST = 8, 8_192  # of an epoch, and pictures of a batch, where its size is chosen
THREADS_WEIGHT = 2  # of the time for a phase's parts, that the number of threads gets
APART = 64  # steps between those that two numbers of threads are tried with: each reads what was not read before


@dataclass(frozen=True)
class Tried:
    """images_per_s: of all ranks together, if each were as slow as the slowest; 0: it does not fit into memory

    threads: None where the pictures were noise
    """

    size: int
    batch: int
    micro_batch: int
    threads: int | None
    images_per_s: float


@dataclass(frozen=True)
class Tuned:
    """threads: that decode on each rank      micro_batches: by phase      batch: of the first phase
    All None where the recipe's stands.

    left: what was to be found and was not, and why: sentences      seconds: that it took
    """

    threads: int | None
    micro_batches: tuple[int | None, ...]
    batch: int | None
    measured: tuple[Tried, ...] = ()
    left: tuple[str, ...] = ()
    seconds: float = 0.0
    is_cached: bool = False

    @property
    def facts(self) -> dict[str, Any]:
        """Of the ``tuned`` event."""
        told = asdict(self)
        return {"cached": told.pop("is_cached"), "micro_batch": told.pop("micro_batches"), **told}


class Search:
    """One search, by one rank of several: whatever it decides by, all have agreed on, so all decide alike.

    had_time: for all that was to be tried
    """

    def __init__(self, this: Job, model: nn.Module | None, limit_s: float, began: float) -> None:
        self._this, self._limit_s, self._began = this, limit_s, began
        self._run_s = this.recipe.budget.seconds or float("inf")
        self._pixels_per_s = 0.0  # of this rank, as far as it is known
        self._measured, self._left, self.had_time = list[Tried](), list[str](), True
        self._alone = Alone(this, model)
        kept = alone.kept(this)
        (self._free,) = self._least(alone.free_bytes(this) - alone.most_kept(this, kept))
        self._are_kept = self._least(*(float(one is not None) for one in kept))
        self._fits = 0  # pixels of the largest part that was found to

    def tuned(self, *, with_batch: bool) -> Tuned:
        recipe, unchanged = self._this.recipe, (None,) * len(self._this.recipe.phases)
        why = "train.exact computes in its own parts" if recipe.train.exact else self._alone.blind_for
        if why:
            return Tuned(None, unchanged, None, left=(f"all stays as it is: {why}",))
        batch = self._batch(recipe.phases[0]) if with_batch else None
        found = Tuned(None, unchanged, batch)
        found = replace(found, micro_batches=self._micro_batches(applied(recipe, found)))
        self._require_evaluation()
        threads = self._threads(applied(recipe, found))
        return replace(found, threads=threads, measured=tuple(self._measured), left=tuple(self._left))

    def _batch(self, phase: Phase) -> int | None:
        """Twice as many pictures, again and again, until that has brought little twice, as a measurement may err."""
        world, num_samples = self._this.world, self._this.data.splits["train"].num_samples
        most, rates = min(LARGEST, num_samples // LEAST_STEPS), dict[int, float]()
        share, slow_s = LEAST_NORMED, self._all_reduce_s()
        while share * world.size <= most:
            row = _at_largest(phase.model_copy(update={"batch": share * world.size}))
            found = self._rates(row, least=share, of_left=1 / 16)
            if found is None or share not in found.parts:
                break
            rates[row.batch] = row.batch / (found.step_s(share, share) + slow_s)
            self._measured.append(Tried(row.sizes[0], row.batch, share, None, rates[row.batch]))
            last = list(rates.values())[-3:]
            if len(last) == 3 and last[2] <= (1 + NEAR_KNEE) * last[0]:
                break
            share *= 2
        if not rates:
            self._left.append(f"phases.0.batch stays {phase.batch}: no other could be tried")
        return smallest_near(rates, NEAR_KNEE) if rates else None

    def _all_reduce_s(self) -> float:
        """What gradients take between ranks, if nothing hides it."""
        if self._this.world.size == 1:
            return 0.0
        num_bytes = self._alone.gradient_bytes
        return statistics.median(wires.between(self._this.world, self._this.device, num_bytes)[num_bytes])

    def _micro_batches(self, recipe: Recipe) -> tuple[int | None, ...]:
        """Those of the largest phases first: what fits there fits in the others. Phases that are alike are one."""
        if recipe.train.micro_batch or recipe.train.ghost_batch:
            return (None,) * len(recipe.phases)
        rows = [_at_largest(phase) for phase in recipe.phases]
        kinds = [(row.sizes[0] ** 2 * row.batch, row.sizes[0]) if row.micro_batch is None else None for row in rows]
        found: dict[tuple[int, int] | None, int | None] = {None: None}
        num_left = len({*kinds} - {None}) + (THREADS_WEIGHT if not recipe.data.threads and self._decodes else 0)
        for kind in sorted({kind for kind in kinds if kind}, reverse=True):
            number = kinds.index(kind)
            found[kind] = self._micro_batch(number, rows[number], of_left=1 / num_left)
            num_left -= 1
        return tuple(found[kind] for kind in kinds)

    def _micro_batch(self, number: int, row: Phase, *, of_left: float) -> int | None:
        share, size = self._share(row.batch), row.sizes[0]
        least = LEAST_NORMED if self._alone.has_batch_norm else LEAST
        found = self._rates(row, least=min(share, max(least, share // FEWEST)), of_left=of_left)
        if found is None:
            self._left.append(f"phases.{number}.micro_batch: no time was left to try any")
            known = self._fits // size**2
            return known if 0 < known < share else None
        if not found.parts:
            beside = alone.pictures_bytes(self._this, row, share)
            raise MachineError(
                f"train with {LEAST} pictures of {size} px at a time",
                got=f"{self._free - beside:,.0f} bytes that a step may take",
                need="room for it, and for a tenth more",
                hint="a smaller model, size or batch, or --set data.keep=never",
            )
        rates = {part: row.batch / found.step_s(share, part) for part in found.parts}
        tried = {count: rates.get(count, 0.0) for count in halves(share) if count in rates or count > max(rates)}
        self._measured.extend(Tried(size, row.batch, part, None, rate) for part, rate in tried.items())
        return smallest_near(rates, NEAR)

    def _rates(self, row: Phase, *, least: int, of_left: float) -> _Rates | None:
        """Of the parts of at least so many pictures that fit on all ranks, or else of the largest that fits; None where
        there is no time for that.

        of_left: share of the time that is left, which may be spent
        """
        share, size = self._share(row.batch), row.sizes[0]
        counts = halves(share)
        worth, few = [count for count in counts if count >= least], [count for count in counts if count < least]
        on_cpu = self._this.device.type == "cpu"
        groups = [counts] if on_cpu else [worth, few]  # what a step takes on a CPU is learned from smaller ones
        if not self._has_time((share + sum(worth)) * size**2 / self._pixels_per_s if self._pixels_per_s else 0.0):
            return None
        beside = alone.pictures_bytes(self._this, row, share) + self._alone.gradient_bytes * (self._this.world.size > 1)
        most = 0
        for group in groups:
            fitting = self._alone.fitting(group, lambda count: self._step(row, count), self._free - beside)
            if most := int(self._least(fitting)[0]):
                break
        timed = [count for count in worth if count <= most] or [count for count in few if count <= most][-1:]
        if not timed:
            return _Rates({}, 0.0)
        self._fits = max(self._fits, most * size**2)
        if not self._has_time(sum(timed) * size**2 / self._pixels_per_s):
            return None
        once = self._alone.seconds(row, timed, until=0.0)  # from which the run's time, and so the limit, is known
        self._saw(max(count * size**2 / seconds for count, seconds in once.items()))
        seconds = self._alone.seconds(row, timed, until=time.monotonic() + of_left * self._left_s())
        update_s = self._alone.update_s()
        passes = [seconds[count] - update_s for count in timed]
        *rates, updates = self._least(
            *(count / max(seconds, 1e-9) for count, seconds in zip(timed, passes, strict=True)), 1 / max(update_s, 1e-9)
        )
        return _Rates(dict(zip(timed, rates, strict=True)), 1 / updates)

    def _step(self, row: Phase, count: int) -> None:
        """One that tells how fast this rank is, at the least: what comes up for the first time takes longer."""
        began = time.monotonic()
        self._alone.step(row, count)
        self._saw(count * row.sizes[0] ** 2 / (time.monotonic() - began))

    def _require_evaluation(self) -> None:
        """MachineError if a batch of it does not fit. It takes less than training does with as many pixels."""
        recipe, data = self._this.recipe, self._this.data
        if "val" not in data.splits:
            return
        settings = max((recipe.eval_in(phase) for phase in recipe.phases), key=lambda one: one.size)
        height, width = sides = alone.longest_sides(self._this, settings)
        if settings.batch * height * width <= self._fits:
            return
        counts = halves(settings.batch) if self._this.device.type == "cpu" else [settings.batch]
        fitting = self._alone.fitting(counts, lambda count: self._alone.evaluate(sides, count), self._free)
        most = int(self._least(fitting)[0])
        if most < settings.batch:
            tried = f"evaluate {settings.batch} pictures of {width} x {height} px at a time"
            need, hint = "memory for all, and a tenth more", f"--set eval.batch={most or settings.batch // 2}"
            raise MachineError(tried, got=f"memory for {most}", need=need, hint=hint)

    @property
    def _decodes(self) -> bool:
        """Whether some phase decodes each picture at each visit."""
        return not all(self._are_kept)

    def _threads(self, recipe: Recipe) -> int | None:
        """On a CPU the fewest whose pictures train as fast as any; on a GPU the fewest that keep ahead of its steps."""
        if recipe.data.threads:
            return None
        this = self._this
        counts = thread_counts(int(self._least(max(1, num_cpus() // this.world.local_size))[0]))
        rows = [row for row, is_kept in zip(recipe.flat_phases, self._are_kept, strict=True) if not is_kept]
        if not rows or len(counts) == 1:
            why = "a rank has one processor" if rows else "decoded pixels are kept in memory"
            self._left.append(f"data.threads stays as it is: {why}")
            return None
        row = max(rows, key=lambda row: row.epochs * row.sizes[0] ** 2)
        share = self._share(row.batch)
        step_s = share * row.sizes[0] ** 2 / self._pixels_per_s if self._pixels_per_s else 0.0
        if not self._has_time(len(counts) * (alone.WARM_UP + alone.MIN_FED) * step_s):
            self._left.append("data.threads stays as it is: no time was left to try others")
            return None
        lone, seconds = row.model_copy(update={"batch": share}), list[float]()
        for number, threads in enumerate(counts):
            until = time.monotonic() + self._left_s() / (len(counts) - number)
            seconds.append(self._alone.fed_s(lone, threads, until, start=number * APART))
        rates = dict(zip(counts, self._least(*(row.batch / one for one in seconds)), strict=True))
        part = row.micro_batch or share
        self._measured.extend(Tried(row.sizes[0], row.batch, part, threads, rate) for threads, rate in rates.items())
        if this.device.type == "cuda":
            steps = [one.images_per_s for one in self._measured if (one.size, one.threads) == (row.sizes[0], None)]
            needed = AHEAD * max(steps, default=float("inf"))
            if enough := [threads for threads, rate in rates.items() if rate >= needed]:
                return min(enough)
        return smallest_near(rates, NEAR)

    def _share(self, batch: int) -> int:
        """Of the rank that has most of a batch."""
        size = self._this.world.size
        slices = (World(rank, size).slice(batch) for rank in range(size))
        return max(mine.stop - mine.start for mine in slices)

    def _has_time(self, cost_s: float) -> bool:
        """Whether all ranks have time for what will take this one so many seconds."""
        has_time = self._least(self._left_s() - cost_s)[0] > 0
        self.had_time = self.had_time and has_time
        return has_time

    def _left_s(self) -> float:
        return self._began + min(self._limit_s, SHARE * self._run_s) - time.monotonic()

    def _saw(self, pixels_per_s: float) -> None:
        """How fast this rank trains, of which follows how long the run is."""
        self._pixels_per_s = max(self._pixels_per_s, pixels_per_s)
        if self._this.recipe.budget.seconds is None:
            phases, num_samples = self._this.recipe.flat_phases, self._this.data.splits["train"].num_samples
            pixels = sum(row.epochs * num_samples * row.sizes[0] ** 2 for row in phases)
            self._run_s = pixels / (self._pixels_per_s * self._this.world.size)

    def _least(self, *values: float) -> list[float]:
        """Of each, the least that a rank has."""
        tensor = torch.tensor(values, dtype=torch.float64, device=self._this.device)
        if self._this.world.size > 1:
            torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MIN)
        return tensor.tolist()


def applied(recipe: Recipe, tuned: Tuned) -> Recipe:
    """The recipe with what was found. Its learning rates follow the batch: they are written for ``optim.batch``."""
    if tuned.batch:
        recipe = recipes.load(recipe, batch=tuned.batch)
    phases = tuple(
        phase if most is None else phase.model_copy(update={"micro_batch": most})
        for phase, most in zip(recipe.phases, tuned.micro_batches, strict=True)
    )
    settings = recipe.data if tuned.threads is None else recipe.data.model_copy(update={"threads": tuned.threads})
    return recipe.model_copy(update={"phases": phases, "data": settings})


def halves(count: int) -> list[int]:
    """Rising: ``count``, its half, the half of that ... down to what batch norm can take statistics of."""
    found = [count]
    while -(-found[-1] // 2) >= LEAST and found[-1] > LEAST:
        found.append(-(-found[-1] // 2))
    return found[::-1]


def smallest_near(images_per_s: Mapping[int, float], share: float) -> int:
    """The smallest of these numbers whose rate is within that share of the best."""
    best = max(images_per_s.values())
    return min(number for number, rate in images_per_s.items() if rate >= (1 - share) * best)


@dataclass(frozen=True)
class _Rates:
    """What all ranks agree on. parts: pictures/s of forward and backward passes, by how many they are of

    update_s: what a step takes besides them
    """

    parts: Mapping[int, float]
    update_s: float

    def step_s(self, share: int, part: int) -> float:
        return share / self.parts[part] + self.update_s


def _at_largest(phase: Phase) -> Phase:
    """The phase at the largest of its sizes, which takes most memory."""
    return phase.model_copy(update={"size": max(phase.sizes)})
