"""The loader at the size of ImageNet: the first batch of an index of 1.28 million samples, and memory over 200,000.

The index is that of drawn pictures, repeated; a few files of a packed dataset are written anew, its shards stay. Each
round opens it in a new process. Targets: the first batch within 0.3 s of an opened dataset; memory at most the batches
that may be under way and 16 MB a thread, and flat.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from record import record, spread

from eighteen.advice.passes import forget_peak_memory, memory_bytes, time_to_first_batch, training
from eighteen.base.files import write_atomic
from eighteen.base.hardware import num_cpus
from eighteen.data import dataset as datasets
from eighteen.data.dataset import FACTS, sealed
from eighteen.data.index import save_array
from eighteen.demo.sheets import pack_sheets

NUM_SAMPLES, NUM_READ, EVERY, BATCH, SIZE = 1_280_000, 200_000, 10_000, 250, 128
UNDER_WAY = 3 + 2 + 2  # batches: decoded ahead, in work, one waiting to be put there and one with the consumer
THREAD_BYTES = 16 * 2**20


def repeat(root: Path) -> None:
    """Let the packed dataset say that its train split has NUM_SAMPLES, those that it has over and over."""
    facts = json.loads((root / FACTS).read_text())
    split = facts["splits"]["train"]
    for rendition in split["renditions"].values():
        for stored in (rendition[key] for key in ("index", "places") if key in rendition):
            one_each = np.load(root / stored["file"], allow_pickle=False)
            content = save_array(root / stored["file"], np.resize(one_each, NUM_SAMPLES))
            stored |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    split["samples"] = NUM_SAMPLES
    write_atomic(root / FACTS, sealed(facts))


def memory_by_pictures(root: Path) -> list[int]:
    """Bytes above those before, every EVERY pictures."""
    split = datasets.open(root).splits["train"]
    grown: list[int] = []
    before = forget_peak_memory() or 0
    with training(split, size=SIZE, batch=BATCH, rendition="256") as loader:
        for number, _ in enumerate(loader, start=1):
            if number * BATCH % EVERY == 0:
                grown.append((memory_bytes("VmRSS") or 0) - before)
            if number * BATCH == NUM_READ:
                return grown
    raise AssertionError("the split is too small")


def in_new_process(what: str, root: Path) -> list[float]:
    done = subprocess.run([sys.executable, __file__, "--only", what, root], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main(*, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = pack_sheets(Path(folder))
        repeat(root)
        open_s, first_s = zip(*(in_new_process("first", root) for _ in range(rounds)), strict=True)
        grown = in_new_process("memory", root)
    bound = UNDER_WAY * BATCH * SIZE * SIZE * 3 + num_cpus() * THREAD_BYTES
    figures = {
        "open_s": spread(open_s),
        "first_batch_s": spread(first_s),
        "grown_mb": [round(one / 1e6) for one in grown],
    }
    record("scale", samples=NUM_SAMPLES, read=NUM_READ, batch=BATCH, size=SIZE, bound_mb=round(bound / 1e6), **figures)
    late = max(grown[1:]) - min(grown[1:])
    for what, is_kept in {
        f"first batch after {spread(first_s)['median']:.3f} s (< 0.3)": spread(first_s)["median"] < 0.3,
        f"memory at most {max(grown) / 1e6:.0f} MB more (<= {bound / 1e6:.0f})": max(grown) <= bound,
        f"memory between {EVERY * 2:,} and {NUM_READ:,} pictures within {late / 1e6:.0f} MB (<= 16)": late
        <= THREAD_BYTES,
    }.items():
        print(f"{what}: {'reached' if is_kept else 'MISSED'}")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--only", nargs=2, metavar=("WHAT", "DATASET"), help="first or memory, in this process")
    given = arguments.parse_args()
    if given.only:
        what, root = given.only
        print(json.dumps(time_to_first_batch(Path(root)) if what == "first" else memory_by_pictures(Path(root))))
    else:
        main(rounds=given.rounds)
