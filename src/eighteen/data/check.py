"""Every byte of a packed dataset, verified: a dataset goes in; all that is wrong with it comes out, by file and sample.

Files have the length and SHA-256 that dataset.json says; samples have the checksum, the size and the label that the
index says; JPEGs decode; tar members lie where the index points. Nothing stops at the first fault.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eighteen.base.errors import DataError
from eighteen.base.hardware import num_cpus
from eighteen.data import workers
from eighteen.data.arriving import origin
from eighteen.data.dataset import (
    ROWS,
    Origins,
    check_facts,
    index_problem,
    pixels_problem,
    read_facts,
    stored_files,
    stored_from,
)
from eighteen.data.index import open_index
from eighteen.data.npy import open_mapped
from eighteen.data.pictures import Unreadable, decode
from eighteen.data.shards import Stored, crc32c, sha256_of, tar_members

Progress = Callable[[int, int, int], object]  # files done, of how many, bytes verified


@dataclass(frozen=True)
class Problem:
    file: str  # relative to the dataset
    cause: str
    sample: int | None = None  # its number in the split
    source: str | None = None  # where that sample came from

    def __str__(self) -> str:
        sample = (
            ""
            if self.sample is None
            else f", sample {self.sample}" + (f" (from {self.source!r})" if self.source else "")
        )
        return f"{self.file}{sample}: {self.cause}"


@dataclass(frozen=True)
class CheckReport:
    path: Path
    problems: tuple[Problem, ...]
    num_samples: Mapping[str, int]  # by split
    files: tuple[Stored, ...]
    seconds: float

    @property
    def num_bytes(self) -> int:
        return sum(stored.num_bytes for stored in self.files)

    def rows(self) -> list[tuple[str, ...]]:
        """A table: a header, a row for each folder of the dataset, and the sums."""
        folders = sorted(
            {os.path.dirname(stored.name) for stored in self.files},
            key=lambda folder: (folder not in self.num_samples, folder),
        )
        rows = [
            self._row(folder or "lists", [one for one in self.files if os.path.dirname(one.name) == folder])
            for folder in folders
        ]
        return [("split", "files", "samples", "bytes", "problems"), *rows, self._row("all", self.files)]

    def lines(self) -> list[str]:
        """The verdict, then each problem, a line each."""
        verdict = f"{len(self.problems):,} problems" if self.problems else "every byte is as it was packed"
        return [
            f"{self.path}: {verdict} ({self.num_bytes / 1e6:,.1f} MB in {self.seconds:.1f} s)",
            *map(str, self.problems),
        ]

    def _row(self, name: str, files: Sequence[Stored]) -> tuple[str, ...]:
        names = {stored.name for stored in files}
        samples = sum(self.num_samples.values()) if name == "all" else self.num_samples.get(name, 0)
        num_problems = len(self.problems) if name == "all" else sum(problem.file in names for problem in self.problems)
        return (
            name,
            f"{len(files):,}",
            f"{samples:,}",
            f"{sum(stored.num_bytes for stored in files):,}",
            f"{num_problems:,}",
        )


def check(
    path: str | os.PathLike[str], *, procs: int | None = None, on_progress: Progress | None = None
) -> CheckReport:
    """Verify a dataset, whatever is broken in it.

    procs: processes, one for each core if None      on_progress: called with files done, their number, bytes verified
    raises DataError only where dataset.json itself is missing, unreadable or too new
    """
    started, root = time.monotonic(), Path(path)
    facts, url = read_facts(root), origin(root)
    try:
        check_facts(facts)
        files, todo = stored_files(facts), _jobs(root, facts)
        num_samples = {name: int(split["samples"]) for name, split in facts["splits"].items()}
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise DataError(
            f"check {root}",
            got=f"{type(error).__name__} {error} in dataset.json",
            need="what eighteen wrote",
            hint="restore it, or pack again with --force",
        ) from error
    problems: list[Problem] = []
    num_bytes = 0
    with closing(workers.in_order(_check_file, todo, procs=procs or num_cpus())) as results:
        for done, (job, found) in enumerate(zip(todo, results, strict=True), start=1):
            if url and not (root / job.stored.name).exists():
                found = [Problem(job.stored.name, f"not brought from {url}: nobody has needed it here")]
            problems += found
            num_bytes += job.stored.num_bytes
            if on_progress is not None:
                on_progress(done, len(todo), num_bytes)
    return CheckReport(root, tuple(problems), num_samples, tuple(files), time.monotonic() - started)


@dataclass(frozen=True)
class _Job:
    """One file to verify, and what to compare its content with."""

    root: Path
    stored: Stored
    role: str  # "index", "jpeg", "raw" (shards of these kinds), "sources" or "list"
    num_classes: int
    split: Mapping[str, Any]  # what dataset.json says of the split
    rendition: Mapping[str, Any]  # ... and of the rendition
    number: int = 0  # of the shard


def _jobs(root: Path, facts: Mapping[str, Any]) -> list[_Job]:
    num_classes = len(facts["classes"])
    jobs = [_Job(root, stored_from(facts[name]), "list", num_classes, {}, {}) for name in ("bad", "duplicates")]
    for split in facts["splits"].values():
        jobs.append(_Job(root, stored_from(split["sources"]), "sources", num_classes, split, {}))
        for rendition in split["renditions"].values():
            jobs.append(_Job(root, stored_from(rendition["index"]), "index", num_classes, split, rendition))
            rows = [rendition[key] for key in ROWS if key in rendition]
            jobs += [_Job(root, stored_from(one), "list", num_classes, split, rendition) for one in rows]
            for number, shard in enumerate(rendition["shards"]):
                jobs.append(_Job(root, stored_from(shard), rendition["kind"], num_classes, split, rendition, number))
    return jobs


def _check_file(job: _Job) -> list[Problem]:
    name, path = job.stored.name, job.root / job.stored.name
    try:
        num_bytes = path.stat().st_size
        problems = []
        if num_bytes != job.stored.num_bytes:
            problems.append(Problem(name, f"{num_bytes:,} of {job.stored.num_bytes:,} bytes"))
        elif sha256_of(path) != job.stored.sha256:
            problems.append(Problem(name, "bytes that do not match its SHA-256"))
        return problems + list(_CONTENT[job.role](job))
    except OSError as error:
        return [Problem(name, error.strerror or str(error))]


def _check_sources(job: _Job) -> Iterator[Problem]:
    try:
        num_lines = len(Origins(job.root / job.stored.name).all)
    except (ValueError, RecursionError) as error:
        yield Problem(job.stored.name, f"not JSON lines: {error}")
        return
    if num_lines != job.split["samples"]:
        yield Problem(job.stored.name, f"{num_lines:,} lines for {job.split['samples']:,} samples")


def _check_index(job: _Job) -> Iterator[Problem]:
    try:
        index = open_index(job.root / job.stored.name)
        full = open_index(job.root / job.split["renditions"]["full"]["index"]["file"])
    except DataError as error:
        yield Problem(job.stored.name, error.got)
        return
    if len(index) != job.split["samples"]:
        yield Problem(job.stored.name, f"{len(index):,} samples, not {job.split['samples']:,}")
    elif not np.array_equal(index["label"], full["label"]):
        yield Problem(job.stored.name, "labels that differ from those of the full rendition")
    if problem := index_problem(index, [stored_from(one) for one in job.rendition["shards"]], job.num_classes):
        yield Problem(job.stored.name, problem)


def _check_shard(job: _Job) -> Iterator[Problem]:
    """Each sample of one shard, against the index."""
    try:
        index = open_index(job.root / job.rendition["index"]["file"])
    except DataError:
        yield Problem(job.stored.name, "samples not checked: the index cannot be opened")
        return
    origins = Origins(job.root / job.split["sources"]["file"])
    samples = np.flatnonzero(index["shard"] == job.number)
    faults = _raw_faults(job, index) if job.role == "raw" else _tar_faults(job, index, samples)
    for sample, cause in [*faults, *_sample_faults(job, index, samples)]:
        yield Problem(job.stored.name, cause, sample, None if sample is None else _origin(origins, sample))


def _origin(origins: Origins, sample: int) -> str | None:
    try:
        return origins(sample)
    except (OSError, ValueError, LookupError, RecursionError):
        return None


def _sample_faults(job: _Job, index: NDArray[np.void], samples: NDArray[np.int64]) -> Iterator[tuple[int, str]]:
    with (job.root / job.stored.name).open("rb") as file:
        num_bytes = job.stored.num_bytes
        for sample in samples.tolist():
            row = index[sample]
            content = os.pread(file.fileno(), min(int(row["length"]), num_bytes), min(int(row["offset"]), num_bytes))
            if len(content) != row["length"]:
                yield sample, f"{len(content):,} of {row['length']:,} bytes: the shard ends too early"
            elif crc32c(content) != row["crc32c"]:
                yield sample, "bytes that do not match their checksum"
            elif job.role == "jpeg" and (cause := _jpeg_fault(content, int(row["width"]), int(row["height"]))):
                yield sample, cause


def _jpeg_fault(content: bytes, width: int, height: int) -> str | None:
    try:
        image, _ = decode(content)
    except Unreadable as error:
        return str(error)
    return None if image.size == (width, height) else f"{image.width} x {image.height} px, not {width} x {height}"


def _tar_faults(job: _Job, index: NDArray[np.void], samples: NDArray[np.int64]) -> Iterator[tuple[int | None, str]]:
    """What a reader of the tar would see, against what a reader of the index sees."""
    members, fault = tar_members(job.root / job.stored.name)
    if fault:
        yield None, fault
    with (job.root / job.stored.name).open("rb") as file:
        for sample in samples.tolist():
            row = index[sample]
            if members.pop(f"{sample:08d}.jpg", None) != (row["offset"], row["length"]):
                yield sample, "no member of the tar where the index points"
            offset, length = members.pop(f"{sample:08d}.cls", (0, 0))
            if (text := os.pread(file.fileno(), min(length, 32), offset)) != str(row["label"]).encode():
                yield sample, f"the label {text.decode(errors='replace')!r} in the tar, {row['label']} in the index"
    if members:
        yield None, f"{len(members):,} members that the index does not know, {next(iter(members))!r} the first"


def _raw_faults(job: _Job, index: NDArray[np.void]) -> Iterator[tuple[int | None, str]]:
    """Whether the array is [N, H, W, C] as the index has it, one sample behind the other."""
    try:
        problem = pixels_problem(open_mapped(job.root / job.stored.name), index)
    except (OSError, ValueError) as error:
        problem = f"not a raw array: {error}"
    if problem:
        yield None, problem


_CONTENT: Mapping[str, Callable[[_Job], Iterator[Problem]]] = {
    "list": lambda job: iter(()),
    "sources": _check_sources,
    "index": _check_index,
    "jpeg": _check_shard,
    "raw": _check_shard,
}
