"""What it saves to know where the rows of blocks begin: CPU time of the decoder without them over that with them.

One thread reads, verifies, decodes and resizes the JPEGs of DATA/imagenet-sample, once in either way in each round; the
pixels have to be the same.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from record import DATA, record, spread

import eighteen
from eighteen.data.crops import eval_boxes, train_boxes
from eighteen.data.dataset import Rendition
from eighteen.data.native import NativeDecoder

ROUNDS = 12
TASKS = (("full", "crop", 128), ("full", "crop", 224), ("full", "val", 224), ("352", "crop", 224), ("256", "crop", 128))


def boxes(rendition: Rendition, task: str, seed: int) -> NDArray[np.float32]:
    width, height, samples = rendition.index["width"], rendition.index["height"], np.arange(len(rendition.index))
    if task == "val":
        return eval_boxes(width, height, crop=0.875)
    who = {"seed": seed, "visits": np.zeros_like(samples), "samples": samples}
    return train_boxes(width, height, **who, min_scale=0.08, min_ratio=3 / 4, max_ratio=4 / 3)


def decode(decoder: NativeDecoder, rendition: Rendition, wanted: NDArray[np.float32], size: int) -> tuple[float, bytes]:
    """CPU-ms a picture, and the pixels."""
    num = len(wanted)
    out = np.zeros((num, size, size, 3), np.uint8)
    began = time.process_time()
    decoder.start(rendition, np.arange(num), wanted, np.zeros(num, bool), out).result().whole()
    return 1000 * (time.process_time() - began) / num, out.tobytes()


if __name__ == "__main__":
    decoder = NativeDecoder(1)
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder) / "packed.e18"
        sample = Path(folder) / "pictures" / "one"
        sample.mkdir(parents=True)
        for number, path in enumerate(sorted((DATA / "imagenet-sample").glob("*.JPEG"))):
            place = sample if number % 2 else sample.with_name("other")
            place.mkdir(exist_ok=True)
            (place / path.name).symlink_to(path.resolve())
        renditions = eighteen.pack(sample.parent, packed, val=0.0, renditions=[352, 256]).splits["train"].renditions
        for name, task, size in TASKS:
            ways = {"with": renditions[name], "without": dataclasses.replace(renditions[name], rows=None)}
            took: dict[str, list[float]] = {"with": [], "without": []}
            for number in range(ROUNDS + 1):
                wanted, pixels = boxes(ways["with"], task, number), set()
                for way in sorted(ways, reverse=bool(number % 2)):
                    ms, made = decode(decoder, ways[way], wanted, size)
                    took[way].append(ms)
                    pixels.add(made)
                assert len(pixels) == 1, "other pixels"
            both = zip(took["without"][1:], took["with"][1:], strict=True)  # the first round warms up
            figures[f"{name} {task} {size}"] = {
                "with_ms": spread(took["with"][1:]),
                "without_ms": spread(took["without"][1:]),
                "ratio": spread([without / with_rows for without, with_rows in both]),
            }
    decoder.close()
    record("rows", **figures)
