"""A short training that is watched and thrown away, and the experiments beside it: what a dataset's doctor looks at.

In: a recipe and a packed dataset. Out: ``Evidence``. The training is a real one, with the loader, the step, the ranks
and the evaluations that the run would have; only its folder is a temporary one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch

from eighteen.advice import alone, evidence, gains, likeness
from eighteen.advice.alone import Alone
from eighteen.advice.evidence import Evidence, Pictures, Setup, Trials, Window
from eighteen.advice.feeding import Setting, Task
from eighteen.advice.passes import make_pass, some
from eighteen.base import events, machine, request, rundir
from eighteen.base.errors import EighteenError, Stopped
from eighteen.base.events import STOP, Event
from eighteen.base.hardware import available_bytes
from eighteen.base.recipe import Phase, Recipe
from eighteen.base.rundir import RunDir
from eighteen.base.world import World
from eighteen.data import dataset as datasets
from eighteen.data.dataset import Dataset, Rendition, Split
from eighteen.data.kept import SHARES, size_for
from eighteen.data.loader import choose_rendition
from eighteen.data.pack import pack
from eighteen.training import supervisor
from eighteen.training.job import Job, job
from eighteen.training.precision import autocast_dtype
from eighteen.training.train import torch_settings, train

WATCH_S = 10.0  # of training, after its first step event
LEAST_EVENTS = 4  # of steps; a machine on which they take long is watched for longer
MOST_S = 60.0
EVENT_S = 0.25  # from one step event to the next, about
STEPS_S = 2.0  # of steps of one size, and of this one's in turns
BETTER = 1.03  # times the images/s of the size before, or no further size is tried
DOUBLINGS = 4  # of the batch, that are tried, and as many halvings
LEAST_PART = 16  # pictures
SMALL_PICTURES = 96  # that are made smaller, to see what decoding them takes

Say = Callable[[str], object]


def examine(
    recipe: Recipe, data: Dataset, *, ranks: int = 1, on_cpu: bool = False, watch_s: float = WATCH_S, say: Say
) -> Evidence:
    """Train for some seconds on this machine, and try what else tells why it is slow.

    ranks: processes to start; 1 is this one      say: called with a line for each thing that is done
    """
    recipe = one_phase(recipe, dearest(recipe))
    trials = experiments(recipe, data, ranks, ranks, say=say)
    every = max(1, round(EVENT_S / trials.step_s.get(trials.batch, EVENT_S)))
    say(f"training for about {watch_s:g} s")
    seen = watched(recipe, data, ranks=ranks, on_cpu=on_cpu, watch_s=watch_s, every=every)
    return of_events(recipe, data, seen, trials=trials, say=say)


def of_run(recipe: Recipe, data: Dataset | None, seen: list[Event], *, is_here: bool, say: Say) -> Evidence:
    """What a run's events show. is_here: it ran on a machine like this one, which has time for experiments now"""
    now = evidence.window(seen)
    if data is None or now is None or not is_here:
        return of_events(recipe, data, seen, trials=None, say=say)
    recipe, setup = one_phase(recipe, recipe.flat_phases[now.phase]), evidence.setup(_start(seen))
    trials = experiments(recipe, data, setup.world, setup.local_world, say=say)
    return of_events(recipe, data, seen, trials=trials, say=say)


def of_events(recipe: Recipe, data: Dataset | None, seen: list[Event], *, trials: Trials | None, say: Say) -> Evidence:
    """What these events show, with what this machine and the dataset tell beside them; None: nothing is tried."""
    setup, now = evidence.setup(_start(seen)), evidence.window(seen)
    gpus = [] if setup.is_cpu else list(_gpus())
    pictures = looked_at(recipe, data, now) if data else None
    if trials and data and now and pictures:
        trials = _fed(recipe, data, setup, now, pictures, trials, say)
    return Evidence(
        setup=setup,
        window=now,
        pauses=evidence.pauses(seen),
        pictures=pictures,
        trials=trials or Trials(),
        recipe=evidence.keys(recipe),
        is_network=data is not None and machine.disk_of(data.path).is_network,
        memory_total=next((gpu.memory_bytes for gpu in gpus), None),
        throttles=sorted({why for gpu in gpus for why in gpu.throttled}),
    )


def _start(seen: list[Event]) -> Event:
    return next(one for one in reversed(seen) if one["event"] == "start")


def dearest(recipe: Recipe) -> Phase:
    """The phase that sees most pixels."""
    return max(recipe.flat_phases, key=lambda row: row.epochs * row.sizes[0] ** 2)


