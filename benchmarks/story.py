"""The story of 2017: settings of an old script, what one ``eighteen doctor --fix`` makes of them, what hands find.

``python benchmarks/story.py flowers.e18 [--rounds 5]``: images/s with the doctor's settings over those of the best cell
of a grid of threads x batch, >= 0.95. The doctor's and the best three cells are measured again for that, in turns: the
best of many that err is too high.
"""

from __future__ import annotations

import argparse
import random
import re
import shlex
import subprocess
import sys
from pathlib import Path
from statistics import median

from record import record, spread

import eighteen
from eighteen.advice import evidence, examination
from eighteen.base import recipe as recipes
from eighteen.data.dataset import Dataset

OLD = ("--batch", "16", "--set", "data.threads=1", "--set", "data.keep=never")
THREADS, BATCHES = (1, 2, 4), (16, 32, 64, 128, 256)
RECIPE, WATCH_S, EVERY, BEST = "small", 6.0, 2, 3


def told(path: Path) -> tuple[list[str], float, float]:
    """The flags that the doctor ends with, and the images/s before and after as it says."""
    words = [sys.executable, "-m", "eighteen", "doctor", str(path), "--recipe", RECIPE, *OLD, "--fix"]
    said = subprocess.run(words, check=True, capture_output=True, text=True).stderr
    print(said, file=sys.stderr)
    before, after = re.findall(r"^([\d,]+) -> ([\d,]+) images/s", said, re.MULTILINE)[-1]
    last = said.splitlines()[-1]
    flags = shlex.split(last)[3:] if last.startswith("eighteen train") else []
    return flags, float(before.replace(",", "")), float(after.replace(",", ""))


def rate(data: Dataset, flags: list[str]) -> float:
    """Images/s of a training of some seconds."""
    given = list(zip(flags[::2], flags[1::2], strict=True))
    batch = next(int(value) for name, value in reversed(given) if name == "--batch")
    recipe = recipes.load(RECIPE, batch=batch, changes=[value for name, value in given if name == "--set"])
    alone = examination.one_phase(recipe, examination.dearest(recipe))
    now = evidence.window(examination.watched(alone, data, watch_s=WATCH_S, every=EVERY))
    assert now
    return now.images / now.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    data = eighteen.open(given.dataset)
    flags, before, after = told(given.dataset)
    cells = [("--batch", str(batch), "--set", f"data.threads={threads}") for batch in BATCHES for threads in THREADS]
    rates = {cell: rate(data, [*cell]) for cell in random.sample(cells, len(cells))}
    best = sorted(rates, key=rates.__getitem__)[-BEST:]
    ours = (*OLD, *flags)
    turns: dict[tuple[str, ...], list[float]] = {cell: [] for cell in (*best, ours)}
    for _ in range(given.rounds):
        for cell in random.sample(list(turns), len(turns)):
            turns[cell].append(rate(data, [*cell]))
    hand = max(best, key=lambda cell: median(turns[cell]))
    record(
        "story",
        dataset=given.dataset.name,
        told={"flags": flags, "before": before, "after": after},
        by_hand={" ".join(cell): one for cell, one in rates.items()},
        again={" ".join(cell): spread(several) for cell, several in turns.items()},
        ratio=spread([one / other for one, other in zip(turns[ours], turns[hand], strict=True)]),
    )


if __name__ == "__main__":
    main()
