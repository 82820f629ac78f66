"""Other machines in place of those that are gone, got beside the training of the rest."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from eighteen.base.errors import MachineError

AGAIN_S = 300.0  # after which it is tried once more, where none were to be had

Say = Callable[[str], object]


class Renewal:
    """One at a time; ``wait`` before machines are given back.

    get: so many, which may take minutes: their names. MachineError if there are none to be had
    """

    def __init__(self, get: Callable[[int], list[str]], say: Say) -> None:
        self._get, self._say = get, say
        self._threads = ThreadPoolExecutor(1)
        self._asked: Future[list[str]] | None = None
        self._not_before = 0.0

    def instead_of(self, num_gone: int) -> list[str]:
        """Those that have come since it was last asked; at once. It begins to get others if any are gone."""
        if self._asked is None:
            if num_gone and time.monotonic() >= self._not_before:
                self._asked = self._threads.submit(self._get, num_gone)
        elif self._asked.done():
            asked, self._asked = self._asked, None
            try:
                return asked.result()
            except MachineError as error:
                self._not_before = time.monotonic() + AGAIN_S
                self._say(f"no other machine: {error.got}; once more in {AGAIN_S / 60:g} minutes")
        return []

    def wait(self) -> None:
        if self._asked and not self._asked.done():
            self._say("waiting for another machine that is being rented, to give it back")
        self._threads.shutdown()
