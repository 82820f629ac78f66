"""The native decoder: ``native/`` as a shared library, called through ctypes. The only file that knows of it.

Where the library was not built, ``library`` is None, and the reference decoder does its work.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from concurrent.futures import CancelledError
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import eighteen.data
from eighteen.base.errors import DataError, MachineError
from eighteen.data.dataset import WRONG_BYTES, Rendition
from eighteen.data.decoder import Filled, Slow, Timings, undecodable
from eighteen.data.rows import ROW_DTYPE

INTERFACE = 3  # of native/eighteen.h
FILE = "libeighteen_native.so"
MESSAGE_BYTES = 200  # JMSG_LENGTH_MAX of libjpeg

(
    OK,
    CANCELLED,
    READ_FAILED,
    SHORT,
    CHECKSUM,
    NO_MEMORY,
    NOT_DECODED,
    WARNED,
    WRONG_SIZE,
    TOO_LARGE,
    BAD_BOX,
    BAD_ROWS,
) = range(12)
STAGES = ("read", "decode")
TOLERANT, LIBJPEG = 1, 2  # options of a sample
NO_ROWS = (0, 0, 0)
MAX_ROWS = 8192  # of 8 pixels: more than a JPEG can have
MEMORY = -1  # in place of a file: the offset is an address

SAMPLE = np.dtype(
    [
        ("offset", "<u8"),
        ("length", "<u8"),
        ("file", "<i4"),
        ("crc32c", "<u4"),
        ("width", "<u4"),
        ("height", "<u4"),
        ("box", "<f4", 4),
        ("mirror", "<u4"),
        ("options", "<u4"),
        ("rows", "<u8"),
        ("num_rows", "<u4"),
        ("rows_crc32c", "<u4"),
    ]
)


class _Shape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int32) for name in ("height", "width", "channels", "raw_channels")]


class _Work(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("read_ns", "verify_ns", "decode_ns", "resize_ns", "read_bytes")]


@cache
def library() -> ctypes.CDLL | None:
    """The loaded library, or None where there is none of this interface."""
    paths = (Path(folder) / FILE for folder in eighteen.data.__path__)  # an editable install has a folder more
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        return None
    loaded = ctypes.CDLL(os.fspath(path))
    pointer, number = ctypes.c_void_p, ctypes.c_int
    signatures = {
        "e18_interface": (number,),
        "e18_library": (ctypes.c_char_p,),
        "e18_instructions": (ctypes.c_char_p,),
        "e18_crc32c": (ctypes.c_uint32, pointer, ctypes.c_uint64),
        "e18_open": (pointer, number),
        "e18_cancel": (None, pointer),
        "e18_close": (number, pointer),
        "e18_slowest": (pointer, pointer, pointer, pointer, pointer),
        "e18_submit": (pointer, pointer, pointer, ctypes.c_int64, _Shape, pointer, pointer, pointer),
        "e18_wait": (number, pointer, pointer, pointer, ctypes.c_char_p, number),
        "e18_find_rows": (ctypes.c_int32, pointer, ctypes.c_uint64, pointer, ctypes.c_int32),
        "e18_make": (number, pointer, _Shape, pointer, pointer, ctypes.c_char_p, number),
    }
    for name, (result, *arguments) in signatures.items():
        getattr(loaded, name).restype = result
        getattr(loaded, name).argtypes = arguments
    return loaded if loaded.e18_interface() == INTERFACE else None


def about() -> str | None:
    """ "native (libjpeg-turbo 2.1.5, avx2)", or None where it was not built."""
    native = library()
    return native and f"native ({native.e18_library().decode()}, {native.e18_instructions().decode()})"


class NativeDecoder:
    """A ``Decoder``. Raises MachineError if its threads cannot be started."""

    def __init__(self, num_threads: int) -> None:
        native = library()
        assert native is not None, "it was not built"
        handle = native.e18_open(num_threads)
        if not handle:
            got, hint = "none: too many threads, or too little memory", "ulimit -u, or end other programs"
            raise MachineError(f"start {num_threads} decoding threads", got=got, need="all of them", hint=hint)
        self._native, self._handle = native, handle
        self._under_way: set[_Batch] = set()  # keeps the memory that threads write to
        self._end = weakref.finalize(self, _close, native, handle, self._under_way)
        self._end.atexit = False  # another thread may still be waiting, and the process ends them all

    def start(
        self,
        rendition: Rendition,
        samples: NDArray[np.int64],
        boxes: NDArray[np.float32],
        flips: NDArray[np.bool_],
        out: NDArray[np.uint8],
    ) -> _Batch:
        wanted = described(rendition, samples)
        wanted["box"], wanted["mirror"] = boxes, flips
        if rendition.in_memory and rendition.pixels is not None:
            wanted["file"], wanted["length"] = MEMORY, rendition.pixels[0].nbytes
            wanted["offset"] = rendition.pixels.ctypes.data + samples * rendition.pixels[0].nbytes
        else:
            wanted["file"] = rendition.files(samples)
        return self.fill(rendition, samples, wanted, out)

    def fill(
        self, rendition: Rendition, samples: NDArray[np.int64], wanted: NDArray[np.void], out: NDArray[np.uint8]
    ) -> _Batch:
        """As ``start``, of bytes that lie anywhere: ``wanted`` is [N] of SAMPLE, and what it points to must stay."""
        if not self._end.alive:
            raise CancelledError
        return _Batch(self._native, self._handle, self._under_way, rendition, samples, wanted, out)

    def slowest(self) -> Slow | None:
        if not self._end.alive:
            return None
        place, stage, seconds = ctypes.c_int64(), ctypes.c_int32(), ctypes.c_double()
        handle = self._native.e18_slowest(self._handle, *map(ctypes.byref, (place, stage, seconds)))
        batch = next((batch for batch in list(self._under_way) if batch.handle == handle), None)
        return batch and Slow(STAGES[stage.value], batch.rendition, int(batch.samples[place.value]), seconds.value)

    def cancel(self) -> None:
        if self._end.alive:
            self._native.e18_cancel(self._handle)

    def close(self) -> None:
        self._end()


def _close(native: ctypes.CDLL, handle: int, under_way: set[_Batch]) -> None:
    if not native.e18_close(handle):
        _STUCK.append(set(under_way))  # a thread may still write to them
    under_way.clear()


_STUCK: list[set[_Batch]] = []


class _Batch:
    """A batch in the hands of the threads, and all they read and write."""

    def __init__(
        self,
        native: ctypes.CDLL,
        handle: int,
        under_way: set[_Batch],
        rendition: Rendition,
        samples: NDArray[np.int64],
        wanted: NDArray[np.void],
        out: NDArray[np.uint8],
    ) -> None:
        assert out.flags.c_contiguous
        self._native, self._decoder, self._under_way = native, handle, under_way
        self.rendition, self.samples, self._wanted, self._out = rendition, samples, wanted, out
        self._statuses, self._details = np.zeros(len(wanted), np.int32), np.zeros(len(wanted), np.int64)
        raw_channels = 0 if rendition.pixels is None else rendition.pixels.shape[3]
        shape = _Shape(*out.shape[1:], raw_channels)
        arrays = (array.ctypes.data for array in (out, self._statuses, self._details))
        self.handle = native.e18_submit(handle, wanted.ctypes.data, len(wanted), shape, *arrays)
        if not self.handle:
            raise MemoryError("no memory for a batch")
        under_way.add(self)

    def result(self) -> Filled:
        if self not in self._under_way:
            raise CancelledError  # the decoder was closed
        work, message = _Work(), ctypes.create_string_buffer(MESSAGE_BYTES)
        if not self._native.e18_wait(self._decoder, self.handle, ctypes.byref(work), message, MESSAGE_BYTES):
            raise CancelledError  # a thread is stuck in a read, and may still write to this
        self._under_way.discard(self)
        timings = Timings(*(1e-9 * getattr(work, f"{stage}_ns") for stage in ("read", "verify", "decode", "resize")))
        bad = np.flatnonzero(self._statuses).tolist()
        if not bad:
            return Filled(timings, {})
        if (self._statuses == CANCELLED).any():
            raise CancelledError
        first = message.value.decode(errors="replace")
        return Filled(timings, {place: self._failure(place, first if place == bad[0] else None) for place in bad})

    def _failure(self, place: int, message: str | None) -> DataError:
        """message: what libjpeg-turbo says of it; None if that is not known yet."""
        status, detail = int(self._statuses[place]), int(self._details[place])
        rendition, sample = self.rendition, int(self.samples[place])
        if status == NO_MEMORY:
            what, hint = f"decode {rendition.called(sample)}", "end other programs, or a smaller batch"
            raise MachineError(what, got=reason(status, detail, ""), need="room for one picture", hint=hint)
        if status == READ_FAILED:
            return rendition.broken(sample, os.strerror(detail))
        if status == SHORT:
            return rendition.broken(
                sample, f"{detail} of {self._wanted['length'][place]} bytes: the shard ends too early"
            )
        if status == CHECKSUM:
            return rendition.broken(sample, WRONG_BYTES)
        if status == BAD_ROWS:
            return rendition.broken(sample, "rows of blocks that do not match their checksum")
        if message is None and status in (NOT_DECODED, WARNED):
            message = self._message(place)
        return undecodable(rendition, sample, reason(status, detail, message or ""))

    def _message(self, place: int) -> str:
        """What libjpeg-turbo says of a sample: made once more, since the threads keep only the first one's message."""
        wanted, rendition = self._wanted[place], self.rendition
        size, out = (int(wanted["width"]), int(wanted["height"])), np.empty(self._out.shape[1:], np.uint8)
        try:
            content = rendition.read(int(self.samples[place]))
        except DataError as error:
            return error.got
        return _make(content, wanted["box"].tolist(), size, out, int(wanted["options"]))[1]


