"""Files are written whole or not at all, and what cannot be written is said."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from eighteen.base import errors, files
from eighteen.base.errors import MachineError, Unwritable


def failing(number: int):
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EROFS])
def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, call, number):
    files.write_atomic(tmp_path / "facts.json", "old")
    if call == "fsync":
        monkeypatch.setattr(os, "fsync", failing(number))
    else:
        monkeypatch.setattr(Path, "replace", failing(number))
    with pytest.raises(OSError) as failed:  # noqa: PT011  # which one is what follows
        files.write_atomic(tmp_path / "facts.json", "new, and longer")
    monkeypatch.undo()
    assert failed.value.errno == number
    assert [path.name for path in tmp_path.iterdir()] == ["facts.json"]
    assert (tmp_path / "facts.json").read_text() == "old"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            files.Unwritten(errno.ENOSPC, "No space left on device", "PLACE/a.bin", 12_345),
            r"write .*/a.bin: got ENOSPC \(no space left on device\) with [\d,]+ bytes free, need 12,345 bytes for it",
        ),
        (
            OSError(errno.EDQUOT, "Disk quota exceeded"),
            r"write .*: got EDQUOT \(disk quota exceeded\) with [\d,]+ bytes free, need more room on its disk",
        ),
        (
            OSError(errno.EIO, "Input/output error", "a.bin"),
            r"write a.bin: got EIO \(input/output error\), need a disk that can be written to",
        ),
        (
            OSError(errno.EROFS, "Read-only file system", b"a.bin"),
            r"write a.bin: got EROFS \(read-only file system\), need a disk that can be written to",
        ),
    ],
)
def test_what_cannot_be_written_is_said_with_errno_path_and_bytes(tmp_path, error, said):
    if error.filename == "PLACE/a.bin":
        error.filename = str(tmp_path / "a.bin")
    with (
        pytest.raises(Unwritable, match=said) as raised,
        files.unwritable_is_said(tmp_path, hint="df -h", kind=Unwritable),
    ):
        raise error
    assert raised.value.exit_code == errors.exit_code_of(error) == 3
    assert errors.exit_code_of(OSError(errno.ENOENT, "")) == 1


def test_other_errors_pass(tmp_path):
    with pytest.raises(FileNotFoundError), files.unwritable_is_said(tmp_path, hint="df -h"):
        (tmp_path / "nothing").read_bytes()


def test_room_is_counted_where_a_path_will_lie(tmp_path):
    free = files.free_bytes(tmp_path)
    files.require_room(tmp_path / "a" / "b", free // 2, tried="pack", hint="df -h")
    with pytest.raises(MachineError, match=r"pack: got [\d,]+ bytes free on the disk of .*b, need at least [\d,]+ by"):
        files.require_room(tmp_path / "a" / "b", 2 * free, tried="pack", hint="df -h")
