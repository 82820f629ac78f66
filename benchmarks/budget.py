"""Does a run end on time? ``python benchmarks/budget.py DATASET --recipe R --times 2m 5m 10m [--seeds 0 1 2]``.

For each time: the command line with ``--time``, its wall clock as a person sees it (the whole process, imports too)
against what was asked for, and its accuracy. When all have had their time, and the machine may do something else, as
many epochs planned by hand (``--epochs``) with the same seeds. The figures, with every plan laid on the way, go into
``results/budget-DATASET-DATE.json``, what the runs said into the ``.log`` beside it. The first run measures this
machine's speeds anew.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from record import dated, record

from eighteen.base import events
from eighteen.base.budget import seconds

LIMIT = 0.02  # of the time, that a run may end earlier or later


def train(data: Path, folder: Path, log: Path, *options: str) -> dict[str, Any]:
    """One run as a process of its own -> its wall clock, accuracy and epochs."""
    words = [sys.executable, "-m", "eighteen", "train", str(data), "--runs-dir", str(folder), "--new", *options]
    with log.open("a") as file:
        print("$", "eighteen train", data.name, *options, file=file, flush=True)
        began = time.monotonic()
        told = subprocess.run(words, stdout=subprocess.PIPE, stderr=file, text=True, check=True).stdout
        wall_s = time.monotonic() - began
        print(f"# {wall_s:.2f} s", file=file)
    happened = list(events.read(Path(told.strip()) / "events.jsonl"))
    end = happened[-1]
    start = next(one for one in happened if one["event"] == "start")
    plans = [one for one in happened if one["event"] == "budget"]
    evals = [one for one in happened if one["event"] == "eval"]
    return {
        "wall_s": wall_s,
        "top1": end["top1"],
        "best_top1": end["best_top1"],
        "epochs": (plans[-1] if plans else start)["epochs"],
        "num_evals": len(evals),
        "eval_s": sum(one["seconds"] for one in evals),
        "exit_s": wall_s - end["clock_s"],
        "calibrated": next((one for one in happened if one["event"] == "calibrated"), None),
        "plans": plans,
    }


def on_time(data: Path, folder: Path, log: Path, asked: str, *options: str) -> dict[str, Any]:
    """A run with a time."""
    found = train(data, folder, log, "--time", asked, *options)
    error = found["wall_s"] / seconds(asked) - 1
    told = f"{asked}: {found['wall_s']:.2f} s ({error:+.2%}), {found['epochs']:.2f} epochs, top-1 {found['top1']:.2%}"
    print(told, flush=True)
    return {"time": asked, "error": error, "timed": found}


def by_hand(data: Path, folder: Path, log: Path, run: dict[str, Any], *options: str) -> dict[str, Any]:
    """The same with a run of as many epochs."""
    found = train(data, folder, log, "--epochs", repr(run["timed"]["epochs"]), *options)
    gap = 100 * (run["timed"]["top1"] - found["top1"])
    print(f"{run['time']}: top-1 by hand {found['top1']:.2%} ({gap:+.2f} points)", flush=True)
    return run | {"gap_points": gap, "by_hand": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--recipe", default="auto")
    parser.add_argument("--times", nargs="+", default=["2m", "5m", "10m"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--set", action="append", default=[], help="change the recipe: a.b=value")
    given = parser.parse_args()
    options = ["--recipe", given.recipe, *(word for change in given.set for word in ("--set", change))]
    name = f"budget-{given.dataset.stem}"
    log = dated(name, ".log")
    log.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        where = given.dataset, Path(folder), log
        seeds = {seed: (*options, "--set", f"train.seed={seed}") for seed in given.seeds}
        timed = [(seed, on_time(*where, asked, *seeds[seed])) for asked in given.times for seed in seeds]
        runs = [{"seed": seed} | by_hand(*where, run, *seeds[seed]) for seed, run in timed]
    gaps, errors = [one["gap_points"] for one in runs], [abs(one["error"]) for one in runs]
    summary = {"largest_error": max(errors), "limit": LIMIT, "mean_gap_points": statistics.mean(gaps), "gaps": gaps}
    record(name, recipe=given.recipe, changes=given.set, summary=summary, runs=runs)


if __name__ == "__main__":
    main()