def described(rendition: Rendition, samples: NDArray[np.int64]) -> NDArray[np.void]:
    """What is known of these samples: [N] of SAMPLE, still without files, boxes and flips."""
    index, wanted = rendition.index[samples], np.zeros(len(samples), SAMPLE)
    for name in ("offset", "length", "crc32c", "width", "height"):
        wanted[name] = index[name]
    wanted["options"] = 0 if rendition.clean else TOLERANT
    if rendition.rows:
        places = rendition.rows.places[samples]
        wanted["rows"] = rendition.rows.rows.ctypes.data + places["first"] * np.uint64(ROW_DTYPE.itemsize)
        wanted["num_rows"], wanted["rows_crc32c"] = places["num"], places["crc32c"]
    return wanted


def decode(
    source: bytes | NDArray[np.uint8],
    box: list[float],
    size: tuple[int, int],
    shape: tuple[int, ...],
    *,
    options: int = TOLERANT,
) -> NDArray[np.uint8]:
    """One picture, a JPEG or raw [H, W, C], by this thread: its box resized to ``shape``.

    box: left, top, width, height in pixels      size: of the picture, width and height      shape: [H, W, C]
    options: TOLERANT, LIBJPEG, or both
    raises ValueError, which says why, if it cannot be decoded
    """
    out = np.empty(shape, np.uint8)
    status, why = _make(source, box, size, out, options)
    if status != OK:
        raise ValueError(why)
    return out


