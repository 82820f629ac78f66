"""What ``--tune auto`` finds against the best of all it could find: images/s over those of the best cell, >= 0.97.

    python benchmarks/tuning.py [flowers.e18 cifar10.e18]

The cells are threads x micro-batch, at each size, with pictures from the loader as a run has them. Each takes a turn of
some steps in each round, in an order drawn anew. Tuning is done several times, each time as if for the first; its cells
are looked up in the grid. The best of many that err is too high, so what is best is taken from all rounds but one, and
compared in that one: a ratio a round. Datasets that are not given are packed from DATA; the sheets are drawn: JPEGs of
500 x 375, which are decoded at each visit.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from record import DATA, record, spread

import eighteen
from eighteen.advice.feeding import thread_counts
from eighteen.advice.search import LEAST_NORMED, halves
from eighteen.advice.tune import tune
from eighteen.base import rundir
from eighteen.base.hardware import num_cpus
from eighteen.base.recipe import Recipe
from eighteen.base.schedule import schedule
from eighteen.base.world import World
from eighteen.data.dataset import Dataset
from eighteen.data.loader import TrainLoader
from eighteen.demo.sheets import pack_sheets
from eighteen.training import state as states
from eighteen.training.job import Job, job
from eighteen.training.resolve import resolve
from eighteen.training.step import train_step
from eighteen.training.train import torch_settings, train_loader

TASKS = {"flowers": ("small", ()), "cifar10": ("tiny", ()), "sheets": ("small", ("data.keep='never'",))}
LONG = 10_000  # epochs
WARM_UP = 8  # steps of a turn before the clock: more than the loader has made when it begins
NUM_SHEETS = 640


class Cell(NamedTuple):
    phase: int
    threads: int
    micro_batch: int


def cells(recipe: Recipe) -> list[Cell]:
    threads = [recipe.data.threads] if recipe.data.threads else thread_counts(num_cpus())
    return [
        Cell(number, count, part)
        for number, phase in enumerate(recipe.phases)
        for part in halves(phase.batch)
        if part >= LEAST_NORMED
        for count in threads
    ]


def found(recipe: Recipe, data: Dataset) -> tuple[list[Cell], float]:
    """The cells that tuning chooses, one a phase, and the seconds it takes."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        tuned = tune(recipe, data, World())
    threads = tuned.threads or recipe.data.threads or num_cpus()
    parts = (part or phase.batch for part, phase in zip(tuned.micro_batches, recipe.phases, strict=True))
    return [Cell(number, threads, part) for number, part in enumerate(parts)], tuned.seconds


def of_cell(this: Job, cell: Cell) -> Job:
    row = this.recipe.phases[cell.phase].model_copy(update={"epochs": LONG, "micro_batch": cell.micro_batch})
    settings = this.recipe.data.model_copy(update={"threads": cell.threads})
    return replace(this, recipe=this.recipe.model_copy(update={"phases": (row,), "data": settings}))


def images_per_s(this: Job, state: states.State, loader: TrainLoader, num_steps: int) -> float:
    began, batch = 0.0, this.recipe.phases[0].batch
    for number in range(WARM_UP + num_steps):
        if number == WARM_UP:
            began = time.perf_counter()
        now, pictures = next(loader)
        train_step(this, state, pictures, now, count_hits=False, asks=(False, False, False))
    return num_steps * batch / (time.perf_counter() - began)


def measure(recipe: Recipe, data: Dataset, folder: Path, *, rounds: int, steps: int) -> dict[Cell, list[float]]:
    """Images/s of each cell, one a round."""
    run = rundir.create(folder, "grid", recipe=recipe, command="", environment={})
    this, grid, split = job(recipe, data, run, World()), cells(recipe), data.splits["train"]
    rates = {cell: list[float]() for cell in grid}
    with torch_settings(this), ExitStack() as stack:
        state = states.start(this)
        jobs = {cell: of_cell(this, cell) for cell in grid}
        plans = {cell: replace(state, plan=schedule(each.recipe, split.num_samples)) for cell, each in jobs.items()}
        loaders = {cell: stack.enter_context(train_loader(jobs[cell], plans[cell])) for cell in grid}
        for number in range(1 + rounds):
            for cell in random.sample(grid, len(grid)):
                rate = images_per_s(jobs[cell], plans[cell], loaders[cell], steps)
                if number:  # the first warms up
                    rates[cell].append(rate)
                print(f"round {number}  {cell}  {rate:,.0f} images/s", file=sys.stderr, flush=True)
    return rates


def over_best(recipe: Recipe, chosen: list[Cell], rates: dict[Cell, list[float]]) -> list[float]:
    """By round: the time of a run with the cells that were best in all others over that with the chosen ones."""

    def run_s(cells: list[Cell], number: int) -> float:
        return sum(phase.epochs / rates[cell][number] for phase, cell in zip(recipe.phases, cells, strict=True))

    found = []
    for number in range(len(rates[chosen[0]])):
        rest = {cell: statistics.median(several[:number] + several[number + 1 :]) for cell, several in rates.items()}
        best = [max((cell for cell in rest if cell.phase == one.phase), key=lambda cell: rest[cell]) for one in chosen]
        found.append(run_s(best, number) / run_s(chosen, number))
    return found


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("datasets", nargs="*", type=Path, help="packed, called as the folders in DATA")
    arguments.add_argument("--tasks", default=",".join(TASKS))
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--steps", type=int, default=16, help="of a turn, after 8 that do not count")
    arguments.add_argument("--repeats", type=int, default=3, help="of tuning")
    settings = arguments.parse_args()
    given, figures = {path.stem: path for path in settings.datasets}, {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name in settings.tasks.split(","):
            named, changes = TASKS[name]
            if name == "sheets":
                data = eighteen.open(pack_sheets(folder, num_sheets=NUM_SHEETS, renditions=()))
            else:
                data = (
                    eighteen.open(given[name]) if name in given else eighteen.pack(DATA / name, folder / f"{name}.e18")
                )
            recipe = resolve(named, data, say=print, changes=changes)
            load = os.getloadavg()[0]
            answers = [found(recipe, data) for _ in range(settings.repeats)]
            rates = measure(recipe, data, folder, rounds=settings.rounds, steps=settings.steps)
            figures[name] = {
                "load_before": load,
                "tuned_over_best": spread(
                    [ratio for chosen, _ in answers for ratio in over_best(recipe, chosen, rates)]
                ),
                "seconds": spread([seconds for _, seconds in answers]),
                "chosen": [[cell._asdict() for cell in chosen] for chosen, _ in answers],
                "grid": [{**cell._asdict(), "images_per_s": spread(several)} for cell, several in rates.items()],
            }
    record("tuning", rounds=settings.rounds, steps=settings.steps, **figures)
