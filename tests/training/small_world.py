"""Worlds of processes that train runs and evaluate a checkpoint: ``small_world.py DATA WIDE CHECKPOINT FOLDER 1,2,3``.

A world of SIZE ranks trains all runs in FOLDER/SIZE, and each rank leaves there ``counts-RANK.npz``, what it counted in
the val split of WIDE. The ranks are forked, because torch takes seconds to import.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from eighteen.base import recipe as recipes
from eighteen.base import rundir, world
from eighteen.base.world import FILE_STORE, World
from eighteen.data import dataset
from eighteen.training import checkpoint, dist, models, train
from eighteen.training.evaluate import evaluate


def take_part(here: World, data: str, wide: str, weights: str, folder: Path) -> None:
    """What one rank does."""
    device = dist.device_of(here)
    with dist.connected(here, device):
        runs = [rundir.open(run) for run in sorted(folder.iterdir())]
        for run in runs:
            train.train(recipes.load(str(run.recipe)), dataset.open(data), run, here)
        saved, split = checkpoint.open(Path(weights)), dataset.open(wide).splits["val"]
        settings, model = recipes.load(str(runs[0].recipe)).eval, models.restore(saved.card, saved.weights())
        found = evaluate(model, split, saved.card, settings, here, device=device, dtype=None)
    scores = [found.top1, found.top5, found.loss, found.num_samples]
    counts = {"confusion": found.confusion, "calibration": found.calibration, "scores": scores}
    np.savez(folder / f"counts-{here.rank}", **counts)


def fork(size: int, folder: str, take_part: Callable[[World], None]) -> list[int]:
    """Start the ranks of a world, with what ``training.ranks`` tells them; returns their process ids."""
    started = []
    for rank in range(size):
        if child := os.fork():
            started.append(child)
            continue
        own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
        os.environ.update({name: str(value) for name, value in own.items()})
        os.environ.update({FILE_STORE: f"{folder}/store-{size}", "GLOO_SOCKET_IFNAME": "lo"})
        take_part(world.from_environment())
        world.leave(0)
    return started


if __name__ == "__main__":
    data, wide, weights, folder, sizes = sys.argv[1:]
    for size in sizes.split(","):
        one = partial(take_part, data=data, wide=wide, weights=weights, folder=Path(folder, size))
        for process in fork(int(size), folder, one):
            assert os.waitpid(process, 0)[1] == 0
