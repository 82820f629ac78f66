"""A part: one finished shard of every rendition of a split, with what is known of its samples.

Parts are what a pack that was interrupted keeps.

The files of one are named ``train/full-00003.tar``, ``train/160-00003.tar`` ...; its memory is
``.pack/train-00003.npz`` and, written last, ``.pack/train-00003.json``.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eighteen.base.files import write_atomic, write_json
from eighteen.data import native
from eighteen.data.dataset import WORK
from eighteen.data.index import INDEX_DTYPE
from eighteen.data.npy import read_npz
from eighteen.data.pictures import Encoded, Prepared, Refused
from eighteen.data.rows import PLACE_DTYPE, ROW_DTYPE
from eighteen.data.shards import RawWriter, Stored, TarWriter, crc32c
from eighteen.data.work import Outcome

SAMPLE_DTYPE = np.dtype([("item", "<i8"), ("digest", "S16"), ("channels", "u1")])

Shape = tuple[int, int, int]  # height, width, channels of a raw sample


@dataclass(frozen=True, eq=False)
class Part:
    split: str
    number: int
    last: int  # the position in the split's order where the next part begins
    samples: NDArray[np.void]  # [N] of SAMPLE_DTYPE
    indexes: Mapping[str, NDArray[np.void]]  # by rendition: [N] of INDEX_DTYPE
    rows: Mapping[str, tuple[NDArray[np.void], NDArray[np.void]]]  # by rendition: as ``Rows``, of this part
    shards: Mapping[str, Stored]  # by rendition
    converted: Mapping[str, int]  # what was converted -> how often
    refused: Sequence[tuple[int, str]]  # item, cause
    clean: bool  # no JPEG in it makes libjpeg-turbo warn


class PartWriter:
    """A part while it is written. ``close`` makes it last, ``discard`` leaves nothing of it."""

    def __init__(
        self, root: Path, split: str, number: int, *, first_sample: int, shapes: Mapping[str, Shape | None]
    ) -> None:
        self._root, self._split, self._number, self._first_sample = root, split, number, first_sample
        (root / split).mkdir(exist_ok=True)
        self._writers: dict[str, TarWriter | RawWriter] = {}
        try:
            for name, shape in shapes.items():
                self._writers[name] = _writer(root, split, name, number, shape)
        except BaseException:
            self.discard()
            raise
        self._index: dict[str, list[tuple[int, ...]]] = {name: [] for name in shapes}
        self._rows: dict[str, list[bytes]] = {name: [] for name in shapes}
        self._samples: list[tuple[int, bytes, int]] = []
        self._converted: Counter[str] = Counter()
        self._refused: list[tuple[int, str]] = []

    @property
    def num_bytes(self) -> int:
        """Of the full rendition so far."""
        return self._writers["full"].num_bytes

    @property
    def num_samples(self) -> int:
        return len(self._samples)

    def add(self, outcome: Outcome, label: int) -> None:
        if isinstance(outcome.result, Refused):
            self._refused.append((outcome.number, outcome.result.reason))
            return
        for name, encoded in zip(self._writers, _renditions(outcome.result), strict=True):
            offset = self._writers[name].add(self._first_sample + self.num_samples, encoded.content, label)
            facts = (offset, len(encoded.content), label, encoded.width, encoded.height, crc32c(encoded.content))
            self._index[name].append((self._number, *facts))
            self._rows[name].append(encoded.rows)
        self._samples.append((outcome.number, outcome.digest, outcome.result.channels))
        if outcome.result.converted:
            self._converted[outcome.result.converted] += 1

    def close(self, last: int) -> Part:
        part = Part(
            self._split,
            self._number,
            last,
            np.array(self._samples, SAMPLE_DTYPE),
            {name: np.array(rows, INDEX_DTYPE) for name, rows in self._index.items()},
            {name: _joined(rows) for name, rows in self._rows.items()},
            {name: writer.close() for name, writer in self._writers.items()},
            dict(self._converted),
            self._refused,
            native.library() is not None,  # which hears the warnings
        )
        _save(self._root, part)
        return part

    def discard(self) -> None:
        for writer in self._writers.values():
            writer.discard()


def _joined(rows: list[bytes]) -> tuple[NDArray[np.void], NDArray[np.void]]:
    places = np.zeros(len(rows), PLACE_DTYPE)
    places["num"] = [len(one) // ROW_DTYPE.itemsize for one in rows]
    places["first"] = np.cumsum(places["num"]) - places["num"]
    places["crc32c"] = [crc32c(one) for one in rows]
    return np.frombuffer(b"".join(rows), ROW_DTYPE), places


def finished_parts(root: Path, split: str) -> list[Part]:
    """The parts of a split that an earlier pack finished, in order, up to the first that is not as it was left."""
    parts: list[Part] = []
    while (part := _load(root, split, len(parts))) is not None:
        parts.append(part)
    return parts


def _writer(root: Path, split: str, rendition: str, number: int, shape: Shape | None) -> TarWriter | RawWriter:
    if shape is None:
        return TarWriter(root, f"{split}/{rendition}-{number:05d}{TarWriter.suffix}")
    return RawWriter(root, f"{split}/{rendition}{RawWriter.suffix}", sample_shape=shape)


def _renditions(prepared: Prepared) -> list[Encoded]:
    return [prepared.full, *prepared.renditions]


def _memory(root: Path, split: str, number: int) -> Path:
    return root / WORK / f"{split}-{number:05d}"


def _save(root: Path, part: Part) -> None:
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {f"index-{name}": index for name, index in part.indexes.items()}
    for name, (rows, places) in part.rows.items():
        arrays |= {f"rows-{name}": rows, f"places-{name}": places}
    np.savez(buffer, samples=part.samples, **arrays)
    memory = _memory(root, part.split, part.number)
    write_atomic(memory.with_suffix(".npz"), buffer.getvalue())
    facts = {"last": part.last, "converted": part.converted, "refused": part.refused, "clean": part.clean}
    write_json(
        memory.with_suffix(".json"), facts | {"shards": {name: asdict(stored) for name, stored in part.shards.items()}}
    )


def _load(root: Path, split: str, number: int) -> Part | None:
    memory = _memory(root, split, number)
    if not memory.with_suffix(".json").exists():
        return None
    facts = json.loads(memory.with_suffix(".json").read_text())
    shards = {name: Stored(**stored) for name, stored in facts["shards"].items()}
    if any(
        not (path := root / stored.name).exists() or path.stat().st_size != stored.num_bytes
        for stored in shards.values()
    ):
        return None
    arrays = read_npz(memory.with_suffix(".npz"))
    indexes = {name: arrays[f"index-{name}"] for name in shards}
    rows = {name: (arrays[f"rows-{name}"], arrays[f"places-{name}"]) for name in shards}
    refused = [(item, cause) for item, cause in facts["refused"]]
    return Part(
        split,
        number,
        facts["last"],
        arrays["samples"],
        indexes,
        rows,
        shards,
        facts["converted"],
        refused,
        facts["clean"],
    )
