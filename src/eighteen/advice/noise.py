"""Batches of noise, as a loader would send them: for measuring what does not depend on what is in the pictures."""

from __future__ import annotations

import numpy as np
import torch

from eighteen.data.maker import Batch
from eighteen.training.job import Job

SEED = 18


def noise(this: Job, *, size: int, count: int, number: int = 0) -> Batch:
    """``count`` pictures of ``size`` px, on the device; another number gives others."""
    rng = np.random.default_rng([SEED, number])
    pixels = rng.integers(0, 256, (count, size, size, this.channels), np.uint8)
    labels, ids = rng.integers(0, this.num_classes, count), torch.arange(number * count, (number + 1) * count)
    images = torch.from_numpy(pixels).to(this.device).permute(0, 3, 1, 2)
    return Batch(images, torch.from_numpy(labels).to(this.device), ids, torch.zeros_like(ids))
