"""Which pictures a person means: files, folders, globs, or paths from standard input become paths, in a fixed order."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from PIL import Image

from eighteen.base.errors import DataError, UsageError
from eighteen.data.pictures import FORMATS

STDIN = "-"


def expand(inputs: Iterable[str], stdin: Iterable[str] = ()) -> Iterator[Path]:
    """All pictures that ``inputs`` name, in their order; a folder's or a glob's pictures sorted by path.

    A file is taken as it is, whatever its name; a folder gives the pictures in it and below, known by their extension;
    ``-`` gives the paths in ``stdin``, one a line, which are read only as the pictures are asked for. Raises UsageError
    for an input that does not exist and DataError for a folder without pictures, before the first path is returned.
    """
    inputs = list(inputs)
    if not inputs:
        raise UsageError(
            "predict",
            got="no pictures",
            need="files, folders, globs or - for paths from standard input",
            hint="eighteen predict runs/NAME cat.jpg photos/",
        )
    return chain.from_iterable([_lines(stdin) if text == STDIN else _paths(text) for text in inputs])


def is_picture(path: str) -> bool:
    """By its extension, whether it is in a format that datasets take."""
    extension = os.path.splitext(path)[1].lower()
    return Image.registered_extensions().get(extension) in FORMATS


def _lines(stdin: Iterable[str]) -> Iterator[Path]:
    for text in stdin:
        if path := text.rstrip("\r\n"):
            yield Path(path)


def _paths(text: str) -> list[Path]:
    path = Path(text)
    if path.is_dir():
        return _folder(path)
    if path.exists():
        return [path]
    found = [Path(match) for match in sorted(glob.glob(os.path.expanduser(text), recursive=True))]
    if not found:
        raise UsageError(
            f"predict {text!r}",
            got="no such file, folder or match",
            need="pictures that exist",
            hint="ls, to see what is there",
        )
    return [picture for match in found for picture in ([match] if not match.is_dir() else _folder(match))]


def _folder(folder: Path) -> list[Path]:
    found = []
    for place, _, names in os.walk(folder, onerror=_refuse):
        found += [Path(place, name) for name in names if is_picture(name)]
    if not found:
        raise DataError(
            f"predict the folder {str(folder)!r}",
            got="no file with a picture's extension",
            need="pictures in it or below",
            hint=f"find {folder} -type f",
        )
    return sorted(found)


def _refuse(error: OSError) -> None:
    raise DataError(
        f"read the folder {error.filename!r}",
        got=error.strerror or str(error),
        need="a folder that can be listed",
        hint=f"ls -ld {error.filename}",
    )
