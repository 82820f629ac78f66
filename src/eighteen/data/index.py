"""The index of a rendition: where each sample's bytes lie, and what they should be.

A numpy structured array with one row a sample, saved with ``np.save`` and opened with mmap, so that a million samples
cost no memory until they are read.
"""

from __future__ import annotations

import io
import mmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eighteen.base.errors import DataError
from eighteen.base.files import write_atomic
from eighteen.data.npy import open_mapped

# What a picture may have at most, as in native/picture.cpp.
MAX_PIXELS = 100_000_000  # 400 MB decoded: Pillow takes 4 bytes a pixel
MAX_BYTES = 512 * 2**20  # of its file

# Rows up to which an index is read and checked whole when it is opened (0.1 s for a million). In a longer one, rows are
# checked as they are used, so that opening it takes neither time nor memory.
MOST_CHECKED = 2**24
SOME = 10_000  # rows that are enough for a mean

INDEX_DTYPE = np.dtype(
    [
        ("shard", "<u4"),  # which of the rendition's files
        ("offset", "<u8"),  # of the sample's first byte in that file
        ("length", "<u8"),  # bytes
        ("label", "<i8"),
        ("width", "<u4"),  # pixels, of the stored picture
        ("height", "<u4"),
        ("crc32c", "<u4"),  # of the sample's bytes
    ]
)


def save_index(path: Path, index: NDArray[np.void]) -> bytes:
    """Write ``index`` ([N] of INDEX_DTYPE) whole or not at all, and return the bytes of the file."""
    assert index.dtype == INDEX_DTYPE
    return save_array(path, index)


def save_array(path: Path, array: NDArray[np.void]) -> bytes:
    """Write any array whole or not at all, and return the bytes of the file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_atomic(path, buffer.getvalue())
    return buffer.getvalue()


def open_index(path: Path) -> NDArray[np.void]:
    """The index at ``path``: [N] of INDEX_DTYPE, mapped. Raises DataError if the file holds anything else."""
    try:
        index = open_mapped(path)
    except (OSError, ValueError) as error:
        raise _not_an_index(path, str(error)) from error
    if index.dtype != INDEX_DTYPE or index.ndim != 1:
        raise _not_an_index(path, f"an array of {index.dtype}, {index.ndim}-dimensional")
    if len(index) > MOST_CHECKED and isinstance(index.base, mmap.mmap):
        index.base.madvise(mmap.MADV_RANDOM)  # else each row that is read brings 128 KB with it
    return index.view(np.ndarray)  # a memmap's own indexing takes 5 times as long


def some_rows(index: NDArray[np.void]) -> NDArray[np.void]:
    """At least SOME rows, evenly spread, or all there are."""
    return index[:: max(1, len(index) // SOME)]


def _not_an_index(path: Path, got: str) -> DataError:
    return DataError(
        f"open the index {path}",
        got=got,
        need="an index that eighteen wrote",
        hint="restore the file, or pack again with --force",
    )
