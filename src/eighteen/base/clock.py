"""What a run has taken, as whoever started it sees it: from the start of the process, over all resumes.

In: when a command began, and what measures its energy. Out: seconds, and joules. What they come to is kept in the run's
``clock.json``, some times a second, so that also what a process has taken that was killed counts.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eighteen.base.energy import Energy

BEGAN = "EIGHTEEN_BEGAN"  # tells the ranks that we start when the command began
KEEP_S = 0.25  # between two writes of ``clock.json``


@dataclass
class Clock:
    """before_s, before_j: what earlier commands have spent; joules are None if they were not measured all the time
    began: when this one did, on CLOCK_MONOTONIC
    energy: what measures it, on the rank that does
    """

    began: float = field(default_factory=time.monotonic)
    before_s: float = 0.0
    before_j: float | None = 0.0
    energy: Energy | None = None
    _kept_at: float = 0.0
    _joules: float | None = None  # when they were last read

    @property
    def seconds(self) -> float:
        return self.before_s + time.monotonic() - self.began

    @property
    def joules(self) -> float | None:
        """Read now, which takes longer than looking at the time; None if a part of them was not measured."""
        here = self.energy and self.energy.joules
        self._joules = None if here is None or self.before_j is None else self.before_j + here
        return self._joules

    def keep(self, path: Path, *, now: bool = False) -> None:
        """Write it down ``now``, or with the joules last read if the last time was a while ago. Nothing waits for the
        disk.
        """
        if now or time.monotonic() - self._kept_at > KEEP_S:
            self._kept_at = time.monotonic()
            joules = self.joules if now else self._joules
            facts = {"began": self.began, "before_s": self.before_s, "seconds": self.seconds, "joules": joules}
            temp = path.with_name(f".{path.name}.tmp")
            temp.write_text(json.dumps(facts), "utf-8")
            temp.replace(path)


def resumed(path: Path, *, began: float, energy: Energy | None = None) -> Clock:
    """The clock of a run that goes on from what ``path`` says.

    A rank that the same command starts again does not count its time twice.
    """
    kept = _read(path)
    if not kept:
        return Clock(began, energy=energy)
    return Clock(began, kept["before_s" if kept["began"] == began else "seconds"], kept["joules"], energy)


def process_began() -> float:
    """When this process did, on CLOCK_MONOTONIC, to some 10 ms: before Python was loaded; now, if nothing says so."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])  # proc(5): starttime
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):  # no Linux
        age = 0.0
    return time.monotonic() - max(0.0, age)


def command_began() -> float:
    """When the command did that this process is a rank of, or the process itself."""
    told = os.environ.get(BEGAN)
    return process_began() if told is None else float(told)


def _read(path: Path) -> dict[str, Any]:
    """What was kept; nothing, where that is not there or was cut off."""
    try:
        kept = json.loads(path.read_text("utf-8"))
        seconds = {key: float(kept[key]) for key in ("began", "before_s", "seconds")}
        joules = kept.get("joules")  # not there in older runs
        return {**seconds, "joules": None if joules is None else float(joules)}
    except (OSError, ValueError, TypeError, KeyError):
        return {}
