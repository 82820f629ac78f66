"""What it costs that the doctor looks on: the same short runs with and without, in turns, in one process.

``python benchmarks/watching.py DATASET [--rounds 12]``: CPU seconds and wall clock of a run, with over without.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from record import record, spread

import eighteen
from eighteen.api import sinks
from eighteen.base.events import Event
from eighteen.base.rundir import RunDir

CHANGES = ["train.log_every=1", "eval.every=1000"]  # ten times as many events as a run has


def nobody(_run: RunDir) -> Callable[[Event], Event | None]:
    return lambda _event: None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--epochs", type=float, default=1.0)
    given = parser.parse_args()
    looking = sinks.watch
    cpu: list[float] = []
    wall: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(1 + given.rounds):  # the first does not count
            taken = {}
            for name in ("with", "without") if turn % 2 else ("without", "with"):
                sinks.watch = looking if name == "with" else nobody
                began, began_cpu = time.perf_counter(), time.process_time()
                eighteen.train(given.dataset, epochs=given.epochs, changes=CHANGES, runs_dir=folder, new=True)
                taken[name] = time.perf_counter() - began, time.process_time() - began_cpu
            if turn:
                wall.append(taken["with"][0] / taken["without"][0])
                cpu.append(taken["with"][1] / taken["without"][1])
    record("watching", dataset=given.dataset.name, cpu=spread(cpu), wall=spread(wall), limit=1.005)


if __name__ == "__main__":
    main()
