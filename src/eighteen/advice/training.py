"""Turns of training, with an eye on the clock; ``turns`` says what they amount to.

In: a recipe and a packed dataset. Every variant (size, pictures, compiled or not, whose loop) takes its turn
of a few steps in each round, so that whatever else the machine does meanwhile disturbs all alike. The trainer of a turn
is the real one but for checkpoints: its step, its loader, its events, its heartbeat.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self, cast

import torch
from torch import nn

from eighteen.advice import lightning
from eighteen.advice.by_hand import LR, ByHand
from eighteen.advice.ceilings import Measure, synchronize
from eighteen.advice.noise import noise
from eighteen.advice.roofline import kernels
from eighteen.advice.turns import RIVALS, Loop, Pictures, Training, Turn, Variant, medians, rooflines, rows
from eighteen.base import rundir
from eighteen.base.errors import MachineError
from eighteen.base.recipe import Phase, Recipe, parse
from eighteen.base.schedule import Schedule, Step, schedule
from eighteen.base.world import World
from eighteen.data.dataset import Dataset
from eighteen.data.loader import TrainLoader
from eighteen.data.maker import Batch
from eighteen.training import models
from eighteen.training import state as states
from eighteen.training.heartbeat import Heartbeat
from eighteen.training.job import Job, job
from eighteen.training.reporting import Reporter
from eighteen.training.state import State
from eighteen.training.step import train_step
from eighteen.training.train import torch_settings

SEED = 18
NUM_BATCHES = 4  # synthetic ones, in turn
WARM_UP = 8  # steps before the clock: more than the loader has made when they begin
MAX_GRAPHS = 64  # compiled, of one model: several sizes, of the trainer and of the bare loop

Progress = Callable[[int, int, int], object]  # turns done, of how many, 0


def bench(
    recipe: Recipe,
    data: Dataset,
    *,
    sizes: Sequence[int] = (),
    batch: int | None = None,
    pictures: Sequence[Pictures] = ("synthetic", "real"),
    compiled: Sequence[bool] = (False, True),
    rivals: Sequence[Loop] = RIVALS,
    num_steps: int = 20,
    num_rounds: int = 5,
    most_s: float = float("inf"),
    scale: float = 1.0,
    on_progress: Progress = lambda *_: None,
) -> Training:
    """Measure the training of a recipe's model on a dataset's train split, on this machine's device.

    sizes: in pixels; those of the recipe's phases if none      batch: instead of the phases' own
    rivals: whose loops are measured too, on the same synthetic pictures; Lightning's Trainer only if it is installed,
        and not compiled
    most_s: after which no further round begins, nor a variant its first turn: it is left out
    scale: of what the ceilings are measured with
    raises RecipeError if the model does not take a size, MachineError if not one variant could be measured
    """
    ends = time.monotonic() + most_s
    chosen = [_phase(recipe, size) for size in sizes] or list(
        {phase.sizes: phase for phase in recipe.flat_phases}.values()
    )
    rows_of = {phase.sizes[0]: phase.model_copy(update={"batch": batch} if batch else {}) for phase in chosen}
    draw, left_out = random.Random(SEED), dict[str, str]()
    variants = [
        Variant(size, row.batch, kind, is_compiled, loop)
        for size, row in rows_of.items()
        for kind in pictures
        for is_compiled in compiled
        for loop in ("ours", *(rivals if kind == "synthetic" else ()))
        if not (is_compiled and loop == "lightning")
    ]
    total = len(variants) * (1 + num_rounds)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        tracks: dict[Pictures, dict[int, Job]] = {
            kind: _jobs(recipe, data, rows_of, folder, kind, num_steps) for kind in pictures
        }
        some = next(iter(next(iter(tracks.values())).values()))
        stack.enter_context(torch_settings(some))
        if any(compiled):
            stack.enter_context(_each_size_compiled())
        track = _Track(some, tracks, stack.enter_context(Heartbeat()), num_steps)
        models.try_out(
            track.plain, recipe.model.name, num_classes=some.num_classes, in_chans=some.channels, sizes=rows_of
        )
        element_bytes = 2 if some.dtype else 4
        counted = {
            size: kernels(track.plain, in_chans=some.channels, size=size, element_bytes=element_bytes)
            for size in rows_of
        }
        ceiling = Measure(some.device, some.dtype, scale=scale)
        first_s: dict[Variant, float] = {}
        for variant in variants:
            began = time.monotonic()
            if began > ends and first_s:
                left_out[variant.name] = "no time was left"
                continue
            try:
                track.turn(variant)
                first_s[variant] = time.monotonic() - began
            except Exception as error:  # no memory for it, no compiler; another's trainer raises anything
                if variant.loop != "lightning" and not isinstance(error, RuntimeError | ImportError):
                    raise
                left_out[variant.name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
            on_progress(len(first_s) + len(left_out), total, 0)
        if not first_s:
            got = next(iter(left_out.values()))
            raise MachineError(
                "train a few steps", got=got, need="one variant that can", hint="--batch 16, or --no-compile"
            )
        turns: dict[Variant, list[Turn]] = {variant: [] for variant in first_s}
        several = list[Any]()
        while len(several) < num_rounds and not (several and time.monotonic() > ends):
            several.append(ceiling.once())
            for size in rows_of:  # what is compared is done within seconds
                of_size = [variant for variant in turns if variant.size == size]
                for variant in draw.sample(of_size, len(of_size)):
                    turns[variant].append(track.turn(variant))
            on_progress(len(variants) + len(several) * len(variants), total, 0)
        top = medians(several)
        most = rooflines(counted, top)
        device = torch.cuda.get_device_name(some.device) if some.device.type == "cuda" else "cpu"
        return Training(
            recipe.model.name,
            recipe.name,
            device,
            torch.get_num_threads(),
            num_steps,
            len(several),
            top,
            most,
            rows(turns, first_s=first_s, rooflines=most, top=top),
            left_out,
        )


def _phase(recipe: Recipe, size: int) -> Phase:
    """The recipe's phase of this size, or that of the size nearest to it."""
    nearest = min(recipe.flat_phases, key=lambda phase: abs(phase.sizes[0] - size))
    return nearest.model_copy(update={"size": size})


