"""Worlds of processes that evaluate: ``small_evaluation.py DATA FOLDER 1,2,3``.

Each rank of a world leaves in FOLDER ``WORLD-RANK.npz``: what it counted in the val split of DATA with an untrained
net, for each entry of ``SETTINGS``.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import small_nets
import torch
from small_world import fork

from eighteen.base.recipe import Eval
from eighteen.base.world import World
from eighteen.data import dataset
from eighteen.training import dist
from eighteen.training.card import Card
from eighteen.training.evaluate import evaluate

SETTINGS = {
    f"{'rect' if rect else 'square'}-{tta}-{size}": Eval(size=size, rect=rect, tta=tta, batch=4)
    for rect, tta, size in [*product((False, True), ("none", "flip", "crops"), (32, 96))]
}


def take_part(here: World, data: str, folder: str) -> None:
    """What one rank does."""
    device, opened = dist.device_of(here), dataset.open(data)
    card = Card(opened.classes, opened.channels, 32, 1.0, False, opened.mean, opened.std, "jpeg", {})
    torch.manual_seed(0)
    net = small_nets.grouped(len(opened.classes), opened.channels)
    found: dict[str, np.ndarray] = {}
    with dist.connected(here, device):
        for name, settings in SETTINGS.items():
            one = evaluate(net, opened.splits["val"], card, settings, here, device=device, dtype=None)
            scores = [one.num_samples, one.top1, one.top5, one.top1_tta, one.top5_tta, one.loss]
            found[f"{name} confusion"], found[f"{name} calibration"] = one.confusion, one.calibration
            found[f"{name} scores"] = np.array(scores, np.float64)
    np.savez(Path(folder, f"{here.size}-{here.rank}"), **found)  # type: ignore[arg-type]


if __name__ == "__main__":
    data, folder, sizes = sys.argv[1:]
    for size in sizes.split(","):
        for process in fork(int(size), folder, partial(take_part, data=data, folder=folder)):
            assert os.waitpid(process, 0)[1] == 0
