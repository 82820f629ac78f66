"""Pictures as arrays: IDX files (the MNIST family), .npz, .npy, or numpy arrays in memory -> Sources.

Images are uint8, [N, H, W], [N, H, W, C] or [N, C, H, W] with C of 1 or 3; labels are [N] integers from 0, or names.
"""

from __future__ import annotations

import gzip
import math
import os
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eighteen.base.errors import DataError
from eighteen.data.listing import SPLIT_NAMES, Found, Sources, listed, some
from eighteen.data.npy import check_inflation, read_npy, read_npz

_IDX = re.compile(r"(?:.*-)?(train|t10k|test|val)-(images|labels)[-.]idx[13]-ubyte(?:\.gz)?")
# x_train, train_images, X_test, images_val, y, labels ...: a word for the part, with or without a word for the split.
_KEY = re.compile(
    r"(?:(?P<before>[a-z0-9]+)_)?(?P<part>x|y|images?|data|labels?|targets?)(?:_(?P<after>[a-z0-9]+))?", re.IGNORECASE
)
_SHAPES = "uint8 [N, H, W], [N, H, W, C] or [N, C, H, W] with 1 or 3 channels"


@dataclass(frozen=True, eq=False)
class Part:
    """Arrays that belong together."""

    key: str  # "train", "val", "images" ...: pictures are named train[12]
    images: NDArray[Any]
    labels: NDArray[Any]
    splits: Sequence[str | None]  # one a picture


def from_memory(source: Any) -> Sources:
    """``(images, labels)``, to be split here, or ``{"train": (images, labels), "val": ...}``. Raises DataError."""
    if isinstance(source, tuple):
        source = {"images": source}
    if not (
        isinstance(source, Mapping)
        and source
        and all(isinstance(pair, tuple) and len(pair) == 2 for pair in source.values())
    ):
        raise _bad(
            "arrays",
            f"a {type(source).__name__}",
            "a path, (images, labels), or {'train': (images, labels), 'val': ...}",
            "help(eighteen.pack)",
        )
    pairs = {key: (np.asarray(images), np.asarray(labels)) for key, (images, labels) in source.items()}
    return _from_parts(
        "arrays",
        Path(),
        [_part("arrays", key, None if key == "images" else key, *pair) for key, pair in pairs.items()],
        {},
    )


def from_path(path: Path, group: str | None) -> Sources | None:
    """A .npz file, a .npy file beside its labels, a folder of IDX or .npy files; else None. Raises DataError."""
    if path.suffix.lower() == ".npy" and path.is_file():
        path = path.parent
    ignored: Counter[str] = Counter()
    if path.suffix.lower() == ".npz" and path.is_file():
        parts = _named_parts(path, _load(path), ignored)
    elif path.is_dir() and any(_IDX.fullmatch(name) for name in _names(path)):
        parts = _idx_parts(path, ignored)
    elif path.is_dir() and any(name.endswith(".npy") for name in _names(path)):
        parts = _named_parts(path, _load_folder(path, ignored), ignored)
    else:
        return None
    if group is not None:
        raise _bad(
            path,
            f"the group {group!r}",
            "no group: pictures in arrays have no paths",
            "leave it out, or make a manifest",
        )
    return _from_parts(str(path), path if path.is_dir() else path.parent, parts, ignored)


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise _bad(
            folder, error.strerror or str(error), "a folder that can be read", "ls -l there; chmod u+rX"
        ) from error


def _from_parts(place: str, root: Path, parts: Sequence[Part], ignored: Mapping[str, int]) -> Sources:
    arrays = {part.key: _pictures(place, part) for part in parts}
    if len(shapes := {array.shape[1:] for array in arrays.values()}) > 1:
        raise _bad(
            place,
            f"pictures of {' and '.join(map(str, sorted(shapes)))}",
            "one size for all splits",
            "bring them to one size, or pack them as files",
        )
    found = []
    for part in parts:
        names = _class_names(place, part)
        if len(names) != len(part.images):
            raise _bad(
                place,
                f"{len(part.images):,} pictures and {len(names):,} labels in {part.key!r}",
                "a label for each picture",
                "correct the arrays",
            )
        found += [
            Found(f"{part.key}[{row}]", name, split, row=row)
            for row, (name, split) in enumerate(zip(names, part.splits, strict=True))
        ]
    return listed(place, root, found, ignored=ignored, arrays=arrays)


def _part(place: object, key: str, split_name: str | None, images: NDArray[Any], labels: NDArray[Any]) -> Part:
    if split_name is not None and split_name.lower() not in SPLIT_NAMES:
        raise _bad(place, f"the split {split_name!r}", "train, val or test", "rename it")
    split = SPLIT_NAMES[split_name.lower()] if split_name is not None else None
    return Part(key, images, labels, [split] * len(images))


def _pictures(place: str, part: Part) -> NDArray[np.uint8]:
    """[N, H, W, C] uint8."""
    images = part.images
    if images.dtype != np.uint8:
        hint = (
            "(images * 255).round().astype('uint8')"
            if images.dtype.kind == "f"
            else "images.astype('uint8'), if they are from 0 to 255"
        )
        raise _bad(place, f"pictures of {images.dtype} in {part.key!r}", _SHAPES, hint)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim == 4 and images.shape[3] not in (1, 3) and images.shape[1] in (1, 3):
        images = images.transpose(0, 2, 3, 1)
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
        raise _bad(
            place,
            f"pictures of shape {part.images.shape} in {part.key!r}",
            _SHAPES,
            "images.reshape(-1, 28, 28), or what their size is",
        )
    return images