def _jobs(
    recipe: Recipe, data: Dataset, rows_of: Mapping[int, Phase], folder: Path, kind: Pictures, num_steps: int
) -> dict[int, Job]:
    """A run of a few steps, by size."""
    jobs = {}
    for size, row in rows_of.items():
        short = _shortened(recipe, row, data.splits["train"].num_samples, kind, num_steps)
        run = rundir.create(folder, f"{kind}-{size}", recipe=short, command="", environment={})
        jobs[size] = job(short, data, run, World())
    return jobs


def _shortened(recipe: Recipe, row: Phase, num_samples: int, kind: Pictures, num_steps: int) -> Recipe:
    """The recipe for so many steps of one phase, at one rate; for synthetic pictures without what a bare loop lacks."""
    tree = recipe.model_dump(mode="json", exclude_none=True)
    epochs = (WARM_UP + num_steps) * row.batch / num_samples
    tree["phases"] = [row.model_dump(mode="json", exclude_none=True) | {"epochs": epochs}]
    constant = {key: points[0][1] for key, points in recipe.optim.points.items()}
    tree["optim"] |= {**constant, "batch": row.batch, "lr": [[0, LR], [epochs, LR]], "ema_from": 0.0}
    tree["train"] |= {"compile": False, "notices": "off", "deterministic": False, "exact": False}
    tree["data"]["keep"] = "never"
    if kind == "synthetic":
        tree["augment"] = {"flip": False}
        tree["optim"] |= {"ema": 0.0, "clip": 0.0}
        tree["phases"][0]["micro_batch"] = tree["train"]["ghost_batch"] = 0
        tree["data"]["balance"] = "none"
    return parse(tree)


def _each_size_compiled() -> AbstractContextManager[None]:
    """For as long as the block lasts torch compiles for the very shape it sees, and does not give up after a few."""
    import torch._dynamo as dynamo

    return dynamo.config.patch(recompile_limit=MAX_GRAPHS, automatic_dynamic_shapes=False)


@dataclass(eq=False)
class _Memory:
    """Stands in for a loader: a few batches that are on the device already, over and over."""

    this: Job
    batches: Sequence[Batch]
    kept_bytes: Mapping[int, None]
    on_bad: Any = None
    num_threads: int = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def __iter__(self) -> Iterator[tuple[Step, Batch]]:
        plan = _plan(self.this)
        return ((plan.at(number), self.batches[number % len(self.batches)]) for number in range(plan.num_steps))

    def waits(self) -> dict[str, float]:
        return dict.fromkeys(("wait_s", "read_s", "verify_s", "decode_s", "resize_s", "copy_s", "arrive_s"), 0.0)


