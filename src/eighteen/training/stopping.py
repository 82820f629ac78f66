"""Asking a run by signals: Ctrl-C or SIGTERM once saves and stops, twice ends it now; SIGUSR1 saves and goes on."""

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

    Each SIGUSR1 sets ``save_requested``, which whoever reads it takes back.
    Outside the main thread, where Python delivers no signals, it only carries what is requested.
    """

    def __init__(self) -> None:
        self.requested = self.save_requested = False
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            handlers = {
                signal.SIGINT: self._received,
                signal.SIGTERM: self._received,
                signal.SIGUSR1: self._asked_to_save,
            }
            self._previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self._previous)  # one that was held back comes now
        return self

    def take_save(self) -> bool:
        """Whether saving was asked for since the last call."""
        asked, self.save_requested = self.save_requested, False
        return asked

    def _asked_to_save(self, _number: int, _frame: FrameType | None) -> None:
        self.save_requested = True

    def _received(self, number: int, _frame: FrameType | None) -> None:
        self.requested = True
        self._restore(signal.SIGINT, signal.SIGTERM)  # before a word is said: the next signal may come with it
        os.write(STDERR, SAVING)  # not print, which the signal may have come in the middle of

    def _restore(self, *numbers: signal.Signals) -> None:
        for number in numbers:
            if number in self._previous:
                signal.signal(number, self._previous.pop(number))  # type: ignore[arg-type]  # what signal.signal returned

    def __exit__(self, *_: object) -> None:
        self._restore(*self._previous)
