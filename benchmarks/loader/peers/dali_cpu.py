"""NVIDIA's DALI on the CPU: files, its fused decoder of random crops, triangular resizing.

Takes turns as ``turns`` says: python dali_cpu.py FOLDER, which holds folder/CLASS/*.jpg.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nvidia.dali
from nvidia.dali import fn, pipeline_def, types
from turns import BATCH, MIN_SCALE, SIZES, Pass, serve

FOLDER = Path(sys.argv[1])
TRIANGULAR = types.INTERP_TRIANGULAR


@pipeline_def(batch_size=BATCH, num_threads=1, device_id=None, prefetch_queue_depth=2)
def pipeline(task: str):
    size = SIZES[task]
    files, labels = fn.readers.file(file_root=str(FOLDER / "folder"), random_shuffle=True, initial_fill=512)
    if task.startswith("val"):
        images = fn.resize(fn.decoders.image(files), resize_shorter=256, interp_type=TRIANGULAR)
        return fn.crop(images, crop=(size, size)), labels
    images = fn.decoders.image_random_crop(files, random_area=[MIN_SCALE, 1.0], random_aspect_ratio=[3 / 4, 4 / 3])
    images = fn.resize(images, size=(size, size), interp_type=TRIANGULAR)
    return fn.flip(images, horizontal=fn.random.coin_flip()), labels


def prepare(contender: str, task: str) -> Pass:
    built = pipeline(task)
    built.build()
    num_batches = sum(1 for _ in (FOLDER / "folder").glob("*/*")) // BATCH

    def one_pass() -> int:
        for _ in range(num_batches):
            built.run()
        return num_batches * BATCH

    return one_pass


if __name__ == "__main__":
    serve(prepare, dali=nvidia.dali.__version__)
