"""Writes one checkpoint at a time in a thread of its own, while training goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Write = Callable[[], "Saved"]


@dataclass(frozen=True)
class Saved:
    """A committed checkpoint: its folder, its size, how long writing took, and whether it is the best so far.

    not_copied: why there is no copy of it where the recipe wants one
    """

    path: Path
    step: int
    num_bytes: int
    seconds: float
    is_best: bool
    not_copied: str | None = None


class Writer:
    """Runs ``write`` functions, one after the other. What each returned, or the OSError it raised, is handed to
    ``tell``, by the thread that calls ``start``, ``poll`` or ``wait``.
    """

    def __init__(self, tell: Callable[[Saved | OSError], None]) -> None:
        self._tell = tell
        self._thread: threading.Thread | None = None
        self._outcome: Saved | BaseException | None = None

    def start(self, write: Write) -> None:
        """Begin to write; waits until the write before it has ended."""
        self.wait()
        # No daemon: a process that ends as it should ends what it has begun to write.
        self._thread = threading.Thread(target=self._run, args=(write,), name="eighteen-writer")
        self._thread.start()

    def poll(self) -> None:
        """Tell of a write that has ended. Does not wait."""
        if self._thread is not None and not self._thread.is_alive():
            self.wait()

    def wait(self) -> None:
        """Tell of a write when it has ended. Raises what is no OSError."""
        if self._thread is None:
            return
        self._thread.join()
        self._thread, outcome, self._outcome = None, self._outcome, None
        if not isinstance(outcome, Saved | OSError):
            assert outcome is not None  # _run leaves one, whatever happens
            raise outcome
        self._tell(outcome)

    def _run(self, write: Write) -> None:
        try:
            self._outcome = write()
        except BaseException as error:
            self._outcome = error
