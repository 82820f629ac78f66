"""What a person sees while a run trains: a sink for events, live on a terminal and in plain lines elsewhere.

In: events (``base/events.py``). Out: on a terminal one board that is redrawn in place, with warnings above it; in a
pipe, a file, a dumb terminal or CI one line per interval, and one for each phase, evaluation, checkpoint, warning and
the end.
"""

from __future__ import annotations

import os
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from eighteen.base.events import Event
from eighteen.results.board import Board
from eighteen.results.lines import clock, line

INTERVAL_S = 10.0  # between two plain lines about steps
REDRAWS_PER_S = 1  # a redraw takes about 8 ms of a core that the loader may want


class Display:
    """Use it as ``with Display() as display:`` and call ``display(event)`` with each event.

    console: where it goes, standard error if None, so that standard output is left to results. live: True or False
    overrules what the console is. interval_s: between plain lines about steps. Leaving the block, also by Ctrl-C or an
    exception, gives the cursor back and leaves the last state on the screen.
    """

    def __init__(
        self, console: Console | None = None, *, live: bool | None = None, interval_s: float = INTERVAL_S
    ) -> None:
        self._console = console or Console(stderr=True)
        self._board = Board()
        self._interval_s, self._due_s = interval_s, 0.0
        wanted = is_interactive(self._console) if live is None else live
        self._live = Live(self._board, console=self._console, refresh_per_second=REDRAWS_PER_S) if wanted else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, event: Event) -> None:
        self._board.take(event)
        if self._live:
            self._live.start()  # with the first event: before it there is nothing to show
        if self._live is None:
            if self._is_due(event):
                spent = clock(event["time_s"] - self._board.start_s)
                self._print(f"{spent:>8}  {line(event, num_steps=self._board.num_steps)}")
        elif event["event"] in ("warning", "skip", "notice", "restart", "finding", "fixed"):
            self._print(line(event), style="yellow")
        elif event["event"] in ("phase", "epoch", "end"):
            self._live.refresh()

    def _is_due(self, event: Event) -> bool:
        if event["event"] != "step":
            return event["event"] not in ("epoch", "reached")  # the eval before it says the same, and the end sums up
        if event["time_s"] < self._due_s:
            return False
        self._due_s = event["time_s"] + self._interval_s
        return True

    def _print(self, text: str, *, style: str = "") -> None:
        """Over the board the text is wrapped; in a plain stream an event stays one line."""
        self._console.print(Text(text, style), soft_wrap=self._live is None)


def is_interactive(console: Console) -> bool:
    """Whether a display can be redrawn there: a real terminal with a cursor, not a build server that records one."""
    return console.file.isatty() and not console.is_dumb_terminal and not os.environ.get("CI")
