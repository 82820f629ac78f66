"""Our trainer, whole runs of it, events, heartbeat and all; its one checkpoint is at the end: Lightning has none.

Takes turns as ``steps`` says: python our_trainer.py FOLDER PRECISION, which holds noise.e18 and sheets.e18.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from steps import BATCH, FIRST, MEAN, MIN_SCALE, NUM_STEPS, SIZE, STD, TOTAL, WIDTHS, Clocks, a_step, clocks, serve

import eighteen
from eighteen.base import recipe as recipes
from eighteen.base.events import Event

FOLDER, PRECISION = Path(sys.argv[1]), sys.argv[2]


def turn(task: str) -> Clocks:
    """The time between the events of two steps: each comes when the step after it is done."""
    data = eighteen.open(FOLDER / ("noise.e18" if task == "memory" else "sheets.e18"))
    epochs, plain = TOTAL * BATCH / data.splits["train"].num_samples, task == "memory"
    recipe = recipes.parse(
        {
            "name": "steps",
            "model": {"name": "eighteen.training.compact:CompactNet", "args": {"widths": WIDTHS}},
            "optim": {"batch": BATCH, "lr": [[0, 1e-3], [epochs, 1e-3]], "weight_decay": 5e-4},
            "phases": [{"epochs": epochs, "size": SIZE, "batch": BATCH, "min_scale": 1.0 if plain else MIN_SCALE}],
            "augment": {"flip": not plain},
            "eval": {"size": SIZE},
            "data": {
                "keep": "auto" if plain else "never",
                "mean": [MEAN] * data.channels,
                "std": [STD] * data.channels,
            },
            "train": {
                "precision": PRECISION,
                "compile": False,
                "log_every": NUM_STEPS,
                "notices": "off",
                "checkpoint": "phase",
            },
        }
    )
    seen: dict[int, Clocks] = {}

    def note(event: Event) -> None:
        if event["event"] == "step":
            seen[event["step"]] = clocks()

    with tempfile.TemporaryDirectory() as runs:
        eighteen.train(data, recipe=recipe, runs_dir=runs, on_event=note)
    return a_step(seen[FIRST - 1], seen[FIRST - 1 + NUM_STEPS])


if __name__ == "__main__":
    serve(turn, eighteen=eighteen.__version__, torch=torch.__version__)
