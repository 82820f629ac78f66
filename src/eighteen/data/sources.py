"""What a person has, listed: a folder, a manifest, IDX files or arrays go in; an item for each picture comes out.

Nothing is decoded here and nothing is written: what is wrong with a source as a whole is said before a dataset is
begun.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eighteen.base.errors import DataError
from eighteen.data import arrays, folders, manifests
from eighteen.data.listing import Sources, some


def read(source: Any, *, group: str | None = None) -> Sources:
    """List a source.

    source: a path to a folder (one sub-folder a class, with train/val[/test] on top or without; or IDX files; or .npy
        files), to a manifest (.csv, .tsv, .parquet) or to a .npz file; or ``(images, labels)`` in memory; or
        ``{"train": (images, labels), "val": ...}``
    group: a regular expression on the relative path, whose first group names the group; or a column of the manifest
    raises DataError for what cannot be packed, UsageError for what cannot be understood
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        sources = (
            manifests.from_manifest(path, group) or arrays.from_path(path, group) or folders.from_folder(path, group)
        )
    else:
        sources = arrays.from_memory(source)
    _check(sources)
    return sources


def _check(sources: Sources) -> None:
    if not sources.items:
        raise DataError(
            f"read {sources.place}",
            got="no picture" + (f", only {_ignored_text(sources.ignored)}" if sources.ignored else ""),
            need="pictures of at least two classes",
            hint="put the pictures of each class into a folder of its own: photos/cat/1.jpg, photos/dog/2.jpg",
        )
    if len(sources.classes) == 1:
        raise DataError(
            f"read {sources.place}",
            got=f"one class only, {sources.classes[0]!r}",
            need="at least two classes",
            hint="name the folder above the class folders, or add pictures of what is not this class",
        )
    _check_twins(sources)
    _check_train(sources)


def _ignored_text(ignored: Mapping[str, int]) -> str:
    return ", ".join(f"{count} x {kind}" for kind, count in ignored.items())


def _check_twins(sources: Sources) -> None:
    """Refuse classes that look the same: a slip of the keyboard, and one folder on a Mac or under Windows."""
    seen: dict[str, str] = {}
    for name in sources.classes:
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()).strip()
        if not key:
            raise DataError(
                f"read {sources.place}",
                got=f"a class named {name!r}",
                need="classes with names",
                hint="name the class, or drop its pictures",
            )
        if key in seen:
            raise DataError(
                f"read {sources.place}",
                got=f"the classes {seen[key]!a} and {name!a}, which differ in case, spaces or Unicode form only",
                need="classes that nobody can mix up",
                hint="give both the same name, or two that differ",
            )
        seen[key] = name


def _check_train(sources: Sources) -> None:
    """Every class of a source that has splits of its own must be in train."""
    if all(item.split is None for item in sources.items):
        return
    counts = Counter(item.label for item in sources.items if item.split in (None, "train"))
    if missing := [name for label, name in enumerate(sources.classes) if not counts[label]]:
        raise DataError(
            f"read {sources.place}",
            got=f"no train picture of {some(missing)}",
            need="every class in train",
            hint="add train pictures of these classes, or drop them from val and test",
        )