def _class_names(place: str, part: Part) -> list[str]:
    labels = part.labels[:, 0] if part.labels.ndim == 2 and part.labels.shape[1] == 1 else part.labels
    if labels.ndim != 1:
        raise _bad(
            place,
            f"labels of shape {labels.shape} in {part.key!r}",
            "one label a picture, [N]",
            "labels.argmax(1), if they are one-hot",
        )
    if labels.dtype.kind in "iu":
        if len(labels) and labels.min() < 0:
            raise _bad(
                place,
                f"the label {labels.min()} in {part.key!r}: out of range",
                "labels from 0",
                "drop the pictures without a label",
            )
        return [str(label) for label in labels.tolist()]
    if labels.dtype.kind in "UO" and all(isinstance(label, str) for label in labels.tolist()):
        return labels.tolist()
    raise _bad(
        place, f"labels of {labels.dtype} in {part.key!r}", "integers from 0, or names", "labels.astype('int64')"
    )


def _named_parts(path: Path, arrays: Mapping[str, NDArray[Any]], ignored: Counter[str]) -> list[Part]:
    """Arrays by their names: x_train and y_train, test_images and test_labels, images and labels and split ..."""
    halves: dict[str | None, dict[str, NDArray[Any]]] = {}
    for name, array in arrays.items():
        match = _KEY.fullmatch(name)
        word = (match["before"] or match["after"] or "").lower() if match else ""
        if match and (word in SPLIT_NAMES or not word):
            half = "images" if match["part"].lower() in ("x", "image", "images", "data") else "labels"
            halves.setdefault(SPLIT_NAMES[word] if word else None, {})[half] = array
        elif name != "split":
            ignored[f"array {name!r}"] += 1
    if not halves or any(len(half) < 2 for half in halves.values()) or (None in halves and len(halves) > 1):
        raise _bad(
            path,
            f"the arrays {some(list(arrays), 20)}",
            "x_train and y_train[, x_val ...], or images and labels[, split]",
            "rename them",
        )
    if None in halves:
        images, labels = halves[None]["images"], halves[None]["labels"]
        return [
            Part(
                "images",
                images,
                labels,
                _row_splits(path, arrays["split"]) if "split" in arrays else [None] * len(images),
            )
        ]
    if "val" not in halves and "test" in halves:  # as t10k of MNIST: what there is to measure with
        halves["val"] = halves.pop("test")
    return [_part(path, split, split, half["images"], half["labels"]) for split, half in halves.items() if split]


def _row_splits(path: Path, splits: NDArray[Any]) -> list[str | None]:
    names = [str(split).lower() for split in splits.tolist()]
    if strangers := sorted(set(names) - set(SPLIT_NAMES)):
        raise _bad(path, f"the splits {some(strangers)}", "train, val or test", "correct the array 'split'")
    return [SPLIT_NAMES[name] for name in names]


def _load(path: Path) -> dict[str, NDArray[Any]]:
    try:
        return read_npz(path) if path.suffix.lower() == ".npz" else {path.stem: read_npy(path)}
    except (OSError, ValueError) as error:
        raise _bad(
            path,
            str(error),
            "arrays of numbers or text, as np.savez writes them",
            "write it again, without Python objects in it",
        ) from error


def _load_folder(folder: Path, ignored: Counter[str]) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    for name in _names(folder):
        if name.endswith(".npy"):
            arrays |= _load(folder / name)
        else:
            ignored[f"file beside the arrays ({Path(name).suffix or name})"] += 1
    return arrays


def _idx_parts(folder: Path, ignored: Counter[str]) -> list[Part]:
    """The MNIST family: train is train, t10k is val, unless there is a val too: then it is test."""
    files: dict[tuple[str, str], Path] = {}
    for name in _names(folder):
        if (match := _IDX.fullmatch(name)) is None:
            ignored[f"file beside the arrays ({Path(name).suffix or name})"] += 1
        elif files.setdefault((match[1], match[2]), folder / name) != folder / name:
            raise _bad(
                folder,
                f"{files[match[1], match[2]].name!r} and {name!r}",
                "one set of files",
                "give each set a folder of its own",
            )
    words = list(dict.fromkeys(word for word, _ in files))
    if missing := [f"{word}-{half}" for word in words for half in ("images", "labels") if (word, half) not in files]:
        raise _bad(folder, f"no file {some(missing)}", "pictures and labels", "bring the four files into one folder")
    splits = {word: word if word in ("train", "val") else "test" if "val" in words else "val" for word in words}
    return [
        _part(folder, splits[word], splits[word], _idx(files[word, "images"], 3), _idx(files[word, "labels"], 1))
        for word in words
    ]


def _idx(path: Path, num_axes: int) -> NDArray[np.uint8]:
    """An IDX file of bytes: 00 00 08, the number of axes, their lengths as big-endian uint32, then the bytes."""
    content = b""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(4 + 4 * num_axes)
            shape = tuple(np.frombuffer(head, ">u4", offset=4).tolist()) if len(head) == 4 + 4 * num_axes else ()
            if head[:4] == bytes((0, 0, 8, num_axes)) and shape:
                check_inflation(math.prod(shape), path.stat().st_size)
                content = file.read(math.prod(shape) + 1)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise _bad(path, str(error), "an IDX file, gzipped or not", "fetch it again") from error
    if head[:4] != bytes((0, 0, 8, num_axes)) or not shape:
        raise _bad(
            path,
            f"a file that begins with {head[:4]!r}",
            f"an IDX file of bytes with {num_axes} axes",
            "fetch it again",
        )
    if len(content) != math.prod(shape):
        raise _bad(
            path,
            f"{'more' if len(content) > math.prod(shape) else 'fewer'} bytes than {shape} needs",
            "a whole IDX file",
            "fetch it again",
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def _bad(place: object, got: str, need: str, hint: str) -> DataError:
    return DataError(f"read {place}", got=got, need=need, hint=hint)
