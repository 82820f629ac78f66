"""A run of a few steps at each size, as ``eighteen train`` in processes of its own: what starting, stepping,
evaluating, saving and ending take with all that goes on around them.

In: a recipe, a packed dataset, a number of ranks. Out: parts of the kind "run", from the events that the run told.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from eighteen.advice.parts import Part, part
from eighteen.base import events, rundir
from eighteen.base.errors import MachineError
from eighteen.base.events import Event
from eighteen.base.recipe import Phase, Recipe, dump, parse
from eighteen.data.dataset import Dataset

STEPS = 10  # at a size and a batch; the first of them prepares what all others use
LR = 1e-5  # a rate at which nothing diverges
LIMIT_S = 600.0


def trial(recipe: Recipe, data: Dataset, *, ranks: int, on_cpu: bool, runs_dir: Path) -> Iterator[Part]:
    """Each size of the recipe's phases, with its batch and half of that.

    Raises MachineError with what the run said last if it fails.
    """
    short = shortened(recipe, data.splits["train"].num_samples, ranks)
    with TemporaryDirectory(prefix=".eighteen-", dir=runs_dir) as folder:
        file = Path(folder) / "trial.toml"
        file.write_text(dump(short), "utf-8")
        words = [sys.executable, "-m", "eighteen", "train", str(data.path.resolve()), "--recipe", str(file)]
        words += ["--runs-dir", folder, "--new", *((f"--{'procs' if on_cpu else 'gpus'}", str(ranks)) * (ranks > 1))]
        environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
        began = time.time()
        try:
            done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            got, hint = f"no end of it for {LIMIT_S:g} s", "a smaller --batch"
            raise MachineError("try a few steps", got=got, need="a run that ends", hint=hint) from None
        ended = time.time()
        if done.returncode:
            got = (done.stderr.strip().splitlines() or ["nothing"])[-1]
            raise MachineError("try a few steps", got=got, need="a run that ends", hint="eighteen train, to see why")
        told = list(events.read(rundir.open(done.stdout.strip().splitlines()[-1]).events))
    yield from found(told, wall_s=ended - began, ended=ended, ranks=ranks)


def shortened(recipe: Recipe, num_samples: int, ranks: int) -> Recipe:
    """The same for STEPS steps of each size, with its batch and with half of it, at one rate, evaluated once."""
    rows: dict[tuple[int, int], Phase] = {}
    for row in recipe.flat_phases:
        for batch in (row.batch, max(2 * ranks, row.batch // 2)):
            epochs = STEPS * batch / num_samples
            rows[row.sizes[0], batch] = row.model_copy(update={"batch": batch, "epochs": epochs})
    total = sum(row.epochs for row in rows.values())
    tree = recipe.model_dump(mode="json", exclude_none=True)
    optim = tree["optim"] | {"lr": [[0, LR], [total, LR]], "curve": "linear", "ema_from": 0.0}
    for key in ("momentum", "label_smoothing"):
        optim[key] = value[0][1] if isinstance(value := optim[key], list) else value
    tree |= {"phases": [row.model_dump(mode="json", exclude_none=True) for row in rows.values()], "optim": optim}
    tree |= {"budget": {}, "eval": tree["eval"] | {"tta": "none", "every": 10**6}}
    tree["train"] |= {"log_every": 1, "patience": 0, "checkpoint": "phase", "checkpoint_to": ""}
    tree["data"] |= {"keep": "never"}
    return parse(tree)


def found(told: Sequence[Event], *, wall_s: float, ended: float, ranks: int) -> Iterator[Part]:
    """What the events of a trial say. wall_s: of its processes      ended: when, in seconds since 1970

    What is in no step, evaluation or end, nor the more that a phase's first step takes, is the start: so all of it
    together is what the trial took.
    """
    phases = {one["phase"]: one for one in told if one["event"] == "phase"}
    steps = {number: [one for one in told if one["event"] == "step" and one["phase"] == number] for number in phases}
    seconds = {number: [one["batch"] / one["images_per_s"] for one in each] for number, each in steps.items()}
    # a step is told of when the next one is done: the first is told with the second, and the last with the one before
    usual = {number: statistics.median(each[1:-1]) for number, each in seconds.items()}
    changes = [max(0.0, sum(each) - len(each) * usual[number]) for number, each in seconds.items()][1:]
    evals = [one for one in told if one["event"] == "eval"]
    end_s = ended - told[-1]["time_s"]
    for number, each in steps.items():
        waits = [one["waits"] for one in each[1:-1]]
        about = {name: statistics.median(one[name] for one in waits) for name in ("data", "communication")}
        about |= {"memory_bytes": max(one["memory_bytes"] for one in each)}
        size, batch = phases[number]["size"], phases[number]["batch"]
        yield part("run", seconds[number][1:-1], batch, "pictures", of="step", ranks=ranks, size=size, **about)
    for one in evals:
        about = {"of": "evaluate", "ranks": ranks, "size": one["size"]}
        yield part("run", [one["seconds"]], one["num_samples"], "pictures", **about)
    if changes:
        yield part("run", changes, 1, "times", of="phase", ranks=ranks)
    saves = [one for one in told if one["event"] == "checkpoint"]
    yield part("run", [one["seconds"] for one in saves], saves[-1]["bytes"], "B", of="save", ranks=ranks)
    known_s = sum(len(each) * usual[number] for number, each in steps.items())
    start_s = wall_s - known_s - sum(changes) - sum(one["seconds"] for one in evals) - end_s
    yield part("run", [max(0.0, start_s)], 1, "times", of="start", ranks=ranks)
    yield part("run", [max(0.0, end_s)], 1, "times", of="end", ranks=ranks)
