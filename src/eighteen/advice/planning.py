"""From what a person asks to what can be planned: the recipe chosen, this machine measured or its figures read, and
what is published beside it.

In: a dataset, or a number of samples on paper. Out: a task and plans of it. ``advice.plan`` has the arithmetic.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import torch

from eighteen.advice import parts as measurements
from eighteen.advice.devices import Device, devices
from eighteen.advice.measure import Progress, measure, ranks_here
from eighteen.advice.offers import Offer
from eighteen.advice.parts import Parts
from eighteen.advice.plan import Known, Machine, Plan, Refused, Task, plans
from eighteen.advice.rates import ELSEWHERE, Rates, Work, measured, published
from eighteen.advice.roofline import work
from eighteen.base import budget as budgets
from eighteen.base import recipe as recipes
from eighteen.base.errors import DataError, MachineError, UsageError
from eighteen.base.files import write_json
from eighteen.base.hardware import num_cpus, version_of
from eighteen.base.recipe import Recipe
from eighteen.base.schedule import schedule
from eighteen.base.world import World
from eighteen.data import dataset as datasets
from eighteen.data.dataset import Dataset
from eighteen.data.index import some_rows
from eighteen.data.pack import pack
from eighteen.data.plan import TINY_SIDE
from eighteen.training import auto, calibration, models
from eighteen.training.resolve import resolve

LARGEST_FLOPS = 3e11  # of a step that processors are measured with: some seconds
LEAST_PICTURES = 4  # of such a step, nevertheless
PART_S = 1.0
BUSY = 0.2  # processors that others may keep busy without a word
SIDE = 375  # px of ImageNet's usual short side
BYTES_A_PIXEL = 0.6  # of a JPEG as ImageNet has them: 110 KB of 500 x 375
ASPECT = 4 / 3
CLASSES = 1000  # on paper
VAL_SHARE = 0.04  # on paper: ImageNet has 50,000 for 1,281,167
TINY = {"CIFAR-10", "Fashion-MNIST"}  # data of claims whose pictures are at most TINY_SIDE px

Say = Callable[[str], object]


@dataclass(frozen=True)
class Planned:
    """remarks: what is worth knowing about all plans"""

    task: Task
    plans: Sequence[Plan]
    refused: Sequence[Refused]
    remarks: Sequence[str]


def make(
    dataset: Dataset,
    *,
    samples: float | None = None,
    side: int | None = None,
    recipe: str = "auto",
    epochs: float | None = None,
    batch: int | None = None,
    changes: Sequence[str] = (),
    files: Sequence[Path] = (),
    offered: Sequence[Offer],
    counts: Sequence[int] = (1,),
    target: str | None = None,
    today: date,
    runs_dir: Path = Path(),
    say: Say = lambda line: None,
    on_progress: Progress = lambda *_: None,
) -> Planned:
    """Plan for this machine, or those whose measurements ``files`` hold, and for what is offered.

    samples, side: of a dataset that exists only on paper, for which ``dataset`` stands in where something is measured
    counts: how many machines of an offer
    target: "top1=0.76": the recipe with the fewest pixels whose claim comes up to it
    Raises UsageError, DataError and MachineError before anything is measured, as far as that can be.
    """
    known_parts = [measurements.read(file) for file in files]
    is_whole = dataset.splits["train"].renditions["full"].kind == "raw"
    num_classes = dataset.num_classes if samples is None or is_whole else CLASSES
    if target is not None:
        recipe = reaching(target, num_classes=num_classes, is_tiny=is_whole, say=say)
    elif recipe == "auto" and samples is not None:
        facts = auto.Facts(round(samples), side or SIDE, is_whole, has_gpu=True, has_init=False)
        recipe, why = auto.choose(facts)
        say(f"recipe {recipe}: {why}")
    resolved = resolve(recipe, dataset, say=say, epochs=epochs, batch=batch, changes=changes)
    task = task_of(resolved, dataset) if samples is None else on_paper(resolved, round(samples), side or SIDE)
    done = work_by_size(resolved, num_classes=num_classes, channels=dataset.channels)
    light = resolved if torch.cuda.is_available() else lighter(resolved, done)
    light = undecided(light, recipe if recipe != "auto" else resolved.name, changes)
    here = parts_here(light, dataset, known_parts, runs_dir, say, on_progress)
    known = known_of(here, known_parts, done)
    made, refused = plans(task, known, machines_here(here, known.here), offered, counts=counts, today=today)
    return Planned(task, made, refused, _remarks(here))


def reaching(target: str, *, num_classes: int, is_tiny: bool, say: Say = lambda line: None) -> str:
    """The bundled recipe with the fewest pixels to see whose claim comes up to "top1=0.76"; UsageError if none does.

    Claims on fewer classes than ``num_classes``, or on pictures of another kind, do not count.
    """
    try:
        goal = budgets.goal(target)
    except UsageError as error:
        raise UsageError("--target", got=error.got, need=error.need, hint="--target top1=0.76") from None
    claims = {name: one for name in recipes.bundled() if (one := recipes.load(name, side=32)).claim.get("data")}
    of_kind = {
        name: one
        for name, one in claims.items()
        if (one.claim["data"] in TINY) == is_tiny and one.claim["classes"] >= num_classes
    }
    enough = [name for name, one in of_kind.items() if budgets.is_reached(goal, **_scores(one))]
    if not enough:
        score = next(iter(goal))
        best = max(of_kind.values(), key=partial(_claimed, score), default=None)
        need = f"a recipe that claims anything for {num_classes:,} classes of such pictures, and there is none"
        if best is not None:
            need = f"at most {score}={_claimed(score, best):g}, which {best.name} claims on {best.claim['data']}"
        raise UsageError(f"--target {target}", got="more than any recipe claims", need=need, hint="a lower --target")
    chosen = min(enough, key=lambda name: _pixels(of_kind[name]))
    others = [name for name in enough if name != chosen]
    say(
        f"recipe {chosen}: claims {target} on {of_kind[chosen].claim['data']}"
        + (f", with the fewest pixels; so do {', '.join(others)}" if others else "")
    )
    return chosen


def work_by_size(recipe: Recipe, *, num_classes: int, channels: int) -> dict[int, Work]:
    """What a picture takes at each size of the recipe's phases and evaluations, in bf16."""
    model = models.build(recipe.model, num_classes=num_classes, in_chans=channels)
    sizes = {row.sizes[0] for row in recipe.flat_phases} | {recipe.eval_in(row).size for row in recipe.flat_phases}
    return {size: work(model, in_chans=channels, size=size, element_bytes=2) for size in sorted(sizes)}


