"""Raw pictures that are wanted whole and at their own size: copied, since there is nothing to decode."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eighteen.data.dataset import WRONG_BYTES, Rendition
from eighteen.data.decoder import Filled, Timings


def are_whole(rendition: Rendition, boxes: NDArray[np.float32], out: NDArray[np.uint8]) -> bool:
    """Whether raw pixels can be copied as they are."""
    if rendition.pixels is None or rendition.pixels.shape[1:] != out.shape[1:]:
        return False
    _, height, width, _ = out.shape
    return bool((boxes == np.array([0, 0, width, height], np.float32)).all())


@dataclass(frozen=True)
class Taken:
    """A ``Pending`` batch that is filled already."""

    filled: Filled

    def result(self) -> Filled:
        return self.filled


def take(rendition: Rendition, samples: NDArray[np.int64], flips: NDArray[np.bool_], out: NDArray[np.uint8]) -> Taken:
    """Copy samples into ``out``, [N, H, W, C]. All pixels of the rendition are verified the first time."""
    began, bad = time.perf_counter(), {}
    assert rendition.pixels is not None, "only raw renditions have pixels"
    if rendition.faulty:
        places = [place for place, sample in enumerate(samples.tolist()) if sample in rendition.faulty]
        bad = {place: rendition.broken(int(samples[place]), WRONG_BYTES) for place in places}
    # any other mode goes through a copy of ``out``
    np.take(rendition.pixels, samples, axis=0, out=out, mode="clip")
    out[flips] = out[flips, :, ::-1]
    return Taken(Filled(Timings(read_s=time.perf_counter() - began), bad))
