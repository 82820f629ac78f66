"""Datasets that lie elsewhere (s3://, gs://, https://, a mounted path): brought to this machine's disk, or sent there.

A URL goes in, the path of a dataset on this machine comes out. What is there already is never read again; each file is
verified by the SHA-256 that dataset.json has for it, and that comes last, so what was cut off is no dataset and goes on
where it stopped.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from eighteen.base import cache
from eighteen.base.errors import DataError
from eighteen.base.files import require_room, sync_file, unwritable_is_said, write_atomic
from eighteen.base.lock import alone
from eighteen.data import dataset, places
from eighteen.data.places import Place
from eighteen.data.shards import Stored, sha256_of

AT_ONCE = 8  # files
PIECE_BYTES = 8 * 2**20  # of one question
WAITS_S = (0.5, 2.0, 8.0)  # before a piece that did not come is asked for again

Progress = Callable[[int, int, int], object]  # files done, of how many, bytes that have come


def folder() -> Path:
    """Where datasets from elsewhere are kept: on a disk of this machine, and as fast as it has one."""
    return cache.place("datasets")


def push(path: Path, url: str, *, on_progress: Progress = lambda *_: None) -> str:
    """Send a dataset to a folder at ``url``; returns its URL there. Its dataset.json comes last.

    A dataset that is there already, with the same digest, is left alone.
    raises DataError if ``path`` is no dataset, MachineError if ``url`` cannot be written to
    """
    found = dataset.open(path)
    url = f"{url.rstrip('/')}/{found.path.resolve().name}"
    with places.reaching("send a dataset to", url):
        there, facts = places.at(url), (found.path / dataset.FACTS).read_bytes()
        if (there / dataset.FACTS).read() == facts:
            return url
        stored = dataset.stored_files(dataset.read_facts(found.path))
        with ThreadPoolExecutor(AT_ONCE) as threads:
            _all((threads.submit(_send, found.path, there, one) for one in stored), stored, on_progress)
        there.files.pipe_file((there / dataset.FACTS).path, facts)
    return url


def stage(url: str, to: Path, *, on_progress: Progress = lambda *_: None) -> Path:
    """Bring the dataset at ``url`` into the folder ``to``; returns its path there, NAME-DIGEST.e18.

    Several processes of a machine may ask at once: one does it. Pieces that do not come are asked for again; a file
    that came wrong is brought once more.
    raises DataError for what is no dataset or came wrong twice; MachineError without room, or if ``url`` is silent
    """
    there = _reached(url)
    facts = _facts(there, url)
    with TemporaryDirectory() as place, unwritable_is_said(to, hint=f"df -h {to}; XDG_CACHE_HOME=/another/disk"):
        write_atomic(Path(place) / dataset.FACTS, facts)
        stored = _stored(dataset.read_facts(Path(place)), url)
        name = PurePosixPath(there.path).name.removesuffix(".e18")
        path = to / f"{name}-{hashlib.sha256(facts).hexdigest()[:12]}.e18"
        path.mkdir(parents=True, exist_ok=True)
        with alone(path):
            if not (path / dataset.FACTS).is_file():
                _bring(there, path, url, stored, on_progress)
                write_atomic(path / dataset.FACTS, facts)
    return path


def _reached(url: str) -> Place:
    with places.reaching("read the dataset", url):
        return places.at(url)


def _facts(there: Place, url: str) -> bytes:
    with places.reaching("read the dataset", url):
        if (facts := (there / dataset.FACTS).read()) is not None:
            return facts
    hint = "eighteen push photos.e18 URL"
    raise DataError(f"read the dataset {url}", got=f"no {dataset.FACTS} there", need="a dataset", hint=hint)


def _stored(facts: dict[str, Any], url: str) -> list[Stored]:
    try:
        dataset.check_facts(facts)
        return dataset.stored_files(facts)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        need, hint = "the description that eighteen wrote", "eighteen push the dataset again"
        raise DataError(f"read the dataset {url}", got=str(error), need=need, hint=hint) from None


def _bring(there: Place, path: Path, url: str, stored: Sequence[Stored], on_progress: Progress) -> None:
    missing = [one for one in stored if not (path / one.name).is_file()]
    have = sum(part.stat().st_size for one in missing if (part := _part(path / one.name)).is_file())
    need = sum(one.num_bytes for one in missing) - have
    hint = f"XDG_CACHE_HOME=/another/disk, or delete what is not needed in {path.parent}"
    require_room(path, need, tried=f"bring {url} to {path.parent}", hint=hint)
    for one in missing:
        (path / one.name).parent.mkdir(parents=True, exist_ok=True)
    with places.reaching("read the dataset", url), ThreadPoolExecutor(AT_ONCE) as threads:
        _all((threads.submit(_fetch, there, path, one) for one in missing), missing, on_progress)


def _all(futures: Iterable[Future[None]], stored: Sequence[Stored], on_progress: Progress) -> None:
    """Wait for all; the first that fails ends those that have not begun."""
    waiting = dict(zip(futures, stored, strict=True))
    num_bytes = 0
    for done, future in enumerate(as_completed(waiting), 1):
        try:
            future.result()
        except BaseException:
            for other in waiting:
                other.cancel()
            raise
        num_bytes += waiting[future].num_bytes
        on_progress(done, len(waiting), num_bytes)


def _send(root: Path, there: Place, one: Stored) -> None:
    target = there / one.name
    there.files.makedirs(target.path.rpartition("/")[0], exist_ok=True)
    there.files.put_file(str(root / one.name), target.path)


def _fetch(there: Place, root: Path, one: Stored) -> None:
    """A file under its name, whole and verified."""
    path, part = root / one.name, _part(root / one.name)
    for attempt in (1, 2):
        with part.open("ab") as file:
            for piece in _pieces(there / one.name, file.tell(), one.num_bytes):
                file.write(piece)
        sync_file(part)
        if sha256_of(part) == one.sha256:
            part.rename(path)
            return
        part.unlink()
        if attempt == 2:
            got, need = "bytes that do not match its digest, twice", "the file that was packed"
            hint = "eighteen check, where the dataset lies; then eighteen push it again"
            raise DataError(f"bring {(there / one.name).path}", got=got, need=need, hint=hint)


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _pieces(file: Place, start: int, end: int) -> Iterator[bytes]:
    while start < end:
        stop = min(end, start + PIECE_BYTES)
        piece = _asked(file, start, stop)
        if len(piece) != stop - start:  # a server that knows no ranges sends all of it; one file is too short
            piece = piece[start:] if len(piece) == end else piece
            if start + len(piece) != end:
                got, need = f"{len(piece):,} bytes at {start:,}", f"{stop - start:,}"
                raise DataError(f"bring {file.path}", got=got, need=need, hint="eighteen push the dataset again")
            stop = end
        yield piece
        start = stop


def _asked(file: Place, start: int, stop: int) -> bytes:
    for wait_s in (*WAITS_S, None):
        try:
            return file.files.cat_file(file.path, start=start, end=stop)
        except FileNotFoundError as error:
            need, hint = "a file that its dataset.json names", "eighteen push the dataset again"
            raise DataError(f"bring {file.path}", got="nothing there", need=need, hint=hint) from error
        except Exception:  # each filesystem has its own for a connection that breaks
            if wait_s is None:
                raise
            time.sleep(wait_s)
    raise AssertionError
