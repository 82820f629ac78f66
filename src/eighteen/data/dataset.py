"""A packed dataset, opened: a folder ``NAME.e18`` goes in; splits, renditions and the bytes of each sample come out.

``dataset.json`` is written last, so a folder without it is not a dataset. What it says is checked against the files
when they are opened (there, of this length, an index of this digest); each sample's bytes are checked when they are
read.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from eighteen.base.errors import DataError, MachineError
from eighteen.data import arriving as copies
from eighteen.data.arriving import Arriving
from eighteen.data.index import INDEX_DTYPE, MAX_BYTES, MAX_PIXELS, MOST_CHECKED, open_index
from eighteen.data.listing import SPLITS, some
from eighteen.data.npy import open_mapped
from eighteen.data.rows import Rows, open_rows
from eighteen.data.shards import RAW_HEADER, Stored, crc32c, sha256_of

FACTS = "dataset.json"
WORK = ".pack"  # what a pack that is under way remembers
ROWS = ("rows", "places")  # files that a rendition may have, see ``Rows``
FORMAT = "eighteen"
VERSION = 1
MAX_FACTS = 256 * 2**20  # bytes of dataset.json: a million classes take a tenth of it
KEYS = {"format", "version", "classes", "channels", "mean", "std", "splits", "bad", "duplicates", "made"}
WRONG_BYTES = "bytes that do not match their checksum"  # of a sample, as messages say it


@dataclass(frozen=True, eq=False)
class Rendition:
    """All samples of a split at one size, as JPEGs in tar shards or as one raw array."""

    kind: Literal["jpeg", "raw"]
    index: NDArray[np.void]  # [N] of INDEX_DTYPE, mapped
    root: Path  # of the dataset
    shards: tuple[str, ...]  # files, relative to the root; index["shard"] counts them
    pixels: NDArray[np.uint8] | None  # [N, H, W, C] where the kind is raw, mapped
    source: Origins = field(repr=False)  # where each sample came from, for messages
    clean: bool = False  # no JPEG in it makes libjpeg-turbo warn
    rows: Rows | None = None  # of its JPEGs, where they are known
    in_memory: bool = False  # its pixels are nobody else's: never read from a file, never verified
    name: str = "full"
    unchecked: Callable[[NDArray[np.void]], str | None] | None = None  # what is wrong with rows of an index so long
    arriving: Arriving | None = None  # its shards, where some may not be here yet
    _files: dict[int, int] = field(init=False, repr=False, default_factory=dict)
    _lock: Any = field(init=False, repr=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        weakref.finalize(self, _close_all, self._files)

    def of(self, samples: NDArray[np.int64]) -> Rendition:
        """The same of these samples only, in this order."""
        pixels = None if self.pixels is None else self.pixels[samples]
        rows = self.rows and replace(self.rows, places=self.rows.places[samples])
        return replace(self, index=self.index[samples], pixels=pixels, rows=rows)

    def read(self, sample: int) -> bytes:
        """The bytes of a sample, verified: a JPEG, or the raw pixels. Safe from many threads.

        raises DataError, naming shard, sample and source, if they are not what was packed
        """
        row = self.index[sample]
        shard, length = int(row["shard"]), int(row["length"])
        try:
            content = os.pread(self._file(shard), length, int(row["offset"]))
        except OSError as error:
            raise self.broken(sample, error.strerror or str(error)) from error
        if len(content) != length:
            raise self.broken(sample, f"{len(content)} of {length} bytes: the shard ends too early")
        if crc32c(content) != row["crc32c"]:
            raise self.broken(sample, WRONG_BYTES)
        return content

    def read_raw(self, sample: int) -> NDArray[np.uint8]:
        """The pixels of a sample of a raw rendition, verified: [H, W, C] uint8. Raises DataError as ``read`` does."""
        assert self.pixels is not None, "only raw renditions have pixels"
        if self.in_memory:
            return self.pixels[sample]
        return np.frombuffer(self.read(sample), np.uint8).reshape(self.pixels.shape[1:])

    def lacking(self, samples: NDArray[np.int64]) -> list[str]:
        """The shards of these samples that are not here yet."""
        if self.arriving is None or self.in_memory:
            return []
        return self.arriving.lacking(self.shards[shard] for shard in np.unique(self.index["shard"][samples]).tolist())

    def require_sound(self, samples: NDArray[np.int64]) -> None:
        """DataError if rows of the index that are about to be used are wrong and nobody has looked at them before."""
        if self.unchecked is None:
            return
        problem = self.unchecked(self.index[samples])
        if self.rows and self.rows.are_beyond(self.rows.places[samples]):
            problem = "rows of blocks beyond the last one"
        if problem:
            raise _wrong_file(self.root, f"{self.name} index", problem)

    @cached_property
    def faulty(self) -> frozenset[int]:
        """The samples whose ``pixels`` are not those that were packed: all are verified when it is first asked for."""
        assert self.pixels is not None, "only raw renditions have pixels"
        if self.in_memory:
            return frozenset()
        sums = enumerate(self.index["crc32c"].tolist())
        return frozenset(sample for sample, expected in sums if crc32c(self.pixels[sample]) != expected)

    def called(self, sample: int) -> str:
        """A sample, as messages name it: with its shard, and where it came from as far as that can be read."""
        shard = self.shards[self.index[sample]["shard"]]
        source = self.origin(sample)
        return f"sample {sample} of {shard} in {self.root}" + (f" (from {source!r})" if source is not None else "")

    def origin(self, sample: int) -> str | None:
        """Where a sample came from, if that can be read."""
        try:
            return self.source(sample)
        except (OSError, ValueError, LookupError, RecursionError):
            return None

    def files(self, samples: NDArray[np.int64]) -> NDArray[np.int32]:
        """The open files that hold these samples: [N] -> [N] descriptors, open as long as this object lives.

        raises DataError as ``read`` does
        """
        shards, first, place = np.unique(self.index["shard"][samples], return_index=True, return_inverse=True)
        try:
            opened = [self._file(shard) for shard in shards.tolist()]
        except OSError as error:
            missing = next(n for n, shard in enumerate(shards.tolist()) if shard not in self._files)
            raise self.broken(int(samples[first[missing]]), error.strerror or str(error)) from error
        return np.array(opened, np.int32)[place]

    def _file(self, shard: int) -> int:
        if (known := self._files.get(shard)) is not None:
            return known
        with self._lock:
            if shard not in self._files:
                self._files[shard] = _open_file(self.root / self.shards[shard])
            return self._files[shard]

    def broken(self, sample: int, got: str) -> DataError:
        """What to raise where the bytes of a sample are not there, or not those that were packed."""
        return DataError(
            f"read {self.called(sample)}",
            got=got,
            need="the bytes that were packed",
            hint=f"eighteen check {self.root}, then restore the shard or pack again with --force",
        )


@dataclass(frozen=True, eq=False)
class Origins:
    """``origins(sample)`` says where a picture came from: a JSON string a line, read when first asked for."""

    path: Path

    def __call__(self, sample: int) -> str:
        return self.all[sample]

    @cached_property
    def all(self) -> Sequence[str]:
        with self.path.open(encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]


@dataclass(frozen=True, eq=False)
class Split:
    name: str
    num_samples: int
    labels: NDArray[np.int64]  # [N], in the index
    renditions: Mapping[str, Rendition]  # "full", and the short sides ("352", "160" ...), in the same order of samples
    source: Origins = field(repr=False)  # source(sample) -> where the picture came from


@dataclass(frozen=True, eq=False)
class Dataset:
    path: Path
    classes: tuple[str, ...]  # labels count them
    channels: int  # 1 if every picture is gray, else 3
    splits: Mapping[str, Split]
    mean: tuple[float, ...]  # of train pixels in [0, 1], one a channel
    std: tuple[float, ...]
    made: Mapping[str, Any]  # how: source, options, counts, version
    digest: str  # of classes and files: the same for the same samples in the same order
    arriving: Arriving | None = None  # its files, where some may not be here yet

    @property
    def num_classes(self) -> int:
        return len(self.classes)


def open(path: str | os.PathLike[str], *, brings: bool = False) -> Dataset:
    """Open a packed dataset.

    brings: also a copy of one that lies elsewhere and of which shards are not here yet; they are brought as they are
        read
    raises DataError if it is no dataset, is unfinished, was made by a newer eighteen, or lacks a file, or if a file is
    not as long as it should be or an index is not the one that was written
    """
    root = Path(path)
    facts = read_facts(root)
    try:
        check_facts(facts)
        arriving = _arriving(root, facts, brings)
        for stored in stored_files(facts):
            if not (arriving and arriving.lacking([stored.name])):
                _check_length(root, stored)
        splits = {
            name: _open_split(root, name, split, len(facts["classes"]), arriving)
            for name, split in facts["splits"].items()
        }
        return Dataset(
            path=root,
            classes=tuple(facts["classes"]),
            channels=facts["channels"],
            splits=splits,
            mean=tuple(facts["mean"]),
            std=tuple(facts["std"]),
            made=facts["made"],
            digest=_digest(facts),
            arriving=arriving,
        )
    except DataError:
        raise
    except (LookupError, TypeError, AttributeError) as error:
        raise _broken_facts(root, f"{type(error).__name__} {error} in what it says") from error
    except (ValueError, OverflowError) as error:
        raise _broken_facts(root, str(error)) from error


def sealed(facts: Mapping[str, Any]) -> str:
    """The text of dataset.json: the facts, and a digest of all the rest of the text."""
    text = json.dumps({**facts, "digest": ""}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    head, key, tail = text.rpartition(_DIGEST)
    return head + key + hashlib.sha256(text.encode()).hexdigest() + tail


_DIGEST = '"digest": "'


def _is_sealed(text: str, facts: Mapping[str, Any]) -> bool:
    """Whether the text is as it was written. Datasets of before there was a digest have nothing beyond ``KEYS``."""
    if "digest" not in facts:
        return set(facts) <= KEYS
    head, key, tail = text.rpartition(_DIGEST)
    return tail[:64] == hashlib.sha256((head + key + tail[64:]).encode()).hexdigest()


def read_facts(root: Path) -> dict[str, Any]:
    """What dataset.json says. Raises DataError if it is not there, cannot be read, or is newer than this program."""
    try:
        with (root / FACTS).open("rb") as file:
            content = file.read(MAX_FACTS + 1)
        if len(content) > MAX_FACTS:
            raise _broken_facts(root, f"more than {MAX_FACTS:,} bytes")
        text = content.decode()
        facts = json.loads(text)
    except DataError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise _not_a_dataset(root) from None
    except (OSError, ValueError, RecursionError) as error:
        raise _broken_facts(root, str(error)) from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT or not isinstance(facts.get("version"), int):
        raise _broken_facts(root, "something that eighteen did not write")
    if facts["version"] > VERSION:
        made = facts.get("made")
        maker = made.get("eighteen", "?") if isinstance(made, dict) else "?"
        raise DataError(
            f"open {root}",
            got=f"format version {facts['version']}: made by a newer eighteen ({maker})",
            need=f"format version {VERSION} or older",
            hint="pip install --upgrade eighteen",
        )
    if not _is_sealed(text, facts):
        raise _broken_facts(root, "a text that does not match its own digest")
    return facts


def stored_files(facts: Mapping[str, Any]) -> list[Stored]:
    """Every file that dataset.json names, itself apart."""
    named = [facts["bad"], facts["duplicates"]]
    for split in facts["splits"].values():
        named.append(split["sources"])
        for rendition in split["renditions"].values():
            named += [rendition["index"], *rendition["shards"], *(rendition[key] for key in ROWS if key in rendition)]
    return [stored_from(one) for one in named]


def shards(facts: Mapping[str, Any]) -> list[str]:
    """The files of ``stored_files`` that may come after a dataset has been opened: shards of JPEGs."""
    renditions = [one for split in facts["splits"].values() for one in split["renditions"].values()]
    return [stored_from(shard).name for one in renditions if one["kind"] == "jpeg" for shard in one["shards"]]


def stored_from(one: Mapping[str, Any]) -> Stored:
    """A file of dataset.json; ValueError if it lies elsewhere than in the dataset."""
    path = PurePosixPath(one["file"])
    if path.is_absolute() or ".." in path.parts or "\0" in one["file"] or not path.parts:
        raise ValueError(f"the file {one['file']!r}, which is not inside the dataset")
    return Stored(one["file"], one["bytes"], one["sha256"])


def check_facts(facts: Mapping[str, Any]) -> None:
    """Raise ValueError, TypeError or KeyError for what no pack writes."""
    classes, channels, splits = facts["classes"], facts["channels"], facts["splits"]
    if not all(isinstance(name, str) for name in classes) or len(set(classes)) < len(classes):
        raise ValueError("classes that are not different names")
    if channels not in (1, 3) or not all(len(facts[name]) == channels for name in ("mean", "std")):
        raise ValueError(f"{channels!r} channels, and means and stds that do not fit them")
    if not all(0 <= value <= 1 for name in ("mean", "std") for value in facts[name]):
        raise ValueError("means and stds outside [0, 1]")
    if "train" not in splits or not set(splits) <= set(SPLITS):
        raise ValueError(f"the splits {some([*splits])}")
    for split in splits.values():
        renditions = split["renditions"]
        if type(split["samples"]) is not int or not all(re.fullmatch(r"full|[0-9]+", name) for name in renditions):
            raise ValueError(f"{split['samples']!r} samples, the renditions {some([*renditions])}")
        if any(one["kind"] not in ("jpeg", "raw") for one in renditions.values()):
            raise ValueError("renditions that are neither jpeg nor raw")


def _digest(facts: Mapping[str, Any]) -> str:
    content = {key: facts[key] for key in ("version", "classes", "channels", "splits")}
    content["splits"] = {
        name: split | {"renditions": {key: _but_rows(one) for key, one in split["renditions"].items()}}
        for name, split in facts["splits"].items()
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _but_rows(rendition: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in rendition.items() if key not in ROWS}


def _check_length(root: Path, stored: Stored) -> None:
    try:
        facts = (root / stored.name).stat()
    except OSError as error:
        raise _wrong_file(root, stored.name, error.strerror or str(error)) from error
    if not stat.S_ISREG(facts.st_mode):
        raise _wrong_file(root, stored.name, "no regular file")
    num_bytes = facts.st_size
    if num_bytes != stored.num_bytes:
        raise _wrong_file(root, stored.name, f"{num_bytes:,} of {stored.num_bytes:,} bytes")


def _arriving(root: Path, facts: Mapping[str, Any], brings: bool) -> Arriving | None:
    """What is still to come of a copy; None where all is here. DataError unless it may come."""
    if (url := copies.origin(root)) is None:
        return None
    arriving = Arriving(root, url, stored_files(facts))
    if not (lacking := arriving.lacking(shards(facts))):
        return None
    if not brings:
        got = f"a copy of {url} without {len(lacking):,} shards, {lacking[0]} the first, that nobody has needed here"
        raise DataError(f"open {root}", got=got, need="all of it", hint=f"eighteen train {url}, or a whole copy")
    return arriving


def _open_split(root: Path, name: str, facts: Mapping[str, Any], num_classes: int, arriving: Arriving | None) -> Split:
    origins = Origins(root / facts["sources"]["file"])
    renditions = {
        key: replace(
            _open_rendition(root, key, one, origins, num_samples=facts["samples"], num_classes=num_classes),
            arriving=arriving,
        )
        for key, one in facts["renditions"].items()
    }
    return Split(name, facts["samples"], renditions["full"].index["label"], renditions, origins)


def _open_rendition(
    root: Path, key: str, facts: Mapping[str, Any], origins: Origins, *, num_samples: int, num_classes: int
) -> Rendition:
    name, shards = facts["index"]["file"], [stored_from(one) for one in facts["shards"]]
    index = open_index(root / name)
    if len(index) != num_samples:
        raise _wrong_file(root, name, f"an index of {len(index):,} samples, not {num_samples:,}")
    unchecked = None
    if num_samples > MOST_CHECKED:
        unchecked = partial(index_problem, shards=shards, num_classes=num_classes)
    elif sha256_of(root / name) != facts["index"]["sha256"]:  # 40 bytes a sample: 0.1 s for a million
        raise _wrong_file(root, name, "an index that does not match the one that was written")
    elif problem := index_problem(index, shards, num_classes):
        raise _wrong_file(root, name, problem)
    pixels = _open_pixels(root, shards[0].name, index) if facts["kind"] == "raw" else None
    rows = None
    if all(key in facts for key in ROWS):
        rows = open_rows(*(root / facts[key]["file"] for key in ROWS), num_samples=num_samples)
    names = tuple(stored.name for stored in shards)
    clean = facts.get("clean", False)
    return Rendition(facts["kind"], index, root, names, pixels, origins, clean, rows, name=key, unchecked=unchecked)


def _open_pixels(root: Path, name: str, index: NDArray[np.void]) -> NDArray[np.uint8]:
    try:
        pixels = open_mapped(root / name)
    except (OSError, ValueError) as error:
        raise _wrong_file(root, name, str(error)) from error
    if problem := pixels_problem(pixels, index):
        raise _wrong_file(root, name, problem)
    return pixels


def pixels_problem(pixels: NDArray[Any], index: NDArray[np.void]) -> str | None:
    """Where the index of a raw rendition and its array contradict each other; None if nowhere."""
    is_plain = pixels.dtype == np.uint8 and pixels.ndim == 4 and pixels.flags.c_contiguous
    if is_plain and len(pixels) == len(index):
        _, height, width, channels = pixels.shape
        length = height * width * channels
        places = RAW_HEADER + np.arange(len(index), dtype=np.uint64) * np.uint64(length)
        sizes = {"width": width, "height": height, "length": length, "offset": places, "shard": 0}
        if channels in (1, 3) and all((index[name] == value).all() for name, value in sizes.items()):
            return None
    return f"an array of {pixels.shape} that the index does not fit"


def index_problem(index: NDArray[np.void], shards: Sequence[Stored], num_classes: int) -> str | None:
    """What in an index points outside the shards or classes; None if all is well."""
    assert index.dtype == INDEX_DTYPE
    if not len(index):
        return None
    if index["shard"].max() >= len(shards):
        return f"shard {index['shard'].max()} of {len(shards)}"
    lengths = np.array([stored.num_bytes for stored in shards], np.uint64)
    room = lengths[index["shard"]]
    if (index["length"] > room).any() or (index["offset"] > room - index["length"]).any():
        return "samples beyond the end of their shard"
    sides = index["width"].astype(np.uint64), index["height"].astype(np.uint64)
    if min(side.min() for side in sides) < 1 or (sides[0] * sides[1]).max() > MAX_PIXELS:
        return "pictures of no pixels, or of too many"
    if index["length"].max() > MAX_BYTES:
        return f"samples of more than {MAX_BYTES:,} bytes"
    if index["label"].min() < 0 or index["label"].max() >= num_classes:
        return f"labels from {index['label'].min()} to {index['label'].max()} for {num_classes} classes"
    return None


def _open_file(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY)
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        raise MachineError(
            f"open {path}",
            got="too many open files",
            need="one for each shard that is read",
            hint="ulimit -n 65536, then the same command again",
        ) from error


def _close_all(files: dict[int, int]) -> None:
    while files:
        os.close(files.popitem()[1])


def _not_a_dataset(root: Path) -> DataError:
    if (root / WORK).is_dir():
        got, hint = (
            "no dataset.json in it: the pack never finished",
            f"eighteen pack SOURCE {root}, which goes on where it stopped",
        )
    elif root.is_dir():
        got, hint = "no dataset.json in it", f"eighteen pack {root} {root.name}.e18, if it is a folder of pictures"
    else:
        got = "a file" if root.exists() else "nothing there"
        hint = f"eighteen pack SOURCE {root if root.suffix == '.e18' else root.with_suffix('.e18')}"
    return DataError(f"open {root}", got=got, need="a finished dataset", hint=hint)


def _broken_facts(root: Path, got: str) -> DataError:
    return DataError(
        f"read {root / FACTS}",
        got=got,
        need="the description that eighteen wrote",
        hint="restore the file, or pack again with --force",
    )


def _wrong_file(root: Path, name: str, got: str) -> DataError:
    return DataError(
        f"open {root / name}",
        got=got,
        need="the file that was packed",
        hint=f"eighteen check {root} for all that is wrong, then restore the file or pack again with --force",
    )
