"""One rank of 1,024 over a dataset of a billion samples: seconds and memory until its first batch.

The dataset is that of drawn pictures with an index of NUM_SAMPLES rows: a sparse file, in which only those rows are
written that the first steps of the first rank, and a look at some rows everywhere, come to. Each round opens it in a
new process, draws the order and decodes. Targets: 2 s from the start of opening, and 200 MB above what the process had
before.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from numpy.lib import format as npy_format
from record import record, spread

from eighteen.advice.passes import AUGMENT, CPU, SEED, forget_peak_memory, memory_bytes
from eighteen.base import recipe as recipes
from eighteen.base.files import write_atomic
from eighteen.base.order import Order
from eighteen.base.schedule import schedule
from eighteen.base.world import World
from eighteen.data import dataset as datasets
from eighteen.data.dataset import FACTS, sealed
from eighteen.data.index import INDEX_DTYPE, SOME
from eighteen.data.loader import TrainLoader
from eighteen.demo.sheets import pack_sheets

NUM_SAMPLES, NUM_STEPS = 10**9, 64
WORLD = World(rank=0, size=1024, local_rank=0, local_size=8)
PLAN = schedule(recipes.load("imagenet18-16"), NUM_SAMPLES)  # batches of thousands: a few for each rank
MOST_S, MOST_BYTES = 2.0, 200e6


def grow(root: Path) -> None:
    """Let the packed dataset say that its train split has NUM_SAMPLES."""
    facts = json.loads((root / FACTS).read_text())
    split = facts["splits"]["train"]
    split["renditions"] = {"full": split["renditions"]["full"]}
    rendition = split["renditions"]["full"]
    for key in ("rows", "places"):
        rendition.pop(key, None)
    path = root / rendition["index"]["file"]
    known = np.load(path, allow_pickle=False)
    with path.open("wb") as file:
        npy_format.write_array_header_1_0(
            file, {"descr": npy_format.dtype_to_descr(INDEX_DTYPE), "fortran_order": False, "shape": (NUM_SAMPLES,)}
        )
        offset = file.tell()
        file.truncate(offset + NUM_SAMPLES * INDEX_DTYPE.itemsize)
    index = np.memmap(path, INDEX_DTYPE, "r+", offset, (NUM_SAMPLES,))
    for step in map(PLAN.at, range(NUM_STEPS)):
        mine = WORLD.slice(step.batch)
        samples, _ = Order(SEED, NUM_SAMPLES).at(step.first + mine.start, mine.stop - mine.start)
        index[samples] = known[samples % len(known)]
    some = np.arange(0, NUM_SAMPLES, NUM_SAMPLES // SOME)
    index[some] = known[some % len(known)]
    index.flush()
    rendition["index"] |= {"bytes": path.stat().st_size}
    split["samples"] = NUM_SAMPLES
    write_atomic(root / FACTS, sealed(facts))


def first_batch(root: Path) -> dict[str, float]:
    """In this process: seconds to open, to the first batch from there, and the most memory above that before."""
    before = forget_peak_memory() or 0
    began = time.perf_counter()
    split = datasets.open(root).splits["train"]
    opened = time.perf_counter()
    order = Order(SEED, NUM_SAMPLES)
    how = {"augment": AUGMENT, "device": CPU, "channels": 3, "kept": "auto"}
    with TrainLoader(split, PLAN, order, WORLD, **how) as loader:  # pyright: ignore[reportArgumentType]
        step, batch = next(loader)
        first = time.perf_counter()
        assert batch.ids.tolist() == order.at(step.first, step.batch)[0][WORLD.slice(step.batch)].tolist()
        assert batch.images.float().std() > 0
    grown = (memory_bytes("VmHWM") or 0) - before
    return {"open_s": opened - began, "first_batch_s": first - opened, "grown_bytes": grown}


def main(*, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = pack_sheets(Path(folder))
        grow(root)
        command = [sys.executable, __file__, "--only", str(root)]
        told = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(rounds)]
    found = [json.loads(line) for line in told]
    seconds = spread([one["open_s"] + one["first_batch_s"] for one in found])
    grown = spread([one["grown_bytes"] for one in found])
    figures = {name: spread([one[name] for one in found]) for name in found[0]}
    record("billion", samples=NUM_SAMPLES, ranks=WORLD.size, batch=PLAN.at(0).batch, start_s=seconds, **figures)
    for what, is_kept in {
        f"first batch after {seconds['median']:.2f} s (< {MOST_S:g})": seconds["median"] < MOST_S,
        f"{grown['max'] / 1e6:.0f} MB more (<= {MOST_BYTES / 1e6:g})": grown["max"] <= MOST_BYTES,
    }.items():
        print(f"{what}: {'reached' if is_kept else 'MISSED'}")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--only", type=Path, metavar="DATASET", help="once, in this process")
    given = arguments.parse_args()
    torch.set_num_threads(1)
    if given.only:
        print(json.dumps(first_batch(given.only)))
    else:
        main(rounds=given.rounds)
