"""A dataset of a gigabyte: small pictures that carry noise as comments, so that packing them takes no minutes."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

import eighteen
from eighteen import Dataset
from eighteen.base import recipe as recipes
from eighteen.data import wanted

NUM_PICTURES, NUM_COMMENTS, SIDE = 2600, 6, 96


def gigabyte(folder: Path) -> Dataset:
    """``there/photos.e18`` in a folder, in shards of 32 MiB."""
    rng = np.random.default_rng(7)
    for number in range(NUM_PICTURES):
        picture = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(picture, "JPEG")
        path = folder / "photos" / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        comments = (b"\xff\xfe\xff\xff" + rng.bytes(2**16 - 3) for _ in range(NUM_COMMENTS))
        path.write_bytes(b"".join([picture.getvalue()[:2], *comments, picture.getvalue()[2:]]))
    found = eighteen.pack(folder / "photos", folder / "there" / "photos.e18", val=0.05, shard_bytes=2**25)
    shutil.rmtree(folder / "photos")
    assert num_bytes(found.path) > 10**9
    return found


def num_bytes(path: Path) -> int:
    return sum(one.stat().st_size for one in path.rglob("*") if one.is_file())


def last_of(packed: Dataset) -> str:
    """The shard that the first epoch needs last."""
    train, recipe = packed.splits["train"], recipes.load("demo", changes=["data.order=by-shards"])
    return train.renditions["full"].shards[wanted.order_of(recipe, train).shards[-1]]
