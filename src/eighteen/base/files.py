"""Writing files so that they are there whole or not at all, and saying why where they cannot be written."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from eighteen.base.errors import FULL, UNWRITABLE, MachineError


class Unwritten(OSError):
    """An OSError that knows which file was to be written (``filename``), and of how many bytes if that was known."""

    def __init__(self, number: int, text: str, path: str, num_bytes: int | None) -> None:
        super().__init__(number, text, path)
        self.num_bytes = num_bytes


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace ``path`` by ``content``: temp + fsync + rename + fsync(dir).

    After a power cut it is the old file or the new one. Where it cannot be written no temp file is left.
    """
    temp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    content = content.encode() if isinstance(content, str) else content
    with writing(path, len(content)):
        try:
            with temp.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temp.replace(path)
        finally:
            with suppress(OSError):  # the disk may be read-only by now
                temp.unlink(missing_ok=True)
        sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    write_atomic(path, json_text(value))


def json_text(value: Any) -> str:
    """As ``write_json`` writes it."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def sync_file(path: Path) -> None:
    """Make a file's content durable."""
    with writing(path, path.stat().st_size), path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def writing(path: Path, num_bytes: int | None = None) -> Iterator[None]:
    """Give an OSError the name and the size of the file that was being written."""
    try:
        yield
    except Unwritten:
        raise
    except OSError as error:
        if error.errno is None:
            raise
        raise Unwritten(error.errno, os.strerror(error.errno), str(path), num_bytes) from error


@contextmanager
def unwritable_is_said(folder: Path, *, hint: str, kind: type[MachineError] = MachineError) -> Iterator[None]:
    """Turn a full or failing disk, or a place that may not be written to, into a MachineError: see ``unwritable``."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise unwritable(error, folder, hint=hint, kind=kind) from error


def unwritable(error: OSError, folder: Path, *, hint: str, kind: type[MachineError] = MachineError) -> MachineError:
    """What to say of a write that failed: the file (``folder``, if the error knows none), errno, bytes needed and free.

    The bytes are told where the disk is full; those needed only where they are known.
    """
    path = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else folder
    name = errno.errorcode.get(error.errno or 0, f"errno {error.errno}")
    got, need = f"{name} ({(error.strerror or str(error)).lower()})", "a disk that can be written to"
    if error.errno in FULL:
        got += f" with {free_bytes(path):,} bytes free"
        needed = error.num_bytes if isinstance(error, Unwritten) else None
        need = "more room on its disk" if needed is None else f"{needed:,} bytes for it"
    return kind(f"write {path}", got=got, need=need, hint=hint)


def free_bytes(path: Path) -> int:
    """Bytes that may still be written to the disk of a path, which need not be there yet."""
    place = path.absolute()
    while True:
        try:
            return shutil.disk_usage(place).free
        except (FileNotFoundError, NotADirectoryError):
            if place == place.parent:
                raise
            place = place.parent


def require_room(path: Path, num_bytes: int, *, tried: str, hint: str) -> None:
    """MachineError unless the disk of ``path`` has so many bytes free."""
    if (free := free_bytes(path)) < num_bytes:
        got, need = f"{free:,} bytes free on the disk of {path}", f"at least {num_bytes:,} bytes"
        raise MachineError(tried, got=got, need=need, hint=hint)
