"""Writing files so that they are there whole or not at all."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eighteen.base.errors import MachineError


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace ``path`` by ``content``: temp + fsync + rename + fsync(dir).

    After a power cut it is the old file or the new one.
    """
    temp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temp.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temp.replace(path)
    finally:
        temp.unlink(missing_ok=True)
    sync_folder(path.parent)


_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}


@contextmanager
def unwritable_is_said(folder: Path, *, hint: str) -> Iterator[None]:
    """Turn a full disk, or a place that may not be written to, into a MachineError that names ``folder``."""
    try:
        yield
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        got, need = str(error.strerror).lower(), "room on its disk, and leave to write there"
        raise MachineError(f"write into {folder}", got=got, need=need, hint=hint) from error


def write_json(path: Path, value: Any) -> None:
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
