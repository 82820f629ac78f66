"""The text log of a run, ``log.txt``: a sink that writes each event as one line with its UTC time.

After each epoch stands the tab-separated line of the 2018 program (github.com/cybertronai/imagenet18)::

    ~~epoch	hours	top1	top5
    ~~12	0.03500	91.230	99.810
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TextIO

from eighteen.base.events import Event
from eighteen.base.files import write_atomic
from eighteen.results.lines import line

HEADER = "~~epoch\thours\ttop1\ttop5"
_EPOCH = re.compile(r"~~([\d.e+]+)\t")


class Log:
    """Call it with each event. A resumed run goes on in the same file; each line is in it before the call returns.

    The lines of epochs that are trained again, because their checkpoint was never finished, are taken out.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = self._opened()
        self._num_steps: int | None = None
        if self._file.tell() == 0:
            self._write(HEADER)

    def _opened(self) -> TextIO:
        return self._path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __call__(self, event: Event) -> None:
        self._num_steps = event.get("num_steps", self._num_steps)
        if event["event"] == "resume":
            self._forget_after(event.get("epoch", math.inf))
        if event["event"] == "epoch":
            self._write(epoch_line(event))
        else:
            when = datetime.fromtimestamp(event["time_s"], UTC)
            self._write(f"{when:%Y-%m-%d %H:%M:%S}Z  {line(event, num_steps=self._num_steps)}")

    def _forget_after(self, epoch: float) -> None:
        lines = self._path.read_text("utf-8", errors="replace").split("\n")
        whole = lines[:-1]  # a last one without its end is what the run was killed in
        kept = [line for line in whole if not (found := _EPOCH.match(line)) or float(found[1]) <= epoch]
        if [*kept, ""] != lines:
            self._file.close()
            write_atomic(self._path, "".join(f"{line}\n" for line in kept))
            self._file = self._opened()

    def _write(self, text: str) -> None:
        self._file.write(text + "\n")


def epoch_line(event: Event) -> str:
    r"""``~~EPOCH\tHOURS\tTOP1\tTOP5``, scores in percent; ``nan`` if not measured, so that columns stay numbers."""
    epoch, hours, top1, top5 = (_or_nan(event.get(name)) for name in ("epoch", "hours", "top1", "top5"))
    return f"~~{epoch:g}\t{hours:.5f}\t{top1:.3f}\t{top5:.3f}"


def _or_nan(value: Any) -> float:
    return math.nan if value is None else value
