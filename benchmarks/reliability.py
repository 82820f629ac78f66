"""What reliability costs: an exact run's images a second over a plain one's, and how long a checkpoint stops training.

CompactNet, and ResNet-18 for the checkpoints, on pictures that are already in memory, in turns. On CPUs a rank of
an exact run has processors / virtual workers threads, on any number of ranks: most of the cost where ranks are few.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median

import numpy as np
from record import record, spread

import eighteen
from eighteen.base import events
from eighteen.base.events import Event

TURNS, BATCH, SIDE, NUM_SAMPLES = 5, 256, 32, 5120
WAYS = {
    "plain": (),
    "ghost batches of 32": ("train.ghost_batch=32",),
    "exact, 8 workers": ("train.exact=true", "train.virtual_workers=8"),
    "exact, 2 workers": ("train.exact=true", "train.virtual_workers=2"),
}


def told(
    data: eighteen.Dataset, folder: Path, *changes: str, num_ranks: int = 1, model: str | None = None
) -> list[Event]:
    """The events of a run of three epochs that is not evaluated before its end."""
    fixed = ["eval.every=100", "train.log_every=5", *changes]
    procs = num_ranks if num_ranks > 1 else None
    result = eighteen.train(
        data, recipe="tiny", epochs=3, batch=BATCH, changes=fixed, runs_dir=folder, procs=procs, new=True, model=model
    )
    return list(events.read(result.run / "events.jsonl"))


def images_per_s(happened: list[Event]) -> float:
    """The median of a run's step events, the first epoch left out."""
    return median(one["images_per_s"] for one in happened if one["event"] == "step" and one["epoch"] > 1)


def rates(data: eighteen.Dataset, folder: Path) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for turn in range(TURNS):
        for num_ranks in (1, 2):
            for name, changes in WAYS.items():
                rate = images_per_s(told(data, folder, *changes, num_ranks=num_ranks))
                found.setdefault(f"{name}, {num_ranks} rank{'s' * (num_ranks > 1)}", []).append(rate)
        print(f"turn {turn + 1} of {TURNS}")
    return found


def stalls(data: eighteen.Dataset, folder: Path) -> dict[str, object]:
    """Of a run with 90 MB of state that saves every three seconds."""
    often = ("train.checkpoint='phase'", "train.checkpoint_minutes=0.05")
    happened = told(data, folder, *often, model="resnet18")
    saved = [one for one in happened if one["event"] == "checkpoint"]
    return {
        "step_s": BATCH / images_per_s(happened),
        "stall_s": spread([one["stall_s"] for one in saved]),
        "write_s": spread([one["seconds"] for one in saved]),
        "bytes": saved[0]["bytes"],
    }


def main() -> None:
    rng = np.random.default_rng(18)
    images, labels = rng.integers(0, 256, (NUM_SAMPLES, SIDE, SIDE, 3), np.uint8), np.arange(NUM_SAMPLES) % 10
    with tempfile.TemporaryDirectory() as temp:
        splits = {"train": (images, labels), "val": (images[:64], labels[:64])}
        data = eighteen.pack(splits, Path(temp, "noise.e18"))
        stalled = stalls(data, Path(temp, "runs"))
        found = rates(data, Path(temp, "runs"))
    of_plain = {}
    for name, ours in found.items():
        plain = found[f"plain, {name.rsplit(', ', 1)[1]}"]
        of_plain[name] = spread([rate / other for rate, other in zip(ours, plain, strict=True)])
    record("reliability", images_per_s=found, of_plain=of_plain, checkpoints=stalled, batch=BATCH, size=SIDE)


if __name__ == "__main__":
    main()
