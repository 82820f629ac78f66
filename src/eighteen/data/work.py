"""What the processes of a pack do: paths or pixels go in, prepared pictures come out. Quick to import: each must."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eighteen.data.index import MAX_BYTES
from eighteen.data.pictures import Encoded, Prepared, Refused, Target, Unreadable, fit, prepare


@dataclass(frozen=True)
class Job:
    """Some pictures to prepare."""

    target: Target
    numbers: tuple[int, ...]  # of the source's items
    contents: tuple[str | NDArray[np.uint8], ...]  # for each a path, or its pixels [H, W, C]


@dataclass(frozen=True)
class Outcome:
    """What became of one picture."""

    number: int  # of the source's items
    digest: bytes  # 16 bytes of the SHA-256 of the file, or of the pixels
    result: Prepared | Refused


def do(job: Job) -> list[Outcome]:
    return [_one(number, content, job.target) for number, content in zip(job.numbers, job.contents, strict=True)]


def _one(number: int, content: str | NDArray[np.uint8], target: Target) -> Outcome:
    if not isinstance(content, str):
        return Outcome(number, _digest(content.tobytes()), _prepare_pixels(content, target))
    try:
        read = _read(content)
    except OSError as error:
        return Outcome(number, b"", Refused(f"cannot be read: {error.strerror or error}"))
    except Unreadable as error:
        return Outcome(number, b"", Refused(str(error)))
    return Outcome(number, _digest(read), prepare(read, target))


def _read(path: str) -> bytes:
    facts = os.stat(path)
    if not stat.S_ISREG(facts.st_mode):
        raise Unreadable("not a regular file")
    if facts.st_size > MAX_BYTES:
        raise Unreadable(f"{facts.st_size:,} bytes, more than {MAX_BYTES:,}")
    with open(path, "rb") as file:
        return file.read()


def _prepare_pixels(pixels: NDArray[np.uint8], target: Target) -> Prepared | Refused:
    height, width, channels = pixels.shape
    if target.raw_channels == channels and target.max_side is None and not target.renditions:
        return Prepared(Encoded(pixels.tobytes(), width, height), (), channels, None)
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if channels == 1 else pixels))
    try:
        return fit(image, target, converted=None if target.raw_channels else "array")
    except Unreadable as error:
        return Refused(str(error))


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:16]
