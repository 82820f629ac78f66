"""One rank of a world that trains some runs and evaluates a checkpoint: ``small_world.py DATA WIDE CHECKPOINT RUN...``.

Leaves ``counts-RANK.npz``, what it counted in the val split of WIDE, in the last run.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from eighteen.base import recipe as recipes
from eighteen.base import rundir, world
from eighteen.data import dataset
from eighteen.training import checkpoint, dist, models
from eighteen.training.evaluate import evaluate
from eighteen.training.train import train


def main(data: str, wide: str, weights: str, *folders: str) -> None:
    here = world.from_environment()
    device = dist.device_of(here)
    with dist.connected(here, device):
        for folder in folders:
            run = rundir.open(folder)
            train(recipes.load(str(run.recipe)), dataset.open(data), run, here)
        saved, split = checkpoint.open(Path(weights)), dataset.open(wide).splits["val"]
        settings, model = recipes.load(str(run.recipe)).eval, models.restore(saved.card, saved.weights())
        found = evaluate(model, split, saved.card, settings, here, device=device, dtype=None)
    scores = [found.top1, found.top5, found.loss, found.num_samples]
    np.savez(run.path / f"counts-{here.rank}", confusion=found.confusion, calibration=found.calibration, scores=scores)


if __name__ == "__main__":
    main(*sys.argv[1:])
