"""The files that hold samples: written once, front to back; read by offset.

A shard is a plain USTAR tar in the WebDataset layout: for each sample ``00000012.jpg`` and ``00000012.cls`` (its label,
as text), one after the other. Pictures of one small size are one ``.npy`` array instead, uint8 [N, H, W, C]. Either way
a sample is some bytes at an offset.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import google_crc32c

from eighteen.base.files import sync_folder, writing

BLOCK = tarfile.BLOCKSIZE
RAW_HEADER = 128  # bytes before the first pixel of a raw array
_DIGEST_CHUNK = 2**20


@dataclass(frozen=True)
class Stored:
    """A file of a dataset: its name relative to the dataset, and what it must be like."""

    name: str
    num_bytes: int
    sha256: str


def crc32c(content: bytes) -> int:
    return google_crc32c.value(content)


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_DIGEST_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


class TarWriter:
    """One tar shard while it is written: not there under its name until ``close``."""

    suffix = ".tar"

    def __init__(self, root: Path, name: str) -> None:
        self._root, self._name = root, name
        self._file = _open_temp(root / name)
        self._digest = hashlib.sha256()
        self.num_bytes = 0

    def add(self, sample: int, content: bytes, label: int) -> int:
        """Append a sample and return the offset of its bytes."""
        self._member(f"{sample:08d}.jpg", content)
        offset = self.num_bytes - len(content) - -len(content) % BLOCK
        self._member(f"{sample:08d}.cls", str(label).encode())
        return offset

    def close(self) -> Stored:
        self._write(bytes(2 * BLOCK))  # the end of a tar
        _finish(self._file, self._root / self._name)
        return Stored(self._name, self.num_bytes, self._digest.hexdigest())

    def discard(self) -> None:
        _discard(self._file, self._root / self._name)

    def _member(self, name: str, content: bytes) -> None:
        info = tarfile.TarInfo(name)  # mtime 0, mode 644, no owner: the same samples give the same bytes
        info.size = len(content)
        self._write(info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % BLOCK))

    def _write(self, content: bytes) -> None:
        with writing(self._root / self._name):
            self._file.write(content)
        self._digest.update(content)
        self.num_bytes += len(content)


def tar_members(path: Path) -> tuple[dict[str, tuple[int, int]], str | None]:
    """The plain files in a tar, name -> (offset of its bytes, length), up to the first fault, and what that is.

    Nothing is unpacked, and nothing but headers is read: names that lead elsewhere, links and devices are faults.
    """
    members: dict[str, tuple[int, int]] = {}
    with path.open("rb") as file:
        num_bytes, place = os.fstat(file.fileno()).st_size, 0
        while block := os.pread(file.fileno(), BLOCK, place):
            if block == bytes(BLOCK):
                rest = num_bytes - place
                return members, None if rest == 2 * BLOCK else f"{rest:,} bytes behind its last member"
            try:
                info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except (tarfile.HeaderError, ValueError) as error:
                return members, f"not a whole tar: {error} at byte {place:,}"
            place += BLOCK
            if info.type != tarfile.REGTYPE or info.name != Path(info.name).name or info.name in members:
                return members, f"a member {info.name!r} of type {info.type!r}, which no pack writes"
            if not 0 <= info.size <= num_bytes - place:
                return members, f"the member {info.name!r}, which is cut off"
            members[info.name] = place, info.size
            place += info.size + -info.size % BLOCK
    return members, "no end: it is cut off"


class RawWriter:
    """One raw array while it is written: an ``.npy`` file of uint8 [N, height, width, channels], N known at the end."""

    suffix = ".raw.npy"

    def __init__(self, root: Path, name: str, *, sample_shape: tuple[int, int, int]) -> None:
        self._root, self._name, self._shape = root, name, sample_shape
        self._file = _open_temp(root / name)
        self._file.write(bytes(RAW_HEADER))
        self._num_samples = 0
        self.num_bytes = RAW_HEADER

    def add(self, sample: int, content: bytes, label: int) -> int:
        """Append a sample's pixels and return their offset."""
        offset = self.num_bytes
        with writing(self._root / self._name):
            self._file.write(content)
        self._num_samples += 1
        self.num_bytes += len(content)
        return offset

    def close(self) -> Stored:
        path = self._root / self._name
        with writing(path):
            self._file.seek(0)
            self._file.write(_npy_header((self._num_samples, *self._shape)))
        _finish(self._file, path)
        return Stored(self._name, self.num_bytes, sha256_of(path))

    def discard(self) -> None:
        _discard(self._file, self._root / self._name)


def _npy_header(shape: tuple[int, ...]) -> bytes:
    """The head of an .npy file of uint8, version 1.0, of RAW_HEADER bytes (numpy.lib.format)."""
    facts = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
    magic = b"\x93NUMPY\x01\x00" + (RAW_HEADER - 10).to_bytes(2, "little")
    return magic + facts.encode().ljust(RAW_HEADER - 11) + b"\n"


def _temp(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def _open_temp(path: Path) -> BinaryIO:
    with writing(path):
        return _temp(path).open("wb", buffering=2**20)


def _finish(file: BinaryIO, path: Path) -> None:
    with writing(path):
        file.flush()
        os.fsync(file.fileno())
        file.close()
        _temp(path).replace(path)
        sync_folder(path.parent)


def _discard(file: BinaryIO, path: Path) -> None:
    try:
        file.close()  # may fail again to write what is still buffered
    except OSError:
        pass
    finally:
        with suppress(OSError):  # the disk may be read-only by now
            _temp(path).unlink(missing_ok=True)
