"""What a step, an evaluation and a checkpoint take on this machine: measured before the first step, in some seconds.

In: a job and its state. Out: seconds by phase. Measured with the loader, the step and the evaluation that the run will
use; afterwards weights, statistics and what the optimiser keeps are as before. What was measured is kept between runs
in ``$XDG_CACHE_HOME/eighteen/speeds.json`` (``~/.cache``), by all that decides it.
"""

from __future__ import annotations

import json
import shutil
import statistics
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

import torch

from eighteen.base import cache as caches
from eighteen.base.budget import Costs
from eighteen.base.hardware import version_of
from eighteen.base.recipe import Eval, Phase
from eighteen.base.schedule import schedule
from eighteen.data.loader import TrainLoader
from eighteen.data.maker import Batch
from eighteen.training import checkpoint, dist
from eighteen.training import snapshot as snapshots
from eighteen.training.evaluate import evaluate
from eighteen.training.job import Job
from eighteen.training.room import Room
from eighteen.training.state import State

PHASE_S = 1.0  # of measuring the steps of a phase, and as much for an evaluation
SHARE = 0.02  # of the time that a run may take, that a phase may take at most
MIN_STEPS, MAX_STEPS = 3, 50
EXIT_S = 0.3  # from the last checkpoint to the end of the process; whoever starts ranks looks after them every 0.2 s


@dataclass(frozen=True)
class Calibration:
    """seconds: that measuring took; is_cached: none was needed"""

    costs: Costs
    seconds: float
    is_cached: bool


def calibrate(this: Job, state: State, *, room: Room | None = None, afresh: bool = False) -> Calibration:
    """All ranks measure together, and get what the first one found.

    room: takes the steps, in parts that fit      afresh: whatever an earlier run has found
    """
    room = room or Room(this, state)
    began = time.monotonic()
    path, key = cache(), _key(this)
    known = dist.share(_read(path, key) if this.world.is_first else None, this.world, this.device)
    found = known or {}
    rows = {_name(row): row for row in this.recipe.flat_phases}
    final = this.recipe.final_eval  # the only one with test-time augmentation
    plain = [this.recipe.eval_in(row).model_copy(update={"tta": "none"}) for row in this.recipe.flat_phases]
    evals = {_name(each): each for each in (*plain, final)}
    is_cached = not afresh and all(name in found for name in (*rows, *evals, "save"))
    if not is_cached:
        limit = min(PHASE_S, SHARE * (this.recipe.budget.seconds or 1e9))
        with unchanged(state):
            found = {name: _step_seconds(this, state, room, row, limit) for name, row in rows.items()}
            found |= {name: _eval_seconds(this, state, each, limit) for name, each in evals.items()}
            found["save"] = save_seconds(this, state)
        if this.world.is_first:
            caches.write(path, key, found)
    steps = tuple(found[_name(row)] for row in this.recipe.flat_phases)
    val = this.data.splits.get("val")
    # the pictures of a recalibration, whose forward passes cost about as much, come with each
    again = min(this.recipe.optim.recalibrate, this.data.splits["train"].num_samples)
    count = val.num_samples + again if val else 0
    per_eval = tuple(count * found[_name(each)] for each in plain)
    more = count * found[_name(final)] - per_eval[-1]
    return Calibration(
        Costs(steps, per_eval, found["save"] + EXIT_S, max(0.0, more)), time.monotonic() - began, is_cached
    )


def cache() -> Path:
    return caches.place("speeds.json")


@contextmanager
def unchanged(state: State) -> Iterator[None]:
    """Whatever steps are taken in the block, afterwards the state is as before; of fresh optimisers too."""
    averages = state.ema.tensors if state.ema else {}
    named = [*state.model.state_dict().values(), *averages.values()]
    kept, recalibrated = [tensor.detach().clone() for tensor in named], state.recalibrated
    optimizer = {
        weight: {key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in values.items()}
        for weight, values in state.optimizer.state.items()
    }
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, before in zip(named, kept, strict=True):
                tensor.copy_(before)
        state.optimizer.state.clear()
        for weight, values in optimizer.items():
            state.optimizer.state[weight] = values
        state.optimizer.zero_grad(set_to_none=state.drops_gradients)
        state.recalibrated = recalibrated
        state.train_mode()
        if state.communication:
            state.communication.seconds()  # so that nobody counts it