def one_phase(recipe: Recipe, row: Phase) -> Recipe:
    """The recipe with this phase alone, for as long as all of it."""
    return recipe.model_copy(update={"phases": (row.model_copy(update={"epochs": recipe.epochs}),)})


def watched(
    recipe: Recipe, data: Dataset, *, ranks: int = 1, on_cpu: bool = False, watch_s: float = WATCH_S, every: int = 10
) -> list[Event]:
    """The events of a training that is stopped when enough is seen.

    every: steps from one step event to the next
    """
    quiet = {"log_every": every, "notices": "off", "checkpoint_to": ""}
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update=quiet)})
    with TemporaryDirectory(prefix="eighteen-") as folder:
        run = rundir.create(Path(folder), "trial", recipe=recipe, command=str(data.path), environment={})
        enough = _Enough(watch_s)
        with suppress(Stopped):
            if ranks == 1 and not on_cpu:
                train(recipe, data, run, World(), enough)
            else:
                _watch_ranks(run, data, enough, ranks=ranks, on_cpu=on_cpu)
        return list(events.read(run.events))


def _watch_ranks(run: RunDir, data: Dataset, enough: _Enough, *, ranks: int, on_cpu: bool) -> None:
    """The same on ranks of their own, which are asked to stop by a file: a signal would have them say so."""
    follower = events.Follower(run.events)

    def look() -> None:
        if STOP in [enough(one) for one in follower.new()]:
            request.ask(run, "step")

    supervisor.start(run.path, data.path, num_ranks=ranks, on_cpu=on_cpu, while_running=look)


class _Enough:
    """Asks to stop when a training has been watched for long enough."""

    def __init__(self, watch_s: float) -> None:
        self._watch_s, self._began, self._count = watch_s, 0.0, 0

    def __call__(self, event: Event) -> object:
        if event["event"] != "step":
            return None
        self._count += 1
        self._began = self._began or time.monotonic()
        watched_s = time.monotonic() - self._began
        is_enough = watched_s >= self._watch_s and self._count > LEAST_EVENTS
        return STOP if is_enough or watched_s >= MOST_S else None