def undecided(resolved: Recipe, recipe: str, changes: Sequence[str] = ()) -> Recipe:
    """The same with what a run decides when it starts, so that a trial takes the time for that, too."""
    flip = recipes.load(recipe, changes=changes, side=TINY_SIDE).augment.flip
    return resolved.model_copy(update={"augment": resolved.augment.model_copy(update={"flip": flip})})


def lighter(recipe: Recipe, done: Mapping[int, Work]) -> Recipe:
    """The same with batches that processors take some seconds for: a step's time is a line over its pictures."""

    def at_most(batch: int, size: int) -> int:
        return min(batch, max(LEAST_PICTURES, int(LARGEST_FLOPS / done[size].flops)))

    phases = tuple(row.model_copy(update={"batch": at_most(row.batch, max(row.sizes))}) for row in recipe.phases)
    settings = recipe.eval.model_copy(update={"batch": at_most(recipe.eval.batch, recipe.final_eval.size)})
    return recipe.model_copy(update={"phases": phases, "eval": settings})


def known_of(here: Parts, others: Sequence[Parts], done: Mapping[int, Work]) -> Known:
    """Rates of this machine and of every GPU that is published: measured, scaled from one that is, or counted."""
    try:
        rates = measured(here, basis="measured here")
    except ValueError as error:
        need, hint = "a trial that ran", "eighteen train on this dataset, to see why"
        raise MachineError("plan from what was measured", got=str(error), need=need, hint=hint) from None
    table, gpus = devices(), {}
    found = {name: one for one in [here, *others] if (name := gpu_named(one.device, table))}
    like = next(iter(found), None)
    for name, device in table.items():
        if name in found:
            gpus[name] = measured(found[name], basis=f"measured on {found[name].device}", sure=ELSEWHERE)
        elif like is not None:
            gpus[name] = published(measured(found[like], basis=""), device, done, like=table[like])
        else:
            gpus[name] = published(rates, device, done)
    return Known(rates, gpus, table)


def gpu_named(name: str, table: Mapping[str, Device]) -> str | None:
    """The published GPU that a driver calls ``name``: the one with the most of its words; None if there is none."""
    words = set(re.findall(r"\w+", name))
    fits = [gpu for gpu in table if set(gpu.split("-")) <= words]
    return max(fits, key=len, default=None)


def _scores(recipe: Recipe) -> dict[str, float | None]:
    return {score: recipe.claim.get(score) for score in budgets.SCORES}


def _claimed(score: str, recipe: Recipe) -> float:
    return recipe.claim.get(score, 0.0)