class _Track:
    """Where turns are taken: models and their states are made once, and used by all turns of their kind."""

    def __init__(self, some: Job, jobs: Mapping[Pictures, Mapping[int, Job]], pulse: Heartbeat, num_steps: int) -> None:
        self._jobs, self._pulse, self._num_steps, self._device = jobs, pulse, num_steps, some.device
        self._states = dict[tuple[Pictures, bool], State]()
        self._by_hand = {loop: ByHand(some) for loop in RIVALS}
        self.plain = self._by_hand["bare"].model
        self._batches = dict[tuple[int, int], list[Batch]]()

    def turn(self, variant: Variant) -> Turn:
        this = self._jobs[variant.pictures][variant.size]
        if variant.loop == "lightning":
            return self._lightning_turn(this, variant)
        if variant.loop == "bare":
            return self._bare_turn(this, variant)
        key = variant.pictures, variant.compiled
        if key not in self._states:
            self._states[key] = _started(this, compiled=variant.compiled)
        state = replace(self._states[key], plan=_plan(this), step=0, began=time.monotonic())
        feed = self._synthetic(this, variant) if variant.pictures == "synthetic" else _real(this)
        waited, began = 0.0, 0.0
        with feed as batches, Reporter(this, state, cast(TrainLoader, batches), self._pulse, None) as report:
            pictures = iter(batches)
            asked = time.perf_counter()
            for now, batch in pictures:
                waited += time.perf_counter() - asked
                if now.number == WARM_UP:
                    synchronize(self._device)
                    waited, began = 0.0, time.perf_counter()
                self._pulse.doing("step", phase=now.phase, step=now.number)
                is_logged, asks = report.is_logged(now), (*report.asks(now, False, False), False)
                report.stepped(now, train_step(this, state, batch, now, count_hits=is_logged, asks=asks))
                self._pulse.doing("data")
                asked = time.perf_counter()
            synchronize(self._device)
            seconds = time.perf_counter() - began
            report.ended("done")
        return Turn(seconds / self._num_steps, waited / seconds)

    def _bare_turn(self, this: Job, variant: Variant) -> Turn:
        batches = self._synthetic(this, variant).batches
        step = self._by_hand["bare"].step(variant.compiled)
        began = 0.0
        for number in range(WARM_UP + self._num_steps):
            if number == WARM_UP:
                synchronize(self._device)
                began = time.perf_counter()
            batch = batches[number % len(batches)]
            step(batch.images, batch.labels)
        synchronize(self._device)
        return Turn((time.perf_counter() - began) / self._num_steps, 0.0)

    def _lightning_turn(self, this: Job, variant: Variant) -> Turn:
        batches, by_hand = self._synthetic(this, variant).batches, self._by_hand["lightning"]
        numbers = range(WARM_UP + self._num_steps)
        pictures = [(one.images, one.labels) for one in (batches[number % len(batches)] for number in numbers)]
        loss, optimizer = partial(by_hand.loss, by_hand.model), by_hand.optimizer
        return Turn(lightning.step_seconds(by_hand.model, loss, optimizer, pictures, this.dtype, num_warm=WARM_UP), 0.0)

    def _synthetic(self, this: Job, variant: Variant) -> _Memory:
        key = variant.size, variant.batch
        if key not in self._batches:
            self._batches[key] = [
                noise(this, size=variant.size, count=variant.batch, number=number) for number in range(NUM_BATCHES)
            ]
        return _Memory(this, self._batches[key], {0: None})


def _started(this: Job, *, compiled: bool) -> State:
    state = states.start(this)
    return replace(state, net=cast(nn.Module, torch.compile(state.net))) if compiled else state


def _plan(this: Job) -> Schedule:
    return schedule(this.recipe, this.data.splits["train"].num_samples)


def _real(this: Job) -> TrainLoader:
    return TrainLoader(
        this.data.splits["train"],
        _plan(this),
        this.order,
        this.world,
        augment=this.recipe.augment,
        device=this.device,
        channels=this.channels,
        rendition=this.recipe.data.rendition,
        num_threads=this.recipe.data.threads or None,
        prefetch=this.recipe.data.prefetch,
    )
