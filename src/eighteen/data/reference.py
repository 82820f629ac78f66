"""The reference decoder: boxes of stored pictures -> pixels, by Pillow in threads.

It is the oracle that the native decoder is compared with, and what runs where that was not built.
"""

from __future__ import annotations

import io
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from eighteen.base.errors import DataError, MachineError
from eighteen.data.dataset import Rendition
from eighteen.data.decoder import Filled, Slow, Timings, undecodable

ABOUT = f"reference (Pillow {PIL.__version__})"
CHUNK = 8  # pictures a task: small enough that threads end together, large enough that handing them out costs nothing
_At = dict[int, tuple[str, Rendition, int, float]]  # by thread: stage, rendition, sample, since when
MODES = {1: "L", 3: "RGB"}  # channels -> what Pillow calls it


class ReferenceDecoder:
    """A ``Decoder``."""

    def __init__(self, num_threads: int) -> None:
        self._pool = ThreadPoolExecutor(num_threads, "eighteen-decode")  # starts its threads with the first picture
        self._at: _At = {}

    def start(
        self,
        rendition: Rendition,
        samples: NDArray[np.int64],
        boxes: NDArray[np.float32],
        flips: NDArray[np.bool_],
        out: NDArray[np.uint8],
    ) -> _Batch:
        chunks = (slice(first, first + CHUNK) for first in range(0, len(samples), CHUNK))
        submit = self._pool.submit
        return _Batch(
            [submit(_decode_chunk, self._at, rendition, samples[c], boxes[c], flips[c], out[c]) for c in chunks]
        )

    def slowest(self) -> Slow | None:
        at = min(self._at.copy().values(), key=lambda one: one[3], default=None)
        return at and Slow(*at[:3], time.monotonic() - at[3])

    def cancel(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class _Batch:
    tasks: list[Future[Filled]]

    def result(self) -> Filled:
        try:
            chunks = [task.result() for task in self.tasks]
        except BaseException:
            wait([task for task in self.tasks if not task.cancel()])
            raise
        sums = {stage: sum(getattr(chunk.timings, stage) for chunk in chunks) for stage in ("read_s", "decode_s")}
        bad = {CHUNK * number + place: why for number, one in enumerate(chunks) for place, why in one.bad.items()}
        return Filled(Timings(**sums), bad)


def decode(source: bytes | NDArray[np.uint8], box: list[float], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """One stored picture, a JPEG or raw [H, W, C]: its box (left, top, width, height in pixels) resized to ``shape``.

    returns [H, W, C] uint8; raises whatever Pillow raises
    """
    return _crop(_open(source), box, shape)


def _decode_chunk(
    at: _At,
    rendition: Rendition,
    samples: NDArray[np.int64],
    boxes: NDArray[np.float32],
    flips: NDArray[np.bool_],
    out: NDArray[np.uint8],
) -> Filled:
    read_s = decode_s = 0.0
    bad: dict[int, DataError] = {}
    together = zip(samples.tolist(), boxes.tolist(), flips.tolist(), out, strict=True)
    for place, (sample, box, flip, target) in enumerate(together):
        began = time.perf_counter()
        at[threading.get_ident()] = ("read", rendition, sample, time.monotonic())
        try:
            source = rendition.read(sample) if rendition.pixels is None else rendition.read_raw(sample)
        except DataError as error:
            bad[place] = error
            continue
        read = time.perf_counter()
        at[threading.get_ident()] = ("decode", rendition, sample, time.monotonic())
        try:
            pixels = decode(source, box, target.shape)
        except MemoryError as error:
            what, hint = f"decode {rendition.called(sample)}", "end other programs, or a smaller batch"
            raise MachineError(what, got="not enough memory", need="room for one picture", hint=hint) from error
        except Exception as error:  # Pillow raises many kinds; whichever, the sample is to blame
            bad[place] = undecodable(rendition, sample, f"{type(error).__name__}: {error}")
            continue
        target[...] = pixels[:, ::-1] if flip else pixels
        read_s += read - began
        decode_s += time.perf_counter() - read
    at.pop(threading.get_ident(), None)
    return Filled(Timings(read_s=read_s, decode_s=decode_s), bad)


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