def experiments(recipe: Recipe, data: Dataset, ranks: int, local_ranks: int, *, say: Say) -> Trials:
    """Steps on noise, of this batch, of larger and of smaller ones; and in the other precision, if there is one.

    Each is measured in turns with a step of this batch, so that what else the machine does befalls both.
    local_ranks: those of ``ranks`` that share this machine's processors
    """
    row = recipe.flat_phases[0]
    own = max(2, row.batch // ranks)
    own = min(own, row.micro_batch or own)
    say(f"trying steps of {own} pictures of {row.sizes[0]} px, and of more and fewer")
    with _alone(recipe, data, local_ranks) as this:
        steps = Alone(this)
        work = partial(steps.step, row)
        work(own)
        step_s = {own: steps.seconds(row, [own], _soon())[own]}
        for sizes in (_doubled(own), _halved(own)):
            for before, size in pairwise([own, *sizes]):
                if size > own and steps.fitting([before, size], work, alone.free_bytes(this)) < size:
                    break
                taken = steps.seconds(row, [own, size], _soon())
                step_s[size] = step_s[own] * taken[size] / taken[own]
                if size / step_s[size] <= BETTER * before / step_s[before]:
                    break
        other = None
        if this.dtype is None and (dtype := autocast_dtype("auto", this.device)) is not None:
            faster = Alone(replace(this, dtype=dtype))
            faster.step(row, own)
            other = faster.seconds(row, [own], _soon())[own]
    return Trials(own, step_s, other)


def _soon() -> float:
    """When steps of a size have been looked at for long enough."""
    return time.monotonic() + STEPS_S


def _doubled(own: int) -> list[int]:
    return [own << power for power in range(1, DOUBLINGS + 1)]


def _halved(own: int) -> list[int]:
    return [size for power in range(1, DOUBLINGS + 1) if (size := own >> power) >= LEAST_PART]


@contextmanager
def _alone(recipe: Recipe, data: Dataset, local_ranks: int) -> Iterator[Job]:
    """A rank that nobody waits for, with as many processors as each of so many has."""
    with TemporaryDirectory(prefix="eighteen-") as folder:
        this = job(recipe, data, RunDir(Path(folder)), World())
        with torch_settings(this):
            torch.set_num_threads(max(1, torch.get_num_threads() // local_ranks))
            yield this


def looked_at(recipe: Recipe, data: Dataset, now: Window | None) -> Pictures:
    """The pictures that a phase decodes, how many each class has, and which of validation are in train too."""
    train = data.splits["train"]
    row = next((one for one in recipe.flat_phases if now and one.sizes[0] == now.size), recipe.flat_phases[0])
    share, is_square = (row.min_scale + row.max_scale) / 2, row.min_scale == 1.0
    read = choose_rendition(
        train, row.rendition or recipe.data.rendition, size=row.sizes[0], share=share, square=is_square
    )
    widths, heights = (read.index[name].astype(float) for name in ("width", "height"))
    side = float(np.minimum(widths, heights).mean())
    crop = float(np.sqrt(np.minimum(widths, heights) ** 2 if is_square else widths * heights).mean()) * share**0.5
    kept = size_for(read, side=row.sizes[0], share=share, channels=data.channels).bytes_for(train.num_samples)
    counts = np.bincount(train.labels, minlength=data.num_classes).tolist()
    return Pictures(
        side=side if read.kind == "jpeg" else 0.0,
        needed=side * row.sizes[0] / crop,
        counts=counts,
        classes=data.classes,
        fits=kept <= SHARES["host"] * available_bytes(),
        **likeness.between(data)._asdict(),
    )


def small_work_s(data: Dataset, pictures: Pictures, now: Window) -> float:
    """Threads' seconds for each picture if it came from a rendition of just the side that suffices: some are made."""
    split = some(data.splits["train"], SMALL_PICTURES)
    with TemporaryDirectory(prefix="eighteen-") as folder:
        for sample in range(split.num_samples):
            place = Path(folder, "source", "ab"[sample % 2], f"{sample:04}.jpg")  # a dataset has two classes
            place.parent.mkdir(parents=True, exist_ok=True)
            with suppress(EighteenError):  # a bad sample is told of elsewhere
                place.write_bytes(_full(split).read(sample))
        side = 16 * -(-round(pictures.needed) // 16)
        made = Path(folder, "small.e18")
        pack(Path(folder, "source"), made, val=0.0, renditions=(side,), procs=1)
        small = datasets.open(made).splits["train"]
        taken = {
            name: _work_s(small, name, now, data.channels) for name in ("full", str(side)) if name in small.renditions
        }
    return now.work_s * taken.get(str(side), taken["full"]) / taken["full"]


def _fed(
    recipe: Recipe, data: Dataset, setup: Setup, now: Window, pictures: Pictures, trials: Trials, say: Say
) -> Trials:
    """What else is worth trying, now that it is seen what the loader does, and with it at work."""
    if not now.is_kept and pictures.side > pictures.needed:
        say("decoding some pictures that are made smaller")
        trials = replace(trials, small_work_s=small_work_s(data, pictures, now))
    if not setup.is_cpu:
        return trials
    is_keeping, size = pictures.fits and recipe.data.keep == "never", gains.knee(setup, trials)
    say("training with the loader at work" + (", also on pictures that are kept decoded" if is_keeping else ""))
    usage, fed = machine.Usage(), partial(fed_s, recipe, data, setup, now)
    own_s = fed(trials.batch, is_kept=now.is_kept)
    others = usage.take().get("others")
    kept_s = fed(trials.batch, is_kept=True) if is_keeping else None
    knee_s = fed(size, is_kept=now.is_kept) if size > trials.batch else None
    return replace(trials, fed_s=own_s, others=others, kept_s=kept_s, knee_s=knee_s)


def fed_s(recipe: Recipe, data: Dataset, setup: Setup, now: Window, count: int, *, is_kept: bool) -> float:
    """Seconds of a step of so many pictures that the loader makes meanwhile: only crops, of a few, if they are kept."""
    row = recipe.flat_phases[0].model_copy(update={"batch": count})
    if is_kept:
        few = some(data.splits["train"], alone.WARM_UP * count)
        data = replace(data, splits={**data.splits, "train": few})
    with _alone(recipe, data, setup.local_world) as this:
        return Alone(this).fed_s(row, now.threads, _soon(), kept="auto" if is_kept else "never")


def _full(split: Split) -> Rendition:
    return split.renditions["full"]


def _work_s(split: Split, rendition: str, now: Window, channels: int) -> float:
    task = Task("crop", now.size, is_random=True)
    passes = [make_pass(split, Setting(task, rendition, 1), batch=32, channels=channels) for _ in range(4)]
    return median(one.cpu_s / one.num_pictures for one in passes[1:])


def _gpus() -> Iterator[machine.Gpu]:
    with suppress(OSError, ValueError, LookupError):
        yield from machine.gpus()
