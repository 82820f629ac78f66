"""Arrays in numpy's file format, from files that nobody vouches for: no Python objects, and nothing is allocated before
the header's claim is compared with what the file holds.
"""

from __future__ import annotations

import math
import os
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

MAX_HEADER = 10_000  # characters, as numpy has it
# Deflate can make 1,032 bytes of one; pictures and labels seldom give 20.
MAX_INFLATION, ALWAYS_INFLATED = 200, 256 * 2**20
_ODD = (ValueError, KeyError, TypeError, SyntaxError, tokenize.TokenError, EOFError, OverflowError, RecursionError)


class Header(NamedTuple):
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def open_mapped(path: Path) -> NDArray[Any]:
    """The array in a file that holds nothing else, mapped. Raises ValueError, which says why not, or OSError."""
    with path.open("rb") as file:
        header, left = _header(file), os.fstat(file.fileno()).st_size - file.tell()
        if header.num_bytes != left:
            raise ValueError(f"{left:,} bytes, where its header says {header.num_bytes:,}")
        order = "F" if header.fortran else "C"
        return np.memmap(file, header.dtype, "r", file.tell(), header.shape, order)


def read_npy(path: Path) -> NDArray[Any]:
    """The array in a file, in memory. Raises as ``open_mapped``."""
    with path.open("rb") as file:
        return _read(file, os.fstat(file.fileno()).st_size)


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays in an .npz file, by name. Raises as ``open_mapped``, also for what is inflated beyond reason."""
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = {}
            for info in archive.infolist():
                check_inflation(info.file_size, info.compress_size)
                with archive.open(info) as file:
                    arrays[info.filename.removesuffix(".npy")] = _read(file, info.file_size)
            return arrays
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, zlib.error) as error:
        raise ValueError(str(error)) from error


def check_inflation(num_bytes: int, stored: int) -> None:
    """ValueError where so many bytes from so few ``stored`` ones are more than data can be."""
    if num_bytes > max(ALWAYS_INFLATED, MAX_INFLATION * stored):
        raise ValueError(f"{num_bytes:,} bytes out of {stored:,}: a decompression bomb?")


def _read(file: IO[bytes], num_bytes: int) -> NDArray[Any]:
    header = _header(file)
    left = num_bytes - file.tell()
    if header.num_bytes > left:
        raise ValueError(f"{max(0, left):,} bytes of an array, where its header says {header.num_bytes:,}")
    array = np.empty(math.prod(header.shape), header.dtype)
    filled, view = 0, array.view(np.uint8)
    while filled < len(view):
        got = file.read(min(2**20, len(view) - filled))
        if not got:
            raise ValueError(f"{filled:,} of {len(view):,} bytes")
        view[filled : filled + len(got)] = np.frombuffer(got, np.uint8)
        filled += len(got)
    return array.reshape(header.shape, order="F" if header.fortran else "C")


def _header(file: IO[bytes]) -> Header:
    try:
        version = npy_format.read_magic(file)
        read = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}[version]
        header = Header(*read(file, max_header_size=MAX_HEADER))
    except _ODD as error:
        raise ValueError(f"no header of a numpy array ({type(error).__name__})") from error
    if header.dtype.hasobject:
        raise ValueError("Python objects, which could run code")
    if not header.dtype.itemsize or any(side < 0 for side in header.shape):
        raise ValueError(f"an array of {header.dtype}, {list(header.shape)}")
    if 0 in header.shape and max(header.shape) > MAX_HEADER:
        raise ValueError(f"an empty array of {list(header.shape)}")
    return header
