"""A source, listed: its pictures, each with its class and split, before any of them is decoded."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eighteen.base.errors import DataError, UsageError

SPLITS = ("train", "val", "test")
# What people call their splits, in folders, manifests and file names.
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True, slots=True)
class Item:
    """One picture of a source."""

    name: str  # its path relative to the root, with slashes; or "train[12]" of an array
    label: int
    split: str | None = None  # None: not decided by the source
    group: str | None = None  # pictures of one group stay in one split
    num_bytes: int = 0  # of its file
    stamp: int = 0  # when its file was last changed, in ns
    row: int = -1  # in its array; -1 for a file


@dataclass(frozen=True)
class Sources:
    """All that a pack needs to know of a source."""

    place: str  # as the person named it
    root: Path  # of the files' paths
    items: tuple[Item, ...]
    classes: tuple[str, ...]  # labels count them
    ignored: Mapping[str, int] = field(default_factory=dict)  # what lies there and is no picture -> how often
    arrays: Mapping[str, NDArray[np.uint8]] = field(
        default_factory=dict
    )  # [N, H, W, C], by the items' names without [row]

    @property
    def are_files(self) -> bool:
        return not self.arrays


@dataclass(frozen=True, slots=True)
class Found:
    """A picture before its class has a number."""

    name: str
    class_name: str
    split: str | None = None
    group: str | None = None
    num_bytes: int = 0
    stamp: int = 0
    row: int = -1


def listed(
    place: str,
    root: Path,
    found: Sequence[Found],
    *,
    ignored: Mapping[str, int],
    arrays: Mapping[str, NDArray[np.uint8]] | None = None,
) -> Sources:
    """Number the classes and put the pictures in order."""
    classes = in_class_order({one.class_name for one in found})
    labels = {name: label for label, name in enumerate(classes)}
    items = [
        Item(one.name, labels[one.class_name], one.split, one.group, one.num_bytes, one.stamp, one.row) for one in found
    ]
    return Sources(place, root, tuple(items), classes, dict(ignored), arrays or {})


def in_class_order(names: Iterable[str]) -> tuple[str, ...]:
    """Sorted by name; by number where all names are numbers."""
    names = sorted(names)
    if all(re.fullmatch(r"[0-9]+", name) for name in names):
        names.sort(key=int)
    return tuple(names)


def group_by(pattern: str) -> Callable[[str], str]:
    """The function that finds a path's group by a regular expression; it raises DataError for a path that has none.

    raises UsageError for an expression that cannot do that
    """
    try:
        expression = re.compile(pattern)
        if not expression.groups:
            raise re.error("no (group) in it")
    except re.error as error:
        raise UsageError(
            f"group pictures by {pattern!r}",
            got=str(error),
            need="a regular expression whose first (group) names the group, or a column of the manifest",
            hint=r"--group '([^/]+)_\d+\.jpg$'",
        ) from error

    def group(name: str) -> str:
        match = expression.search(name)
        if match is None or match[1] is None:
            raise DataError(
                f"group pictures by {pattern!r}",
                got=f"no group in {name!r}",
                need="an expression that finds the group of every picture",
                hint=r"try it on that path; '(?:([^_]+)_)?' and the like leave a group empty",
            )
        return match[1]

    return group


def some(names: Sequence[str], most: int = 5) -> str:
    """The first names, and how many more there are."""
    return ", ".join(repr(name) for name in names[:most]) + (
        f" and {len(names) - most} more" if len(names) > most else ""
    )