def warning(content: bytes, size: tuple[int, int]) -> str | None:
    """What libjpeg-turbo warns of in a JPEG of this width and height; None if of nothing, or if it was not built."""
    if library() is None:
        return None
    status, why = _make(content, [0, 0, *size], size, np.empty((1, 1, 3), np.uint8), options=LIBJPEG)
    return why if status == WARNED else None


def rows(content: bytes) -> NDArray[np.void]:
    """Where the rows of blocks of a JPEG begin: [R] of ROW_DTYPE, none if it is no plain one or nothing was built."""
    found = np.zeros(MAX_ROWS, ROW_DTYPE)
    native = library()
    pixels = np.frombuffer(content, np.uint8)
    num = native.e18_find_rows(pixels.ctypes.data, len(content), found.ctypes.data, MAX_ROWS) if native else 0
    return found[:num].copy()


def _make(
    source: bytes | NDArray[np.uint8],
    box: list[float],
    size: tuple[int, int],
    out: NDArray[np.uint8],
    options: int,
) -> tuple[int, str]:
    """What became of it, and why if it is not OK."""
    native = library()
    assert native is not None, "it was not built"
    content = np.frombuffer(source, np.uint8) if isinstance(source, bytes) else np.ascontiguousarray(source)
    raw_channels = 0 if isinstance(source, bytes) else source.shape[2]
    wanted = np.zeros(1, SAMPLE)
    wanted[0] = (
        content.ctypes.data,
        content.nbytes,
        MEMORY,
        0,
        *size,
        box,
        0,
        options,
        *NO_ROWS,
    )
    detail, message = ctypes.c_int64(), ctypes.create_string_buffer(MESSAGE_BYTES)
    told = ctypes.byref(detail), message, MESSAGE_BYTES
    status = native.e18_make(wanted.ctypes.data, _Shape(*out.shape, raw_channels), out.ctypes.data, *told)
    return status, "" if status == OK else reason(status, detail.value, message.value.decode(errors="replace"))


def reason(status: int, detail: int, message: str) -> str:
    """Why a sample whose bytes are sound could not be made into a picture."""
    return {
        NO_MEMORY: "not enough memory",
        NOT_DECODED: message,
        WARNED: f"a warning: {message}",
        WRONG_SIZE: f"{detail >> 16} x {detail & 0xFFFF} pixels, not what the index says",
        TOO_LARGE: "more pixels, bytes or scans than a sample may have",
        BAD_BOX: "a box outside of the picture",
    }[status]
