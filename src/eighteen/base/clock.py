"""How long a run has taken, as whoever started it sees it: from the start of the process, over all resumes.

In: when a command began. Out: seconds. What they come to is kept in the run's ``clock.json``, about once a second, so
that also the time of a process that was killed counts.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BEGAN = "EIGHTEEN_BEGAN"  # tells the ranks that we start when the command began
KEEP_S = 1.0  # between two writes of ``clock.json``


@dataclass
class Clock:
    """before_s: what earlier commands have spent      began: when this one did, on CLOCK_MONOTONIC"""

    began: float = field(default_factory=time.monotonic)
    before_s: float = 0.0
    _kept_at: float = 0.0

    @property
    def seconds(self) -> float:
        return self.before_s + time.monotonic() - self.began

    def keep(self, path: Path, *, now: bool = False) -> None:
        """Write it down, if the last time was a while ago, or ``now``. Nothing waits for the disk."""
        if now or time.monotonic() - self._kept_at > KEEP_S:
            self._kept_at = time.monotonic()
            facts = {"began": self.began, "before_s": self.before_s, "seconds": self.seconds}
            temp = path.with_name(f".{path.name}.tmp")
            temp.write_text(json.dumps(facts), "utf-8")
            temp.replace(path)


def resumed(path: Path, *, began: float, saved_s: float = 0.0) -> Clock:
    """The clock of a run that goes on: from what ``path`` says, or from what its checkpoint does if that is more.

    A rank that the same command starts again does not count its time twice.
    """
    kept = _read(path)
    if kept.get("began") == began:
        return Clock(began, kept["before_s"])
    return Clock(began, max(saved_s, kept.get("seconds", 0.0)))


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
        return {key: float(kept[key]) for key in ("began", "before_s", "seconds")}
    except (OSError, ValueError, TypeError, KeyError):
        return {}
