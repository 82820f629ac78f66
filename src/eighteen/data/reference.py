"""The reference decoder: boxes of stored pictures -> pixels, by Pillow in threads.

It is the oracle that any faster decoder is compared with, and what runs where there is none. The border is one
function, ``decode_into``.
"""

from __future__ import annotations

import io
import time
from concurrent.futures import Executor, wait
from dataclasses import dataclass

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from eighteen.base.errors import DataError
from eighteen.data.dataset import Rendition

DECODER = f"reference (Pillow {PIL.__version__})"
CHUNK = 8  # pictures a task: small enough that threads end together, large enough that handing them out costs nothing
MODES = {1: "L", 3: "RGB"}  # channels -> what Pillow calls it


@dataclass(frozen=True)
class Timings:
    """Seconds spent, summed over threads."""

    read_s: float = 0.0
    decode_s: float = 0.0


def decode_into(
    rendition: Rendition,
    samples: NDArray[np.int64],
    boxes: NDArray[np.float32],
    flips: NDArray[np.bool_],
    out: NDArray[np.uint8],
    pool: Executor,
) -> Timings:
    """Fill ``out`` with the boxes of these samples, resized with antialiasing (bilinear, as Pillow) and mirrored where
    ``flips`` says so.

    samples: [N]      boxes: [N, 4] left, top, width, height in pixels of the rendition      flips: [N]
    out: [N, H, W, C], C 1 or 3
    raises DataError with shard and sample if one cannot be read or decoded; by then no thread writes to ``out`` any
    more
    """
    if _are_whole(rendition, boxes, out):
        return _take(rendition, samples, flips, out)
    chunks = [slice(first, first + CHUNK) for first in range(0, len(samples), CHUNK)]
    tasks = [pool.submit(_decode_chunk, rendition, samples[c], boxes[c], flips[c], out[c]) for c in chunks]
    try:
        timings = [task.result() for task in tasks]
    except BaseException:
        wait([task for task in tasks if not task.cancel()])
        raise
    return Timings(sum(timing.read_s for timing in timings), sum(timing.decode_s for timing in timings))


def decode(source: bytes | NDArray[np.uint8], box: list[float], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """One stored picture, a JPEG or raw [H, W, C]: its box (left, top, width, height in pixels) resized to ``shape``.

    returns [H, W, C] uint8; raises whatever Pillow raises
    """
    return _crop(_open(source), box, shape)


def _are_whole(rendition: Rendition, boxes: NDArray[np.float32], out: NDArray[np.uint8]) -> bool:
    """Whether raw pixels can be copied as they are."""
    if rendition.pixels is None or rendition.pixels.shape[1:] != out.shape[1:]:
        return False
    _, height, width, _ = out.shape
    return bool((boxes == np.array([0, 0, width, height], np.float32)).all())


def _take(
    rendition: Rendition, samples: NDArray[np.int64], flips: NDArray[np.bool_], out: NDArray[np.uint8]
) -> Timings:
    began = time.perf_counter()
    # any other mode goes through a copy of ``out``
    np.take(rendition.verified_pixels, samples, axis=0, out=out, mode="clip")
    out[flips] = out[flips, :, ::-1]
    return Timings(read_s=time.perf_counter() - began)


def _decode_chunk(
    rendition: Rendition,
    samples: NDArray[np.int64],
    boxes: NDArray[np.float32],
    flips: NDArray[np.bool_],
    out: NDArray[np.uint8],
) -> Timings:
    read_s = decode_s = 0.0
    for sample, box, flip, target in zip(samples.tolist(), boxes.tolist(), flips.tolist(), out, strict=True):
        began = time.perf_counter()
        source = rendition.read(sample) if rendition.pixels is None else rendition.read_raw(sample)
        read = time.perf_counter()
        try:
            pixels = decode(source, box, target.shape)
        except Exception as error:  # Pillow raises many kinds; whichever, the sample is to blame
            raise _undecodable(rendition, sample, error) from error
        target[...] = pixels[:, ::-1] if flip else pixels
        read_s += read - began
        decode_s += time.perf_counter() - read
    return Timings(read_s, decode_s)


def _open(source: NDArray[np.uint8] | bytes) -> Image.Image:
    if isinstance(source, bytes):
        return Image.open(io.BytesIO(source), formats=("JPEG",))
    return Image.fromarray(source[..., 0] if source.shape[-1] == 1 else source)


def _crop(image: Image.Image, box: list[float], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The box of a picture as pixels of ``shape``: [H, W, C] uint8."""
    height, width, channels = shape
    mode = MODES[channels]
    left, top, box_width, box_height = box
    full_width, full_height = image.size
    right, bottom = min(left + box_width, full_width), min(top + box_height, full_height)
    shrink = _shrink(min(box_width / width, box_height / height))
    if not image.draft(mode, (max(1, full_width // shrink), max(1, full_height // shrink))):
        shrink = 1  # not a JPEG, so nothing was shrunk
    if image.mode != mode:
        image = image.convert(mode)
    box_in_image = (left / shrink, top / shrink, right / shrink, bottom / shrink)
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR, box=box_in_image)).reshape(shape)


def _shrink(ratio: float) -> int:
    """How far a JPEG may be shrunk while decoding (8, 4, 2 or 1), so that its box still has at least the target's
    pixels.
    """
    return next(shrink for shrink in (8, 4, 2, 1) if ratio >= shrink or shrink == 1)


def _undecodable(rendition: Rendition, sample: int, error: Exception) -> DataError:
    shard = rendition.shards[rendition.index[sample]["shard"]]
    return DataError(
        f"decode sample {sample} of {shard} in {rendition.root} (from {rendition.source(sample)!r})",
        got=f"{type(error).__name__}: {error}",
        need="a whole picture",
        hint=f"eighteen check {rendition.root}, then pack again without this picture",
    )
