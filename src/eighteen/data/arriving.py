"""Files of a dataset that lies elsewhere, brought to this machine's disk while others are read already.

A copy has from the start all that says where samples lie; its shards come as they are wanted, those first that somebody
waits for. Each gets its name when it is whole and verified by the SHA-256 that dataset.json has for it; what was cut
off goes on at its last byte. ``MARK`` says where they come from.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from eighteen.base.errors import DataError
from eighteen.base.files import require_room, sync_file, unwritable_is_said, write_json, writing
from eighteen.base.lock import alone_if_free
from eighteen.data import places
from eighteen.data.places import Place
from eighteen.data.shards import Stored, sha256_of

MARK = "elsewhere.json"
LOCK = ".bringing"  # held by the process of a machine that brings
AT_ONCE = 8  # questions
AHEAD = 2  # answers that wait for their turn: what is lost, with those, when this process is killed
PIECE_BYTES = 8 * 2**20  # of one question
WAITS_S = (0.5, 2.0, 8.0)  # before a piece that did not come is asked for again
POLL_S = 0.05

Progress = Callable[[int, int, int], object]  # files done, of how many, bytes that have come


class Arriving:
    """The files of one copy. Any thread may ask; a thread of its own brings, as long as no other process does.

    root: of the copy      url: of the dataset      stored: its files
    """

    def __init__(self, root: Path, url: str, stored: Iterable[Stored]) -> None:
        self.url, self._root = url, root
        self._stored = {one.name: one for one in stored}
        self._here = set[str]()
        self._wanted = list[str]()
        self._lock = threading.Lock()  # over what is wanted, and the thread
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._failure: Exception | None = None
        self._has_ranges = False  # whether the server has ever sent a part of a file
        self._shortcut: Any = None
        self._ends = dict[str, int]()  # of what has been written of each file in this go
        self._wrong = Counter[str]()  # how often a file came with other bytes

    def lacking(self, names: Iterable[str]) -> list[str]:
        """Those of the files that are not here yet."""
        return [name for name in names if name not in self._here and not self._has_come(name)]

    def want(self, names: Iterable[str]) -> None:
        """Have these brought in this order, before what was wanted earlier."""
        with self._lock:
            first = dict.fromkeys(names)
            self._wanted = self.lacking([*first, *(name for name in self._wanted if name not in first)])
            if self._wanted and self._thread is None and not self._closing.is_set():
                self._thread = threading.Thread(target=self._run, name="eighteen-stager", daemon=True)
                self._thread.start()

    def wait(
        self,
        names: Iterable[str],
        *,
        goes_on: Callable[[], bool] = lambda: True,
        on_progress: Progress = lambda *_: None,
    ) -> None:
        """Until these are here, or ``goes_on`` says no, or this is closed.

        raises DataError for what came wrong twice, MachineError without room or an answer; they name the file
        """
        names = list(names)
        if lacking := self.lacking(names):
            self.want(lacking)
        while lacking and not self._closing.is_set() and goes_on():
            if self._failure:
                raise self._failure
            time.sleep(POLL_S)
            lacking = self.lacking(names)
            on_progress(len(names) - len(lacking), len(names), self.num_bytes({*names} - {*lacking}))

    def num_bytes(self, names: Iterable[str]) -> int:
        return sum(self._stored[name].num_bytes for name in names)

    def num_bytes_to_come(self, names: Iterable[str]) -> int:
        lacking = self.lacking(names)
        parts = (_part(self._root / name) for name in lacking)
        return self.num_bytes(lacking) - sum(part.stat().st_size for part in parts if part.is_file())

    def require_room(self, names: Iterable[str]) -> None:
        """MachineError unless the disk has room for what is to come of these."""
        tried = f"bring {self.url} to {self._root.parent}"
        require_room(self._root, self.num_bytes_to_come(names), tried=tried, hint=_hint(self._root))

    def close(self) -> None:
        """Bring no more; what is on its way is waited for."""
        self._closing.set()
        if thread := self._thread:
            thread.join()

    def _has_come(self, name: str) -> bool:
        if is_here := (self._root / name).is_file():
            self._here.add(name)
        return is_here

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                with self._lock:
                    self._wanted = self.lacking(self._wanted)
                    if not self._wanted:
                        self._thread = None
                        return
                with unwritable_is_said(self._root, hint=_hint(self._root)), alone_if_free(self._root / LOCK) as mine:
                    if mine:
                        self._bring()
                    else:
                        self._closing.wait(POLL_S)
        except Exception as error:
            self._failure = error

    def _bring(self) -> None:
        """What is wanted, in order; until all has come, or a file has come wrong."""
        with places.reaching("read the dataset", self.url):
            there, self._shortcut = places.at(self.url), places.shortcut(self.url)
        self._ends.clear()
        asked, ending, num_wrong = deque[tuple[_Piece, Future[bytes]]](), deque[Future[None]](), self._wrong.total()
        with ThreadPoolExecutor(AT_ONCE) as threads:
            try:
                for piece in self._pieces():
                    # a server that knows no ranges sends the whole file each time it is asked for a part
                    most = AT_ONCE + AHEAD if self._has_ranges or piece.is_whole else 1
                    asked.append((piece, threads.submit(self._asked, there, piece)))
                    while len(asked) >= most:
                        ending.extend(self._put(*asked.popleft(), threads))
                    while ending and ending[0].done():
                        ending.popleft().result()
                    if self._wrong.total() > num_wrong:
                        break
                while asked:
                    ending.extend(self._put(*asked.popleft(), threads))
                for each in ending:
                    each.result()
            finally:
                threads.shutdown(wait=False, cancel_futures=True)

    def _pieces(self) -> Iterator[_Piece]:
        """What to ask for; which file comes next is decided when it does."""
        begun = set[str]()
        while name := next((name for name in self.lacking(self._wanted) if name not in begun), None):
            begun.add(name)
            one, part = self._stored[name], _part(self._root / name)
            part.parent.mkdir(parents=True, exist_ok=True)
            start = part.stat().st_size if part.is_file() else 0
            while True:
                stop = min(one.num_bytes, start + PIECE_BYTES)
                if self._closing.is_set():
                    return
                yield _Piece(one, start, stop)
                start = max(stop, self._ends.get(name, 0))  # further, if all came instead of the part
                if start >= one.num_bytes:
                    break

    def _asked(self, there: Place, piece: _Piece) -> bytes:
        if piece.start >= piece.stop:  # it was cut off when it was whole, but had no name yet
            return b""
        file, url = there / piece.file.name, f"{self.url.rstrip('/')}/{piece.file.name}"
        if shortcut := self._shortcut:
            try:
                return _of(piece, bytes(shortcut.get_range(piece.file.name, start=piece.start, end=piece.stop)), url)
            except Exception:
                self._shortcut = None
        with places.reaching("bring", url):
            for wait_s in (*WAITS_S, None):
                try:
                    return _of(piece, file.files.cat_file(file.path, start=piece.start, end=piece.stop), url)
                except FileNotFoundError as error:
                    need, hint = "a file that its dataset.json names", "eighteen push the dataset again"
                    raise DataError(f"bring {url}", got="nothing there", need=need, hint=hint) from error
                except DataError:
                    raise
                except Exception:  # each filesystem has its own for a connection that breaks
                    if wait_s is None or self._closing.wait(wait_s):
                        raise
        raise AssertionError

    def _put(self, piece: _Piece, answer: Future[bytes], threads: ThreadPoolExecutor) -> Iterator[Future[None]]:
        """Write a piece behind those before it; the last one has its file verified."""
        content, part = answer.result(), _part(self._root / piece.file.name)
        self._has_ranges = self._has_ranges or 0 < len(content) < piece.file.num_bytes - piece.start
        with writing(part, len(content)), part.open("ab") as file:
            file.write(content)
        self._ends[piece.file.name] = piece.start + len(content)
        if piece.start + len(content) >= piece.file.num_bytes:
            yield threads.submit(self._finish, piece.file)

    def _finish(self, one: Stored) -> None:
        """A file gets its name, or is deleted, once; a second time it is an error."""
        path, part = self._root / one.name, _part(self._root / one.name)
        sync_file(part)
        if sha256_of(part) == one.sha256:
            part.rename(path)
            return
        part.unlink()
        self._wrong[one.name] += 1
        if self._wrong[one.name] > 1:
            got, need = "bytes that do not match its digest, twice", "the file that was packed"
            hint = "eighteen check, where the dataset lies; then eighteen push it again"
            raise DataError(f"bring {self.url.rstrip('/')}/{one.name}", got=got, need=need, hint=hint)


def origin(root: Path) -> str | None:
    """Where the files of a copy come from; None of what is no copy, so that all are meant to be there."""
    try:
        return str(json.loads((root / MARK).read_text("utf-8"))["url"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        need, hint = "what eighteen wrote", f"delete {root}, then the same command again"
        raise DataError(f"read {root / MARK}", got=str(error), need=need, hint=hint) from error


def mark(root: Path, url: str) -> None:
    """Say where the files of this copy come from."""
    write_json(root / MARK, {"v": 1, "url": url})


class _Piece(NamedTuple):
    file: Stored
    start: int
    stop: int

    @property
    def is_whole(self) -> bool:
        return self.start == 0 and self.stop == self.file.num_bytes


def _of(piece: _Piece, answer: bytes, url: str) -> bytes:
    """What was asked for, or, out of a whole file that came instead, all from there on."""
    if len(answer) == piece.stop - piece.start:
        return answer
    if len(answer) == piece.file.num_bytes:
        return answer[piece.start :]
    got, need = f"{len(answer):,} bytes at {piece.start:,}", f"{piece.stop - piece.start:,}"
    raise DataError(f"bring {url}", got=got, need=need, hint="eighteen push the dataset again")


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _hint(root: Path) -> str:
    return f"XDG_CACHE_HOME=/another/disk, or delete what is not needed in {root.parent}"
