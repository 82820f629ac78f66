"""FFCV in its JPEG mode: pictures of at most 500 px, re-encoded with quality 90, in its own file.

Takes turns as ``turns`` says: python ffcv_500.py FOLDER, which holds folder/CLASS/*.jpg.
"""

from __future__ import annotations

import sys
from pathlib import Path

import ffcv
import torch
from ffcv.fields import IntField, RGBImageField
from ffcv.fields.decoders import CenterCropRGBImageDecoder, IntDecoder, RandomResizedCropRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import RandomHorizontalFlip, ToTensor
from ffcv.writer import DatasetWriter
from torchvision.datasets import ImageFolder
from turns import BATCH, MIN_SCALE, SIZES, Pass, serve

FOLDER = Path(sys.argv[1])
FILE = FOLDER / "ffcv-500.beton"


def write() -> None:
    fields = {"image": RGBImageField(write_mode="jpg", jpeg_quality=90, max_resolution=500), "label": IntField()}
    DatasetWriter(str(FILE), fields, num_workers=1).from_indexed_dataset(ImageFolder(str(FOLDER / "folder")))


def prepare(contender: str, task: str) -> Pass:
    size = (SIZES[task], SIZES[task])
    if task.startswith("val"):
        steps, order = [CenterCropRGBImageDecoder(size, ratio=224 / 256), ToTensor()], OrderOption.SEQUENTIAL
    else:
        decoder = RandomResizedCropRGBImageDecoder(size, scale=(MIN_SCALE, 1.0))
        steps, order = [decoder, RandomHorizontalFlip(), ToTensor()], OrderOption.RANDOM
    pipelines = {"image": steps, "label": [IntDecoder(), ToTensor()]}
    how = {"num_workers": 1, "order": order, "os_cache": True, "drop_last": False}
    loader = Loader(str(FILE), batch_size=BATCH, pipelines=pipelines, **how)
    return lambda: sum(len(images) for images, _ in loader)


if __name__ == "__main__":
    torch.set_num_threads(1)
    write()
    serve(prepare, ffcv=ffcv.__version__)