def _step_seconds(this: Job, state: State, room: Room, row: Phase, limit: float) -> float:
    """Of a step of this phase, after one that is not counted: the median, as a busy machine has steps of any length."""
    train = this.data.splits["train"]
    enough = (1 + MIN_STEPS + MAX_STEPS) * row.batch / train.num_samples
    alone = this.recipe.model_copy(update={"phases": (row.model_copy(update={"epochs": max(row.epochs, enough)}),)})
    plan = schedule(alone, train.num_samples)
    loader = TrainLoader(
        train,
        plan,
        this.order,
        this.world,
        augment=this.recipe.augment,
        device=this.device,
        channels=this.channels,
        rendition=this.recipe.data.rendition,
        kept=this.recipe.data.keep,
        num_threads=this.recipe.data.threads or None,
        prefetch=this.recipe.data.prefetch,
    )
    loader.on_bad = lambda bad: None  # the run will tell
    with loader:

        def take(count: int) -> list[float]:
            times = [time.monotonic()]
            for now, batch in islice(loader, count):
                room.step(batch, now, count_hits=False, asks=(False, False, False)).tolist()
                times.append(time.monotonic())
            return dist.share([after - before for before, after in pairwise(times)], this.world, this.device)

        take(1)
        first = take(MIN_STEPS)
        more = int(limit / max(statistics.median(first), 1e-6)) - MIN_STEPS
        return statistics.median(first + take(max(0, min(MAX_STEPS, more))))


def _eval_seconds(this: Job, state: State, settings: Eval, limit: float) -> float:
    """Of evaluating one picture, when all ranks share them."""
    if (val := this.data.splits.get("val")) is None:
        return 0.0

    def take(count: int) -> float:
        def some(batches: Iterable[Batch]) -> Iterable[Batch]:
            return islice(batches, count)

        settled = {"device": this.device, "dtype": this.dtype, "on_bad": lambda bad: None, "watched": some}
        found = evaluate(state.model, val, state.card, settings, this.world, **settled)
        return dist.share(found.seconds / max(1, found.num_samples), this.world, this.device)

    per_picture = take(1)
    count = int(limit / max(1e-9, per_picture * settings.batch))
    return take(min(count, 8)) if count > 1 else per_picture


def save_seconds(this: Job, state: State) -> float:
    """Of writing a checkpoint, in a folder of its own that does not stay."""
    began = time.monotonic()
    snapshot = snapshots.take(this, state, is_best=False)
    if this.world.is_first:
        place = this.run.path / ".calibration"
        try:
            checkpoint.save(place, tensors=snapshot.tensors, state=snapshot.facts)
        finally:
            shutil.rmtree(place, ignore_errors=True)
    return dist.share(time.monotonic() - began, this.world, this.device)


def _name(section: Phase | Eval) -> str:
    """Of what is measured for a phase or an evaluation: all but how long or how often."""
    facts = section.model_dump(mode="json", exclude={"epochs", "every"})
    return f"{type(section).__name__} {json.dumps(facts, sort_keys=True)}"


def _key(this: Job) -> str:
    """What else decides."""
    recipe, device = this.recipe, this.device
    facts = {
        "model": recipe.model.model_dump(mode="json", exclude={"init"}),
        "optim": [recipe.optim.name, bool(recipe.optim.ema), bool(recipe.optim.clip)],
        "kept": recipe.data.model_dump(mode="json", include={"keep", "rendition"}),
        "augment": recipe.augment.model_dump(mode="json"),
        "train": recipe.train.model_dump(mode="json", include={"precision", "compile", "exact", "deterministic"}),
        "data": this.data.digest,
        "device": device_name(device),
        "threads": [torch.get_num_threads(), this.recipe.data.threads, this.recipe.data.prefetch],
        "ranks": [this.world.size, this.world.local_size],
        "versions": [version_of("eighteen"), torch.__version__],
    }
    return caches.key(facts)


def device_name(device: torch.device) -> str:
    """Of the GPU, or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return "cpu"


def _read(path: Path, key: str) -> dict[str, float]:
    """What is known; nothing where the file is broken."""
    found = caches.read(path, key)
    if isinstance(found, dict) and all(isinstance(value, float) and 0 <= value < 1e9 for value in found.values()):
        return found
    return {}
