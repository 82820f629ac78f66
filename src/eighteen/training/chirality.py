"""Whether a mirrored picture still means the same: it does for animals, and not for digits and text.

A small classifier is fitted to pictures, and once more to them and their mirror images. The labels are chiral where the
first mostly fails on mirror images, or where these make the second err more on pictures that neither has seen.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from eighteen.base.order import Order
from eighteen.base.recipe import Eval
from eighteen.base.world import World
from eighteen.data.dataset import Dataset
from eighteen.data.loader import eval_batches

SIDE = 14  # pixels: enough to tell digits apart
NUM_PICTURES = 6_000  # half to fit, half to test
NUM_FEATURES = 2_000
RIDGE = 10.0
MORE_ERRORS = 1.2  # times as many with mirror images to learn from, and not by chance
FEWER_HITS = 0.5  # of those above chance, on mirror images


class Finding(NamedTuple):
    """Shares of unseen pictures taken for their own class: ``plain``; if they are ``mirrored``; and plain again, with
    mirror images to learn from too, ``taught``.
    """

    is_chiral: bool
    plain: float
    mirrored: float
    taught: float


def find(dataset: Dataset, *, seed: int) -> Finding:
    """Whether the labels of these train pictures are chiral."""
    split = dataset.splits["train"]
    samples, _ = Order(seed, split.num_samples).at(0, min(NUM_PICTURES, split.num_samples))
    how = {"device": torch.device("cpu"), "channels": dataset.channels, "samples": samples}
    batches = list(eval_batches(split, Eval(size=SIDE, crop=1.0), World(), **how))
    pictures = torch.cat([batch.images for batch in batches]).permute(0, 2, 3, 1).numpy()
    labels = torch.cat([batch.labels for batch in batches]).numpy()
    return compare(pictures, labels, num_classes=len(dataset.classes))


def compare(pictures: NDArray[np.uint8], labels: NDArray[np.integer], *, num_classes: int) -> Finding:
    """pictures: [N, SIDE, SIDE, C] in random order, labels: [N]. The same for the same pictures."""
    half = len(pictures) // 2
    scaled = (pictures - np.float32(pictures.mean())) / np.float32(pictures.std() + 1e-6)
    seen, unseen = scaled[:half], scaled[half:]
    size = seen[0].size
    random = np.random.default_rng(0).standard_normal((size, NUM_FEATURES), np.float32) / np.float32(np.sqrt(size))
    both = np.concatenate([seen, seen[:, :, ::-1]]), np.concatenate([labels[:half]] * 2)
    alone, taught = (_fitted(_features(one, random), own, num_classes) for one, own in ((seen, labels[:half]), both))
    own, mirrored = _features(unseen, random), _features(unseen[:, :, ::-1], random)
    hits = [
        (one @ fitted).argmax(1) == labels[half:] for one, fitted in ((own, alone), (mirrored, alone), (own, taught))
    ]
    plain, mirrored, with_both = (float(one.mean()) for one in hits)
    chance = float(np.bincount(labels).max()) / len(labels)
    lost, differ = int(hits[0].sum()) - int(hits[2].sum()), int((hits[0] != hits[2]).sum())
    # by chance alone the difference would be beyond twice its standard deviation in one of forty cases (McNemar 1947)
    harms = 1 - with_both > MORE_ERRORS * (1 - plain) and lost > 2 * np.sqrt(differ)
    fails = plain - chance > 0.1 and mirrored - chance < FEWER_HITS * (plain - chance)
    return Finding(bool(harms or fails), plain, mirrored, with_both)


def _features(pictures: NDArray[np.float32], random: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.maximum(pictures.reshape(len(pictures), -1) @ random, 0)


def _fitted(features: NDArray[np.float32], labels: NDArray[np.integer], num_classes: int) -> NDArray[np.float32]:
    """Ridge regression on the classes: [features, num_classes]."""
    targets = np.eye(num_classes, dtype=np.float32)[labels] - np.float32(1 / num_classes)
    moments = features.T @ features
    moments[np.diag_indices_from(moments)] += RIDGE
    return np.linalg.solve(moments, features.T @ targets)
