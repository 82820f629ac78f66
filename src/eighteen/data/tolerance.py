"""What becomes of bad samples: those that cannot be read, differ from their checksum or cannot be decoded.

In: each one that a loader met, and a split's share that may be bad. Out: a row in ``bad.csv`` and a warning, once for
each; or its DataError, where it is one too many. A bad sample is left out of its batch, never replaced.
"""

from __future__ import annotations

import csv
import fcntl
import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from eighteen.base.errors import DataError
from eighteen.base.files import unwritable_is_said
from eighteen.base.recipe import Data

COLUMNS = ("split", "rendition", "shard", "sample", "source", "cause")


@dataclass(frozen=True)
class Bad:
    """A bad sample, as a loader met it.

    sample: its number in the split      source: where it came from, "" if that cannot be read either
    error: names shard, sample and cause
    """

    split: str
    rendition: str
    shard: str
    sample: int
    source: str
    error: DataError

    @property
    def row(self) -> list[str]:
        """For ``COLUMNS``."""
        return [self.split, self.rendition, self.shard, str(self.sample), self.source, self.error.got]


OnBad = Callable[[Bad], object]  # called once for each bad sample of a batch, before the batch is handed out


def refuse(bad: Bad) -> None:
    """Tolerate none."""
    raise bad.error


class Tolerance:
    """Lets up to a share of each split's samples be bad: an ``OnBad``.

    table: where they are listed. All ranks of a run, and a run that goes on, use one table: it is what they know of
        each other's bad samples, read only when there is a new one.
    num_samples: of each split      say: called with one line for each new one
    raises DataError, which names shard and sample, for the first one too many, or for any with ``data.bad = "stop"``
    """

    def __init__(
        self, table: Path, num_samples: Mapping[str, int], settings: Data, say: Callable[[str], object]
    ) -> None:
        self._table, self._settings, self._say = table, settings, say
        self._allowed = {split: math.floor(settings.tolerate * num) for split, num in num_samples.items()}

    def __call__(self, bad: Bad) -> None:
        if self._settings.bad == "stop":
            raise bad.error
        with unwritable_is_said(self._table.parent, hint=f"df -h {self._table.parent}"):
            is_new, num_bad = _listed(self._table, bad)
        error, allowed = bad.error, self._allowed[bad.split]
        if num_bad > allowed:
            got = f"{error.got}: bad sample {num_bad} of {bad.split}, where data.tolerate lets {allowed} be so"
            raise DataError(error.tried, got=got, need=error.need, hint=error.hint)
        if is_new:
            self._say(f"{error.tried}: {error.got}; left out, and listed in {self._table.name}")


def _listed(table: Path, bad: Bad) -> tuple[bool, int]:
    """Put a bad sample into the table; whether it is new there, and how many samples of its split are in it now."""
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.open("a+", encoding="utf-8", errors="surrogateescape", newline="") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed
        file.seek(0)
        rows = [row for row in csv.reader(file) if len(row) == len(COLUMNS)]
        known = {(row[0], row[1], row[3]) for row in rows}
        samples = {row[3] for row in rows if row[0] == bad.split} | {str(bad.sample)}
        is_new = (bad.split, bad.rendition, str(bad.sample)) not in known
        if is_new:
            text = io.StringIO(newline="")
            csv.writer(text, lineterminator="\n").writerows([*([] if rows else [COLUMNS]), bad.row])
            file.write(text.getvalue())
    return is_new, len(samples)
