"""Runs that end in no time: the recipe that the tests change, and what they read from a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import eighteen
from eighteen.base import events, rundir
from eighteen.base import recipe as recipes
from eighteen.base.events import Event
from eighteen.base.recipe import Recipe
from eighteen.base.result import Result
from eighteen.base.world import World
from eighteen.data.dataset import Dataset
from eighteen.training import checkpoint
from eighteen.training.job import Job, job

NUM_TRAIN, BATCH, NUM_STEPS = 104, 26, 24  # 6 epochs; 26 is no multiple of 3

RECIPE = {
    "name": "test",
    "model": {"name": "small_nets:grouped"},
    "optim": {"batch": BATCH, "lr": [[0, 0.05], [2, 0.1], [6, 0.0]], "weight_decay": 1e-3, "label_smoothing": 0.1},
    "phases": [{"epochs": 6, "size": 16, "batch": BATCH, "min_scale": 0.5}],
    "augment": {"flip": False},  # left and right are labels
    "eval": {"size": 16, "crop": 1.0, "batch": 64},
    "train": {"precision": "fp32", "log_every": 1},
}


def recipe(*changes: str) -> Recipe:
    return recipes.load(recipes.parse(RECIPE), changes=changes)


def model(name: str) -> str:
    """The change that takes another of our nets."""
    return f"model.name='small_nets:{name}'"


def train(data: Dataset, folder: Path, *changes: str, **options: Any) -> Result:
    return eighteen.train(data, recipe=recipe(*changes), runs_dir=folder / "runs", **options)


def pictures(count: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise of 16 x 16 with one brighter quarter, which is the label: [N, 16, 16, 3] uint8, [N] int64."""
    rng, labels = np.random.default_rng(seed), np.arange(count) % 4
    images = rng.integers(0, 150, (count, 16, 16, 3), np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[8 * (label // 2) :, 8 * (label % 2) :][:8, :8] += 80
    return images, labels


def make_job(data: Dataset, folder: Path, *changes: str, world: World | None = None) -> Job:
    """A job whose run lies in a folder of its own."""
    chosen = recipe(*changes)
    run = rundir.create(folder, "job", recipe=chosen, command="", environment={})
    return job(chosen, data, run, world or World())


def happened(run: Path, kind: str) -> list[Event]:
    """The events of one kind."""
    return [event for event in events.read(run / "events.jsonl") if event["event"] == kind]


def saved(run: Path, part: str = "model") -> dict[str, Tensor]:
    """What the newest checkpoint holds."""
    return checkpoint.newest(rundir.open(run)).tensors(part)


def differing(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> list[str]:
    """The names under which the two have not the same bits."""
    assert ours.keys() == theirs.keys()
    return [name for name in ours if not torch.equal(ours[name], theirs[name])]


def distance(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """The largest relative difference of a weight: the norm of the difference over the norm."""
    assert ours.keys() == theirs.keys()
    pairs = [(ours[name].double(), theirs[name].double()) for name in ours]
    return max(((a - b).norm() / b.norm().clamp(min=1e-12)).item() for a, b in pairs)
