"""What the trainer costs beyond the mathematics: its step time over that of a bare PyTorch loop, to be at most 1.02.

Both train the same model at the same batch in the same precision on pictures that are already in memory, in one
process, in turns of 50 steps: the bare loop runs inside the callback of a step event, while the trainer stands still.
Where other programs want the cores, ``cpu_ratio`` is the one to read: CPU time of the thread that steps.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from record import record, spread

import eighteen
from eighteen.base import recipe as recipes
from eighteen.base.events import Event
from eighteen.base.recipe import Recipe
from eighteen.training.compact import CompactNet
from eighteen.training.optim import parameter_groups
from eighteen.training.precision import autocast_dtype

BLOCK, BLOCKS, BATCH, SIDE, CLASSES = 50, 16, 128, 28, 10
WIDTHS = (32, 64, 128)
DTYPE = autocast_dtype("auto", torch.device("cpu"))  # what the trainer takes too


def pictures(num_samples: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (num_samples, SIDE, SIDE), np.uint8), rng.integers(0, CLASSES, num_samples)


class Clocks(NamedTuple):
    """By the wall, and CPU time of this thread."""

    wall_s: float
    cpu_s: float

    @classmethod
    def now(cls) -> Clocks:
        return cls(time.perf_counter(), time.thread_time())

    def since(self, steps: int) -> Clocks:
        """What has passed, divided by ``steps``."""
        return Clocks(*((now - before) / steps for now, before in zip(Clocks.now(), self, strict=True)))


class BareLoop:
    """What a person would write by hand: index, normalise, forward, backward, step."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = torch.from_numpy(images)[:, None], torch.from_numpy(labels)
        self.model = CompactNet(CLASSES, 1, widths=WIDTHS, stem_stride=2).to(memory_format=torch.channels_last)
        groups = parameter_groups(self.model, weight_decay=5e-4, lr_scale={})
        self.optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9, nesterov=True, fused=True)

    def run(self, steps: int) -> Clocks:
        """A step's."""
        began = Clocks.now()
        order = torch.randperm(len(self.images))
        for step in range(steps):
            chosen = order[step * BATCH : (step + 1) * BATCH]
            images = self.images[chosen].float().sub_(127.5).div_(73.0).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", DTYPE, enabled=DTYPE is not None):
                logits = self.model(images)
            F.cross_entropy(logits.float(), self.labels[chosen]).backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return began.since(steps)


class Turns:
    """Takes turns with the trainer: times its 50 steps, then runs 50 bare ones."""

    def __init__(self, bare: BareLoop) -> None:
        self.bare = bare
        self.resumed_at: Clocks | None = None
        self.pairs: list[tuple[Clocks, Clocks]] = []

    def __call__(self, event: Event) -> None:
        if event["event"] == "step":
            ours = None if self.resumed_at is None else self.resumed_at.since(BLOCK)
            bare = self.bare.run(BLOCK)
            if ours is not None:
                self.pairs.append((ours, bare))
            self.resumed_at = Clocks.now()


def recipe(epochs: float) -> Recipe:
    """What the bare loop does, as a recipe."""
    return recipes.parse(
        {
            "name": "overhead",
            "model": {"name": "eighteen.training.compact:CompactNet", "args": {"widths": WIDTHS, "stem_stride": 2}},
            "optim": {"batch": BATCH, "lr": [[0, 0.01], [epochs, 0.01]], "weight_decay": 5e-4},
            "phases": [{"epochs": epochs, "size": SIDE, "batch": BATCH, "min_scale": 1.0}],
            "augment": {"flip": False},
            "eval": {"size": SIDE, "crop": 1.0, "every": 1000},
            "train": {"log_every": BLOCK, "checkpoint": "phase", "compile": False},
        }
    )


if __name__ == "__main__":
    images, labels = pictures(BLOCK * BATCH)
    turns = Turns(BareLoop(images, labels))
    with tempfile.TemporaryDirectory() as folder:
        data = eighteen.pack((images, labels), Path(folder) / "noise.e18")
        epochs = BLOCK * BATCH * (BLOCKS + 1) / data.splits["train"].num_samples
        eighteen.train(data, recipe=recipe(epochs), runs_dir=folder, on_event=turns)
    pairs = turns.pairs[1:]  # the first turn warms both up
    figures = {
        "trainer_ms": spread([1000 * ours.wall_s for ours, _ in pairs]),
        "bare_ms": spread([1000 * bare.wall_s for _, bare in pairs]),
        "ratio": spread([ours.wall_s / bare.wall_s for ours, bare in pairs]),
        "cpu_ratio": spread([ours.cpu_s / bare.cpu_s for ours, bare in pairs]),
    }
    settings = {"steps_a_turn": BLOCK, "batch": BATCH, "threads": torch.get_num_threads(), "autocast": str(DTYPE)}
    record("overhead", **settings, **figures)
