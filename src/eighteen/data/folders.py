"""A folder with one sub-folder a class, with train/val[/test] folders on top or without -> Sources."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from eighteen.base.errors import DataError
from eighteen.data.listing import SPLIT_NAMES, Found, Sources, group_by, listed, some

# What lies about in folders of pictures. Any other file is taken for a picture, and refused aloud if it is none.
LITTER_NAMES = {"thumbs.db", "desktop.ini", "icon\r", "license", "readme"}
# fmt: off
LITTER_TYPES = {
    ".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".md", ".html", ".htm", ".pdf", ".ini", ".log",
    ".db", ".zip", ".tar", ".gz", ".tgz", ".rar", ".7z", ".py", ".ipynb", ".pkl", ".npy", ".npz", ".mat", ".parquet",
    ".mp4", ".mov", ".avi", ".svg", ".doc", ".docx", ".xls", ".xlsx", ".lnk", ".tmp", ".part",
}
# fmt: on


STRAY = "picture beside the class folders"


def from_folder(root: Path, group: str | None) -> Sources:
    """List a folder. Raises DataError if it cannot be read, is laid out differently, or one of its classes is empty."""
    _check_root(root)
    ignored: Counter[str] = Counter()
    found: list[Found] = []
    grouped = group_by(group) if group is not None else None
    for split, folder in _split_folders(root, ignored):
        for class_folder in _sub_folders(folder, ignored):
            pictures = list(_pictures(class_folder, ignored, above=(_identity(folder),)))
            if not pictures:
                raise _empty_class(root, class_folder)
            for path, facts in pictures:
                name = path.relative_to(root).as_posix()
                found.append(
                    Found(
                        name,
                        class_folder.name,
                        split,
                        grouped(name) if grouped else None,
                        facts.st_size,
                        facts.st_mtime_ns,
                    )
                )
    return listed(str(root), root, found, ignored=ignored)


def _check_root(root: Path) -> None:
    if not root.exists():
        raise DataError(
            f"read {root}",
            got="nothing there",
            need="a folder of pictures, a manifest, or arrays",
            hint=f"ls {root.parent}",
        )
    if not root.is_dir():
        raise DataError(
            f"read {root}",
            got="a file of no kind that is known",
            need="a folder, .csv, .tsv, .parquet, .npz or .npy",
            hint="eighteen pack photos/ photos.e18",
        )
    if (root / "dataset.json").exists():
        raise DataError(
            f"read {root}",
            got="a dataset that is packed already",
            need="pictures to pack",
            hint=f"eighteen train {root}",
        )


def _split_folders(root: Path, ignored: Counter[str]) -> list[tuple[str | None, Path]]:
    """The folders that hold class folders, each with its split: train/, val/, test/; or the root alone."""
    folders = [path for path in _entries(root) if path.is_dir() and not _is_hidden(path)]
    train = next((folder for folder in folders if SPLIT_NAMES.get(folder.name.lower()) == "train"), None)
    # A class may be called "train", so look for class folders inside.
    if train is None or not any(path.is_dir() and not _is_hidden(path) for path in _entries(train)):
        return [(None, root)]
    if strangers := [folder.name for folder in folders if folder.name.lower() not in SPLIT_NAMES]:
        raise DataError(
            f"read {root}",
            got=f"the folders {some(strangers)} beside {train.name!r}",
            need="train, val and test only, or class folders only",
            hint="move them elsewhere, or into train",
        )
    return [(SPLIT_NAMES[folder.name.lower()], folder) for folder in _sub_folders(root, ignored)]


def _sub_folders(folder: Path, ignored: Counter[str]) -> list[Path]:
    """The folders in it; all else that lies there is counted."""
    folders = []
    for path in _entries(folder):
        if path.is_dir() and not _is_hidden(path):
            folders.append(path)
        else:
            ignored[_litter(path) or STRAY] += 1
    return folders


def _pictures(
    folder: Path, ignored: Counter[str], above: tuple[tuple[int, int], ...]
) -> Iterator[tuple[Path, os.stat_result]]:
    """All files in it and below that may be pictures. Links are followed, but never into a folder that we are in."""
    if (here := _identity(folder)) in above:
        ignored["link to a folder above it"] += 1
        return
    for path in _entries(folder):
        try:
            facts = path.stat()
        except OSError as error:
            raise _unreadable(path, error.strerror or str(error)) from error
        if stat.S_ISDIR(facts.st_mode) and not _is_hidden(path):
            yield from _pictures(path, ignored, (*above, here))
        elif litter := _litter(path):
            ignored[litter] += 1
        elif not stat.S_ISREG(facts.st_mode):
            ignored["special file"] += 1
        elif not os.access(path, os.R_OK):
            raise _unreadable(path, "Permission denied")
        else:
            yield path, facts


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise _unreadable(folder, error.strerror or str(error)) from error


def _identity(folder: Path) -> tuple[int, int]:
    facts = folder.stat()
    return facts.st_dev, facts.st_ino


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".")


def _litter(path: Path) -> str | None:
    """What to call a file that is ignored; None for one that may be a picture."""
    if _is_hidden(path):
        return "hidden file or folder"
    if path.name.lower() in LITTER_NAMES:
        return path.name.strip()
    suffix = path.suffix.lower()
    return f"{suffix} file" if suffix in LITTER_TYPES else None


def _unreadable(path: Path, got: str) -> DataError:
    return DataError(
        f"read {str(path)!r}",
        got=got,
        need="files and folders that can be read",
        hint="ls -l there; chmod -R u+rX, or move it elsewhere",
    )


def _empty_class(root: Path, folder: Path) -> DataError:
    return DataError(
        f"read {root}",
        got=f"no picture in {folder.relative_to(root).as_posix()!r}",
        need="pictures in every class",
        hint="add some, or remove the folder",
    )
