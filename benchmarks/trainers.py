"""Lightning's Trainer against ours: step time on the same model and pictures, in turns; theirs over ours, to be >= 1.

Each lives in a process and an environment of its own (``loader/peers/setup.sh lightning`` makes theirs); each turn is a
whole short run. "memory": noise of 64 px, for Lightning as batches that are made already, for us through our loader.
Where other programs want the cores, the ratio of CPU time, of the thread that steps, is the one to read.
"loader": drawn JPEGs of 500 x 375, by a stock DataLoader with one worker and by our loader with a thread.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from loader.compare import BUILT, Loader, started
from record import record, spread

import eighteen
from eighteen.demo.sheets import pack_sheets
from eighteen.training.precision import autocast_dtype

CONTENDERS = {"lightning": "lightning_trainer.py", "ours": "our_trainer.py"}
TASKS, SIZE, NUM_PICTURES = ("memory", "loader"), 64, 6400
SOURCE = Path(__file__).parents[1] / "src"


def lay_out(folder: Path) -> None:
    rng = np.random.default_rng(18)
    images, labels = rng.integers(0, 256, (NUM_PICTURES, SIZE, SIZE, 3), np.uint8), rng.integers(0, 10, NUM_PICTURES)
    np.savez(folder / "noise.npz", images=images, labels=labels)
    eighteen.pack((images, labels), folder / "noise.e18", val=0.0)
    pack_sheets(folder, renditions=())


Times = dict[str, dict[str, list[dict[str, float]]]]  # wall_s and cpu_s of a step: by task and contender, one a round


def measure(*, rounds: int, threads: int) -> Times:
    on_gpu = torch.cuda.is_available()
    precision = "bf16" if autocast_dtype("auto", torch.device("cuda" if on_gpu else "cpu")) else "fp32"
    settings = {"OMP_NUM_THREADS": str(threads)}
    times = {task: {contender: list[dict[str, float]]() for contender in CONTENDERS} for task in TASKS}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        lay_out(folder)
        peers: dict[str, Loader] = {}
        for contender, script in CONTENDERS.items():
            theirs = contender == "lightning" and (BUILT / "lightning").exists()  # else it is installed here, if at all
            path = {"PYTHONPATH": os.fspath(SOURCE)} if theirs else {}
            words = (precision,)
            peer = started(script, "lightning" if theirs else None, folder, *words, settings=settings | path)
            peers[contender] = stack.enter_context(peer)
            print(f"{contender}: {peers[contender].hear()}", file=sys.stderr)
        for number in range(1 + rounds):
            for task in TASKS:
                for contender in random.sample(list(peers), len(peers)):
                    step = peers[contender].turn(contender, task)
                    if number:  # the first warms up
                        times[task][contender].append(step)
                    told = ", ".join(f"{name[:-2]} {1000 * seconds:.2f} ms" for name, seconds in step.items())
                    print(f"round {number} {task:6} {contender:9} {told}", file=sys.stderr, flush=True)
    return times


def ratios(of_task: dict[str, list[dict[str, float]]], time: str) -> list[float]:
    """Lightning's over ours, round by round."""
    return [a[time] / b[time] for a, b in zip(of_task["lightning"], of_task["ours"], strict=True)]


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=15)
    arguments.add_argument("--threads", type=int, default=1, help="of torch, for each")
    settings = vars(arguments.parse_args())
    times = measure(**settings)
    figures = {
        task: {
            f"{kind}_{what}": spread(values)
            for kind in ("wall", "cpu")
            for what, values in {
                **{
                    f"{contender}_ms": [1000 * one[f"{kind}_s"] for one in steps]
                    for contender, steps in of_task.items()
                },
                "ratio": ratios(of_task, f"{kind}_s"),
            }.items()
        }
        for task, of_task in times.items()
    }
    record("trainers", **settings, **figures)
