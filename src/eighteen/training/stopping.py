"""Asking a run to stop: Ctrl-C or SIGTERM once saves and stops, twice ends it now."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Self

STDERR = 2
SAVING = b"\nSaving and stopping; once more stops now, without saving.\n"


class StopSignals:
    """While the block lasts, the first SIGINT or SIGTERM only sets ``requested``; the next is handled as before it.

    Outside the main thread, where Python delivers no signals, it only carries ``requested``.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = {
                number: signal.signal(number, self._received) for number in (signal.SIGINT, signal.SIGTERM)
            }
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self._previous)  # one that was held back comes now
        return self

    def _received(self, number: int, _frame: FrameType | None) -> None:
        self.requested = True
        self._restore()  # before a word is said: the next signal may come with it
        os.write(STDERR, SAVING)  # not print, which the signal may have come in the middle of

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal returned
        self._previous = {}

    def __exit__(self, *_: object) -> None:
        self._restore()
