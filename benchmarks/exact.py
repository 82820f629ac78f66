"""What exactness costs: the images a second of an exact run over those of a plain one, on as many ranks.

CompactNet on pictures that are already in memory, in turns; on CPUs an exact rank has processors / virtual workers
threads, on any number of ranks, which is most of the cost where ranks are few.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median

import numpy as np
from record import record, spread

import eighteen
from eighteen.base import events

TURNS, BATCH, SIDE, NUM_SAMPLES = 5, 256, 32, 5120
WAYS = {
    "plain": (),
    "ghost batches of 32": ("train.ghost_batch=32",),
    "exact, 8 workers": ("train.exact=true", "train.virtual_workers=8"),
    "exact, 2 workers": ("train.exact=true", "train.virtual_workers=2"),
}


def images_per_s(data: eighteen.Dataset, folder: Path, changes: tuple[str, ...], num_ranks: int) -> float:
    """The median of a run's step events, the first epoch left out."""
    procs = num_ranks if num_ranks > 1 else None
    fixed = ("eval.every=100", "train.log_every=5", "model.args={}")
    run = eighteen.train(
        data, recipe="tiny", epochs=3, batch=BATCH, changes=[*fixed, *changes], runs_dir=folder, procs=procs
    ).run
    told = [event for event in events.read(run / "events.jsonl") if event["event"] == "step" and event["epoch"] > 1]
    return median(event["images_per_s"] for event in told)


def main() -> None:
    rng = np.random.default_rng(18)
    pictures = rng.integers(0, 256, (NUM_SAMPLES, SIDE, SIDE, 3), np.uint8), np.arange(NUM_SAMPLES) % 10
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as temp:
        data = eighteen.pack({"train": pictures, "val": (pictures[0][:64], pictures[1][:64])}, Path(temp, "noise.e18"))
        for turn in range(TURNS):
            for num_ranks in (1, 2):
                for name, changes in WAYS.items():
                    rate = images_per_s(data, Path(temp, "runs"), changes, num_ranks)
                    found.setdefault(f"{name}, {num_ranks} rank{'s' * (num_ranks > 1)}", []).append(rate)
            print(f"turn {turn + 1} of {TURNS}")
    ratios = {}
    for name, rates in found.items():
        plain = found[f"plain, {name.rsplit(', ', 1)[1]}"]
        ratios[name] = spread([rate / other for rate, other in zip(rates, plain, strict=True)])
        print(f"{name:35} {median(rates):8.0f} images/s, of plain {ratios[name]}")
    record("exact", images_per_s=found, of_plain=ratios, batch=BATCH, size=SIDE)


if __name__ == "__main__":
    main()
