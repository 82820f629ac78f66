"""What a pack will do, decided before anything is written: sources and options go in; order and work come out.

Two packs with the same plan write the same bytes, with any number of processes and however often interrupted.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eighteen.base.errors import UsageError
from eighteen.base.order import random_bits
from eighteen.data import split
from eighteen.data.dataset import VERSION
from eighteen.data.index import INDEX_DTYPE
from eighteen.data.listing import Sources
from eighteen.data.pictures import Target, probe
from eighteen.data.shards import BLOCK
from eighteen.data.work import Job

TINY_SIDE = 64  # px; pictures up to this are stored as raw pixels
PROBE_BYTES = 2**16  # of a file, enough for the headers of tiny pictures
JOB_SAMPLES, JOB_BYTES = 64, 4 * 2**20  # of one job, whichever is reached first
_STREAM = 0x0DE5  # of the random numbers that shuffle train


@dataclass(frozen=True)
class Options:
    """What a person may choose. Raises UsageError for what cannot be."""

    val_share: float = 0.1
    test_share: float = 0.0
    seed: int = 0
    group: str | None = None
    max_side: int | None = None
    quality: int = 90
    renditions: tuple[int, ...] = ()
    shard_bytes: int = 256 * 2**20

    def __post_init__(self) -> None:
        for name in ("val_share", "test_share"):
            _require(0 <= getattr(self, name) < 1, name, getattr(self, name), "a share from 0 to below 1", "0.1")
        _require(
            self.val_share + self.test_share < 1, "val_share + test_share", "1 or more", "less than 1", "0.1 --test 0.1"
        )
        _require(1 <= self.quality <= 100, "quality", self.quality, "1 to 100", "90")
        _require(self.max_side is None or self.max_side >= 1, "max_side", self.max_side, "pixels, 1 or more", "500")
        for side in self.renditions:
            _require(side >= 1, "renditions", side, "short sides in pixels, 1 or more", "352,160")
        _require(
            len(set(self.renditions)) == len(self.renditions),
            "renditions",
            "one side twice",
            "different sides",
            "352,160",
        )
        _require(self.shard_bytes >= 2**16, "shard_bytes", self.shard_bytes, "65,536 or more", str(256 * 2**20))


@dataclass(frozen=True)
class Plan:
    sources: Sources
    options: Options
    orders: Mapping[str, NDArray[np.int64]]  # by split: numbers of sources.items, in the order of writing
    target: Target
    sample_shape: tuple[int, int, int] | None  # height, width, channels of raw pixels; None: JPEGs
    digest: str  # of all that decides the bytes of the dataset

    @property
    def num_items(self) -> int:
        return len(self.sources.items)

    def rendition_shape(self, short_side: int | None) -> tuple[int, int, int] | None:
        """The shape of a raw sample of the rendition with this short side, or of the full one."""
        if self.sample_shape is None:
            return None
        height, width, channels = self.sample_shape
        scale = min(1.0, short_side / min(height, width)) if short_side else 1.0
        return max(1, round(height * scale)), max(1, round(width * scale)), channels


def make_plan(sources: Sources, options: Options) -> Plan:
    """Decide splits, order and format. Raises DataError if the classes cannot be split."""
    splits = split.assign(sources, val_share=options.val_share, test_share=options.test_share, seed=options.seed)
    orders = {name: _order(sources, splits, name, options.seed) for name in split.in_order(splits)}
    shape = _tiny_shape(sources, options.max_side)
    target = Target(options.max_side, options.quality, options.renditions, shape[2] if shape else None)
    return Plan(sources, options, orders, target, shape, _digest(sources, options, splits))


def jobs(plan: Plan, name: str, first: int) -> Iterator[Job]:
    """The work on a split from position ``first`` on, in order, in pieces."""
    order = plan.orders[name]
    while first < len(order):
        last, num_bytes = first, 0
        while last < len(order) and last - first < JOB_SAMPLES and num_bytes < JOB_BYTES:
            num_bytes += plan.sources.items[order[last]].num_bytes
            last += 1
        numbers = tuple(order[first:last].tolist())
        yield Job(plan.target, numbers, tuple(_content(plan.sources, number) for number in numbers))
        first = last


def least_bytes(plan: Plan) -> int:
    """Bytes that the dataset takes at least, as far as can be known before a picture is decoded.

    Raw pixels and JPEGs count in full; of a picture that will be encoded again, and of each smaller rendition, only
    what a tar adds.
    """
    items, in_tar = plan.sources.items, 3 * BLOCK  # two headers and a label
    if plan.sample_shape is None:
        kept = [item.num_bytes for item in items if plan.options.max_side is None and _is_jpeg(item.name)]
        shards = sum(kept) + len(items) * in_tar * (1 + len(plan.options.renditions))
    else:
        shapes = [plan.rendition_shape(side) for side in (None, *plan.options.renditions)]
        shards = len(items) * sum(math.prod(shape) for shape in shapes if shape)
    return shards + len(items) * INDEX_DTYPE.itemsize * (1 + len(plan.options.renditions))


def _is_jpeg(name: str) -> bool:
    return name.lower().endswith((".jpg", ".jpeg"))


def _content(sources: Sources, number: int) -> str | NDArray[np.uint8]:
    """Where a worker finds a picture: a path, or the pixels themselves."""
    item = sources.items[number]
    return (
        os.path.join(sources.root, item.name)
        if sources.are_files
        else sources.arrays[item.name.partition("[")[0]][item.row]
    )


def _order(sources: Sources, splits: Sequence[str], name: str, seed: int) -> NDArray[np.int64]:
    """train is shuffled, so that who reads the shards from front to back meets all classes; the others are sorted."""
    members = [number for number, one in enumerate(splits) if one == name]
    if sources.are_files:
        members.sort(key=lambda number: sources.items[number].name)
    order = np.array(members, np.int64)
    return (
        order
        if name != "train"
        else order[np.argsort(random_bits(seed, np.arange(len(order)), _STREAM), kind="stable")]
    )


def _tiny_shape(sources: Sources, max_side: int | None) -> tuple[int, int, int] | None:
    """Height, width and channels if all pictures are tiny and of one size, else None: at the first that is not."""
    shapes = _shapes(sources, max_side)
    shape = next(shapes, None)
    if shape is None or max(shape[:2]) > TINY_SIDE:
        return None
    channels = shape[2]
    for other in shapes:
        if other[:2] != shape[:2]:
            return None
        channels = max(channels, other[2])
    return shape[0], shape[1], channels


def _shapes(sources: Sources, max_side: int | None) -> Iterator[tuple[int, int, int]]:
    if not sources.are_files:
        height, width, channels = next(iter(sources.arrays.values())).shape[1:]
        scale = min(1.0, (max_side or height + width) / max(height, width))
        yield max(1, round(height * scale)), max(1, round(width * scale)), channels
        return
    for item in sources.items:
        if facts := _probe(sources.root / item.name, max_side):
            yield facts[1], facts[0], facts[2]


def _probe(path: Path, max_side: int | None) -> tuple[int, int, int] | None:
    try:
        with path.open("rb") as file:
            return probe(file.read(PROBE_BYTES), max_side)
    except OSError:
        return None  # the work itself will say what is wrong


def _digest(sources: Sources, options: Options, splits: Sequence[str]) -> str:
    digest = hashlib.sha256(
        json.dumps([VERSION, asdict(options), sources.classes, str(sources.root.absolute())]).encode()
    )
    for item, name in zip(sources.items, splits, strict=True):
        digest.update(f"{item.name!a} {item.label} {name} {item.num_bytes} {item.stamp}\n".encode())
    for array in sources.arrays.values():
        digest.update(str(array.shape).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _require(valid: bool, name: str, got: object, need: str, example: str) -> None:
    if not valid:
        raise UsageError(
            f"pack with {name}",
            got=str(got),
            need=need,
            hint=f"--{name.partition('_share')[0].replace('_', '-')} {example}",
        )
