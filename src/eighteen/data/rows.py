"""Where the rows of blocks of each JPEG begin, beside the index: a crop is then read from its first row on.

Two numpy arrays of a rendition, mapped: the rows of all samples, one sample behind the other, and where each sample's
are. A dataset without them is read as well, only slower: the native decoder then has to read what lies above a crop.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eighteen.base.errors import DataError
from eighteen.data.index import MOST_CHECKED
from eighteen.data.npy import open_mapped

# e18_row of native/eighteen.h: the bit of the entropy-coded data, and what the first DC of each component adds to
ROW_DTYPE = np.dtype([("bit", "<u4"), ("dc", "<i2", 3), ("unused", "<u2")])
PLACE_DTYPE = np.dtype([("first", "<u8"), ("num", "<u4"), ("crc32c", "<u4")])  # num 0: unknown


@dataclass(frozen=True, eq=False)
class Rows:
    """rows: [R] of ROW_DTYPE      places: [N] of PLACE_DTYPE: which of them are a sample's, and what they should be"""

    rows: NDArray[np.void]
    places: NDArray[np.void]

    def are_beyond(self, places: NDArray[np.void]) -> bool:
        """Whether any of these places are of rows that there are not."""
        first, num = places["first"], places["num"]
        return bool((first > len(self.rows)).any() or (num > len(self.rows) - first).any())


def open_rows(rows: Path, places: Path, *, num_samples: int) -> Rows:
    """The rows in these two files. Raises DataError if they hold anything else; the places of more than MOST_CHECKED
    samples are not looked at.
    """
    found = Rows(_mapped(rows, ROW_DTYPE), _mapped(places, PLACE_DTYPE))
    is_short = num_samples <= MOST_CHECKED
    if len(found.places) != num_samples or (is_short and found.are_beyond(found.places)):
        raise _not_rows(places, "places of other samples, or beyond the last row")
    return found


def _mapped(path: Path, dtype: np.dtype[np.void]) -> NDArray[np.void]:
    try:
        found = open_mapped(path)
    except (OSError, ValueError) as error:
        raise _not_rows(path, str(error)) from error
    if found.dtype != dtype or found.ndim != 1:
        raise _not_rows(path, f"an array of {found.dtype}, {found.ndim}-dimensional")
    return found.view(np.ndarray)


def _not_rows(path: Path, got: str) -> DataError:
    return DataError(
        f"open the rows of blocks {path}",
        got=got,
        need="what eighteen wrote",
        hint="restore the file, or pack again with --force",
    )
