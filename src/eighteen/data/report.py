"""What a pack did, for a person: counts, sizes, conversions, refusals and duplicates of a finished dataset."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eighteen.data.dataset import FACTS, Dataset, read_facts, stored_files

BAD, DUPLICATES = "bad.csv", "duplicates.csv"
BAD_COLUMNS = ("source", "class", "split", "cause")
DUPLICATE_COLUMNS = ("group", "source", "class", "split")
MAX_CLASSES = 30  # rows of the table; the rest is in PackReport.samples
MAX_LISTED = 10  # refused pictures and duplicates that are printed; the rest is in the files


@dataclass(frozen=True)
class Refusal:
    source: str
    class_name: str
    split: str
    cause: str


@dataclass(frozen=True)
class Copy:
    """One of several pictures whose content is the same, although they lie in different splits or classes."""

    group: int
    source: str
    class_name: str
    split: str


@dataclass(frozen=True)
class PackReport:
    path: Path
    classes: tuple[str, ...]
    samples: Mapping[str, tuple[int, ...]]  # by split: how many of each class
    num_bytes: int  # of all files
    sides: tuple[int, int, int]  # smallest, median and largest side of the full pictures, in px
    converted: Mapping[str, int]  # what was converted -> how often
    refused: tuple[Refusal, ...]
    duplicates: tuple[Copy, ...]
    ignored: Mapping[str, int]  # what lay in the source and is no picture -> how often
    kept: int  # shards that an earlier, interrupted pack had finished
    seconds: float

    @property
    def num_samples(self) -> int:
        return sum(sum(counts) for counts in self.samples.values())

    def rows(self) -> list[tuple[str, ...]]:
        """A table of counts: a header, a row for each class (the first ones only, if there are many), and the sums."""
        header = ("class", *self.samples)
        shown = [
            (name, *(f"{counts[label]:,}" for counts in self.samples.values()))
            for label, name in enumerate(self.classes)
        ]
        rest = (
            [(f"... and {len(shown) - MAX_CLASSES:,} more classes", *("" for _ in self.samples))]
            if len(shown) > MAX_CLASSES
            else []
        )
        return [header, *shown[:MAX_CLASSES], *rest, ("all", *(f"{sum(counts):,}" for counts in self.samples.values()))]

    def lines(self) -> list[str]:
        """All that is not in the table, a fact a line."""
        low, middle, high = self.sides
        lines = [
            f"{self.num_samples:,} samples in {len(self.classes):,} classes, {self.num_bytes / 1e6:,.1f} MB, "
            f"sides {low} to {high} px (median {middle}), in {self.seconds:.1f} s"
        ]
        if self.kept:
            lines.append(f"kept from an earlier pack: {self.kept:,} shards")
        if self.converted:
            lines.append("converted: " + ", ".join(f"{count:,} x {kind}" for kind, count in self.converted.items()))
        if self.ignored:
            lines.append("ignored: " + ", ".join(f"{count:,} x {kind}" for kind, count in self.ignored.items()))
        lines += _listed("refused", [f"{one.source!r}: {one.cause}" for one in self.refused], self.path / BAD)
        copies = [
            f"{one.source!r} ({one.split}, {one.class_name}) is one of group {one.group}" for one in self.duplicates
        ]
        lines += _listed("the same picture in several splits or classes", copies, self.path / DUPLICATES)
        return lines


def report_of(dataset: Dataset, *, kept: int, seconds: float) -> PackReport:
    """The report of a finished dataset, from its files."""
    indexes = [split.renditions["full"].index for split in dataset.splits.values()]
    sides = np.concatenate([np.stack([index["width"], index["height"]]) for index in indexes], axis=1)
    counts = {name: np.bincount(split.labels, minlength=dataset.num_classes) for name, split in dataset.splits.items()}
    return PackReport(
        path=dataset.path,
        classes=dataset.classes,
        samples={name: tuple(count.tolist()) for name, count in counts.items()},
        num_bytes=sum(stored.num_bytes for stored in stored_files(read_facts(dataset.path)))
        + (dataset.path / FACTS).stat().st_size,
        sides=(int(sides.min()), int(np.median(sides)), int(sides.max())),
        converted=dataset.made["converted"],
        refused=tuple(Refusal(*row) for row in _read_csv(dataset.path / BAD)),
        duplicates=tuple(Copy(int(group), *rest) for group, *rest in _read_csv(dataset.path / DUPLICATES)),
        ignored=dataset.made["ignored"],
        kept=kept,
        seconds=seconds,
    )


def _read_csv(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.reader(file))[1:]


def _listed(what: str, texts: Sequence[str], path: Path) -> list[str]:
    if not texts:
        return []
    rest = [f"  ... and {len(texts) - MAX_LISTED:,} more"] if len(texts) > MAX_LISTED else []
    return [f"{what}: {len(texts):,}, listed in {path}", *(f"  {text}" for text in texts[:MAX_LISTED]), *rest]