def _pixels(recipe: Recipe) -> float:
    return sum(row.epochs * row.sizes[0] ** 2 for row in recipe.flat_phases)


def noise(folder: Path, side: int) -> Dataset:
    """Pictures of one tiny size to measure with, of which nothing can be learned."""
    pixels = np.random.default_rng(18).integers(0, 256, (2048, side, side, 3), np.uint8)
    pack((pixels, np.arange(2048) % 10), folder / "noise.e18", procs=1)
    return datasets.open(folder / "noise.e18")


def on_paper(recipe: Recipe, num_samples: int, side: int) -> Task:
    """Of pictures that nobody has packed: as ImageNet's in bytes, shape and share of validation."""
    is_whole = side <= TINY_SIDE
    each = 3 * side**2 if is_whole else BYTES_A_PIXEL * ASPECT * side**2
    num_val = round(VAL_SHARE * num_samples)
    return Task(recipe, schedule(recipe, num_samples), num_val, each * (num_samples + num_val), side, is_whole)


def task_of(recipe: Recipe, dataset: Dataset) -> Task:
    full = dataset.splits["train"].renditions["full"]
    rows = some_rows(full.index)
    stored = (
        len(one.index) * float(some_rows(one.index)["length"].mean())
        for split in dataset.splits.values()
        for one in split.renditions.values()
        if len(one.index)
    )
    num_val = dataset.splits["val"].num_samples if "val" in dataset.splits else 0
    side = int(np.median(np.minimum(rows["width"], rows["height"])))
    return Task(recipe, schedule(recipe, len(full.index)), num_val, sum(stored), side, full.kind == "raw")


def parts_here(
    recipe: Recipe, dataset: Dataset, read: Sequence[Parts], runs_dir: Path, say: Say, on_progress: Progress
) -> Parts:
    """Of this machine: out of the files, of an earlier time, or measured now. Of the first file, where none is ours."""
    for one in read:
        if one.model != recipe.model.name:
            got, need = (
                f"what was measured with {one.model}",
                f"figures of {recipe.model.name}, which the recipe trains",
            )
            hint = f"eighteen bench DATASET --recipe {recipe.name} --json machine.json, on that machine"
            raise DataError("--measured", got=got, need=need, hint=hint)
    if read:
        return next((one for one in read if one.device == _device()), read[0])
    kept = calibration.cache().parent / "parts" / f"{_key(recipe, dataset)}.json"
    with suppress(DataError):
        found = measurements.read(kept)
        say(f"measured before: {kept} (deleted, it is measured again)")
        return found
    say("measuring this machine, a minute or two")
    how = {"runs_dir": runs_dir, "part_s": PART_S, "trials": ranks_here(), "on_progress": on_progress}
    found = measure(recipe, dataset, World(), **how)
    with suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_json(kept, measurements.figures(found))
    return found


def _device() -> str:
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"


def _key(recipe: Recipe, dataset: Dataset) -> str:
    """All that decides what is measured."""
    tree = recipe.model_dump(mode="json", exclude={"name", "about", "claim", "budget"})
    for row in tree["phases"]:
        row.pop("epochs")
    tree["optim"].pop("lr")
    versions = [version_of("eighteen"), torch.__version__]
    facts = [tree, dataset.digest, _device(), num_cpus(), versions]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def machines_here(here: Parts, rates: Rates) -> list[Machine]:
    """This machine with each number of ranks that was tried."""
    machine, gpus = here.machine, here.machine.gpus if not rates.is_cpu else ()
    name = "this machine" if here.device == _device() else here.device
    watts = sum(gpu.limit_watts or 0.0 for gpu in gpus) / max(1, len(gpus)) or None
    device = float(gpus[0].memory_bytes or 0) if gpus else 0.0
    return [
        Machine(
            f"{name}, {ranks} {'GPU' if gpus else 'process'}{'' if ranks == 1 else 's' if gpus else 'es'}",
            ranks,
            machine.cpus,
            machine.free_bytes,
            device_bytes=device,
            watts=watts and watts * ranks,
        )
        for ranks in sorted(rates.steps)
    ]


def _remarks(here: Parts) -> list[str]:
    remarks = []
    if why := here.machine.unknown.get("GPUs"):
        remarks.append(f"no GPU here ({why}): this machine is planned with its processors")
    if (busy := here.machine.others_cpus or 0.0) > BUSY:
        remarks.append(f"others kept {busy:.1f} processors busy while this machine was measured: alone it is faster")
    remarks += [f"{what}: not measured, {why}" for what, why in here.unmeasured.items() if what != "copy"]
    return remarks
