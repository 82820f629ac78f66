"""Datasets that lie elsewhere (s3://, gs://, https://, a mounted path): copied to this machine's disk, or sent there.

A URL goes in, the path of a copy on this machine comes out, NAME-DIGEST.e18. It opens as soon as what says where
samples lie is here; shards come later, as a run needs them: see ``arriving``. What is here is never read again.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack, suppress
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from eighteen.base import cache
from eighteen.base.errors import DataError, MachineError, UsageError
from eighteen.base.files import unwritable_is_said, write_atomic
from eighteen.base.lock import alone, unused, used
from eighteen.data import arriving, dataset, places
from eighteen.data.arriving import AT_ONCE, Arriving, Progress
from eighteen.data.places import Place
from eighteen.data.shards import Stored

UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12}


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
    """Bring the whole dataset at ``url`` into the folder ``to``; returns its path there. Raises as ``begin`` does."""
    with ExitStack() as stack:
        path = begin(url, to, stack)
        found = Arriving(path, url, dataset.stored_files(dataset.read_facts(path)))
        stack.callback(found.close)
        names = dataset.shards(dataset.read_facts(path))
        found.require_room(names)
        found.wait(names, on_progress=on_progress)
    return path


def begin(url: str, to: Path, stack: ExitStack) -> Path:
    """A copy of the dataset at ``url`` in the folder ``to``, which opens; not more of its shards than are here already.

    As long as the stack lasts ``make_room`` leaves it alone. Several processes of a machine may ask at once.
    raises DataError for what is no dataset or came wrong twice; MachineError without room, or if ``url`` is silent
    """
    there = _reached(url)
    facts = _facts(there, url)
    with TemporaryDirectory() as place, unwritable_is_said(to, hint=f"df -h {to}; XDG_CACHE_HOME=/another/disk"):
        write_atomic(Path(place) / dataset.FACTS, facts)
        known = dataset.read_facts(Path(place))
        stored, shards = _stored(known, url)
        name = PurePosixPath(there.path).name.removesuffix(".e18")
        path = to / f"{name}-{hashlib.sha256(facts).hexdigest()[:12]}.e18"
        _use(path, stack)
        with alone(to):
            if arriving.origin(path) != url:
                arriving.mark(path, url)
        if not (path / dataset.FACTS).is_file():
            found, names = Arriving(path, url, stored), [one.name for one in stored if one.name not in shards]
            stack.callback(found.close)
            found.require_room(names)
            found.wait(names)
            with alone(to):
                write_atomic(path / dataset.FACTS, facts)
        os.utime(path / dataset.FACTS)  # when it was last used
    return path


def make_room(path: Path, num_bytes: int, *, most_bytes: int, say: Callable[[str], object]) -> None:
    """Let the folder of copies have at most ``most_bytes`` when ``num_bytes`` more have come into the copy ``path``:
    shards of others that nobody uses are deleted, of the longest unused copy first, and of its shards the oldest.

    raises MachineError if that is not enough
    """
    with alone(path.parent):
        sizes = {one: _num_bytes(one) for one in path.parent.iterdir() if one.is_dir()}
        excess = sum(sizes.values()) + num_bytes - most_bytes
        for other in sorted((one for one in sizes if one != path), key=_last_used):
            if excess <= 0:
                break
            with unused(other) as is_unused:
                if is_unused:
                    what, freed = _shrink(other, sizes[other], excess)
                    say(f"deleted {what}, {freed / 1e9:,.2f} GB, for --disk-max")
                    excess -= freed
    if excess > 0:
        all_bytes = most_bytes + excess
        got, need = f"{all_bytes:,} bytes that are in use or needed", f"at most {most_bytes:,} bytes in {path.parent}"
        hint = f"--disk-max {-(-all_bytes // 10**9)}GB, or a rendition that is smaller"
        raise MachineError(f"bring a dataset to {path}", got=got, need=need, hint=hint)


def bytes_of(text: str, *, flag: str) -> int:
    """50GB -> 50,000,000,000. UsageError for what is no amount."""
    if not (found := re.fullmatch(r"(\d+(?:\.\d+)?) ?(MB|GB|TB)", text)) or not float(found[1]):
        raise UsageError(flag, got=repr(text), need="a number of MB, GB or TB", hint=f"{flag} 50GB")
    return int(float(found[1]) * UNITS[found[2]])


def read_ahead(paths: Iterable[Path], *, goes_on: Callable[[], bool]) -> None:
    """Read files into the page cache, one after the other, as long as ``goes_on`` says so."""
    buffer = bytearray(2**20)
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while goes_on() and file.readinto(buffer):
                pass


def _shrink(copy: Path, num_bytes: int, excess: int) -> tuple[str, int]:
    """Delete shards of a copy until it is smaller by ``excess`` bytes, or all of it if they are no more than that, or
    would not come again; returns what was deleted, and its bytes."""
    freed, gone = 0, 0
    for shard in _shards_by_age(copy) if excess < num_bytes else ():
        if freed >= excess:
            break
        freed, gone = freed + shard.stat().st_size, gone + 1
        shard.unlink()
    if freed >= excess:
        return f"the oldest {gone:,} shards of {copy}", freed
    (copy / dataset.FACTS).unlink(missing_ok=True)  # first: without it, what is left is no dataset
    shutil.rmtree(copy)
    return str(copy), num_bytes


def _shards_by_age(copy: Path) -> list[Path]:
    """Those that are here and can come again; none of what is no whole copy."""
    with suppress(DataError):
        if arriving.origin(copy):
            shards = [copy / name for name in dataset.shards(dataset.read_facts(copy))]
            return sorted((one for one in shards if one.is_file()), key=lambda one: one.stat().st_mtime)
    return []


def _use(path: Path, stack: ExitStack) -> None:
    """Make the folder, if it is not there, and keep it."""
    while True:
        path.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError), ExitStack() as trial:
            if trial.enter_context(used(path)):  # else another process has just deleted it
                stack.enter_context(trial.pop_all())
                return


def _num_bytes(path: Path) -> int:
    num_bytes = 0
    for one in path.rglob("*"):
        with suppress(FileNotFoundError):  # it has just got its name
            num_bytes += one.stat().st_size if one.is_file() else 0
    return num_bytes


def _last_used(path: Path) -> float:
    facts = path / dataset.FACTS
    return facts.stat().st_mtime if facts.is_file() else 0.0


def _reached(url: str) -> Place:
    with places.reaching("read the dataset", url):
        return places.at(url)


def _facts(there: Place, url: str) -> bytes:
    with places.reaching("read the dataset", url):
        if (facts := (there / dataset.FACTS).read()) is not None:
            return facts
    hint = "eighteen push photos.e18 URL"
    raise DataError(f"read the dataset {url}", got=f"no {dataset.FACTS} there", need="a dataset", hint=hint)


def _stored(facts: dict[str, Any], url: str) -> tuple[list[Stored], set[str]]:
    try:
        dataset.check_facts(facts)
        return dataset.stored_files(facts), {*dataset.shards(facts)}
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        need, hint = "the description that eighteen wrote", "eighteen push the dataset again"
        raise DataError(f"read the dataset {url}", got=str(error), need=need, hint=hint) from None


def _all(futures: Iterator[Future[None]], stored: Sequence[Stored], on_progress: Progress) -> None:
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
