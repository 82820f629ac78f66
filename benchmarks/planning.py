"""Plans against reality: ``python benchmarks/planning.py CIFAR10 FASHION FLOWERS [--held-out]``, packed datasets.

Each recipe is measured on this machine, with its own sizes and batch, and planned for other ones, on 1 and 2 ranks;
the same is really trained, as whole processes. Without --held-out these are the settings that the model of
``advice.plan`` was made with, and with it those that were not looked at before it was done. As a machine's speed
drifts, it is measured anew before and after each setting, and the mean of both plans counts; how far these are apart is
told. Errors of time, and of how much faster 2 ranks are, go into ``results/planning-DATE.json``. The machine must be
idle.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from record import record

from eighteen.advice import planning
from eighteen.advice.parts import Parts
from eighteen.advice.plan import Known, Plan, plans
from eighteen.advice.rates import measured
from eighteen.base import cache
from eighteen.data import dataset as datasets
from eighteen.data.dataset import Dataset
from eighteen.training.resolve import resolve

RANKS = (1, 2)
MEDIAN, WORST, SCALING = 0.10, 0.20, 0.10  # largest errors


@dataclass(frozen=True)
class Setting:
    dataset: str
    recipe: str
    epochs: float
    batch: int
    changes: tuple[str, ...] = ()


def sizes(*pixels: int) -> tuple[str, ...]:
    return tuple(f"phases.{number}.size={side}" for number, side in enumerate(pixels))


DEVELOPED = (
    Setting("flowers", "small", 3, 48, sizes(72, 104, 128)),
    Setting("cifar10", "tiny", 0.4, 400, ("eval.tta=none",)),
    Setting("fashion", "estimator-fashion", 1, 100),
)
HELD_OUT = (
    Setting("flowers", "small", 6, 64),
    Setting("flowers", "small", 4, 96, sizes(80, 112, 128)),
    Setting("flowers", "small", 4, 32, sizes(64, 64, 96)),
    Setting("cifar10", "tiny", 0.8, 500),
    Setting("cifar10", "tiny", 0.6, 320, (*sizes(26, 30, 32), "eval.tta=flip")),
    Setting("fashion", "estimator-fashion", 2, 250),
)


def planned(dataset: Dataset, setting: Setting, measured_parts: Parts) -> dict[int, Plan]:
    """By ranks."""
    how = {"epochs": setting.epochs, "batch": setting.batch, "changes": setting.changes}
    recipe = resolve(setting.recipe, dataset, say=lambda line: None, **how)
    known = Known(measured(measured_parts, basis="measured here"))
    here = planning.machines_here(measured_parts, known.here)
    made, _ = plans(planning.task_of(recipe, dataset), known, here, (), today=date.today())
    return {one.ranks: one for one in made}


def trained(data: Path, setting: Setting, ranks: int, folder: Path) -> float:
    """Seconds of the whole command, for whoever waits for it."""
    words = [sys.executable, "-m", "eighteen", "train", str(data), "--recipe", setting.recipe, "--new"]
    words += ["--runs-dir", str(folder), "--epochs", str(setting.epochs), "--batch", str(setting.batch)]
    words += [word for change in setting.changes for word in ("--set", change)]
    words += ["--procs", str(ranks)] if ranks > 1 else []
    began = time.monotonic()
    subprocess.run(words, check=True, capture_output=True)
    return time.monotonic() - began


def compared(data: Path, setting: Setting, before: Parts, folder: Path) -> tuple[dict[str, Any], Parts]:
    """What was planned and what it took, by ranks, and the errors; what was measured afterwards."""
    took = {ranks: trained(data, setting, ranks, folder) for ranks in RANKS}
    after = parts(data, setting.recipe, folder)
    both = [planned(datasets.open(data), setting, one) for one in (before, after)]
    foretold = {ranks: statistics.mean(made[ranks].seconds.expected for made in both) for ranks in RANKS}
    drift = {ranks: both[1][ranks].seconds.expected / both[0][ranks].seconds.expected - 1 for ranks in RANKS}
    errors = {ranks: foretold[ranks] / took[ranks] - 1 for ranks in RANKS}
    one, other = RANKS
    scaling = (foretold[one] / foretold[other]) / (took[one] / took[other]) - 1
    told = [f"{n} ranks {took[n]:.1f} s ({errors[n]:+.1%}, plans {drift[n]:+.1%} apart)" for n in RANKS]
    print(f"{setting}: {', '.join(told)}, scaling {scaling:+.1%}", flush=True)
    plan = [{n: {"seconds": asdict(made[n].seconds), "times": asdict(made[n].times)} for n in RANKS} for made in both]
    facts = {"setting": asdict(setting), "planned": plan, "foretold_s": foretold, "took_s": took, "drift": drift}
    return facts | {"errors": errors, "scaling_error": scaling}, after


def parts(data: Path, recipe_name: str, folder: Path) -> Parts:
    """Measured now, with the recipe's own sizes and batch."""
    shutil.rmtree(cache.place("parts"), ignore_errors=True)
    opened = datasets.open(data)
    recipe = planning.undecided(resolve(recipe_name, opened, say=lambda line: None), recipe_name)
    return planning.parts_here(recipe, opened, (), folder, lambda line: None, lambda *_: None)


def main(folder: Path, *, datasets_by_name: dict[str, Path], is_held_out: bool, only: list[int]) -> None:
    found, known = list[dict[str, Any]](), dict[str, Parts]()
    settings = HELD_OUT if is_held_out else DEVELOPED
    for setting in (settings[number - 1] for number in only or range(1, len(settings) + 1)):
        data = datasets_by_name[setting.dataset]
        before = known.get(setting.recipe) or parts(data, setting.recipe, folder)
        facts, known[setting.recipe] = compared(data, setting, before, folder)
        found.append(facts)
    errors = [abs(error) for one in found for error in one["errors"].values()]
    scaling = [abs(one["scaling_error"]) for one in found]
    summary = {"n": len(errors), "median_error": statistics.median(errors), "worst_error": max(errors)}
    summary |= {"median_scaling_error": statistics.median(scaling), "worst_scaling_error": max(scaling)}
    name = "planning" if is_held_out else "planning-developed"
    record(name, summary=summary, runs=found)
    for what, is_kept in {
        f"median error {summary['median_error']:.1%} (<= {MEDIAN:.0%})": summary["median_error"] <= MEDIAN,
        f"worst error {summary['worst_error']:.1%} (<= {WORST:.0%})": summary["worst_error"] <= WORST,
        f"worst error of scaling {summary['worst_scaling_error']:.1%} (<= {SCALING:.0%})": max(scaling) <= SCALING,
    }.items():
        print(f"{what}: {'reached' if is_kept else 'MISSED'}")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("cifar10", "fashion", "flowers"):
        arguments.add_argument(name, type=Path)
    arguments.add_argument("--held-out", action="store_true", help="the settings that the model was not made with")
    arguments.add_argument("--only", type=int, nargs="*", default=[], help="these of them, from 1 on")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as place:
        os.environ["XDG_CACHE_HOME"] = place  # nothing that was measured before
        paths = {name: getattr(given, name) for name in ("cifar10", "fashion", "flowers")}
        main(Path(place), datasets_by_name=paths, is_held_out=given.held_out, only=given.only)
