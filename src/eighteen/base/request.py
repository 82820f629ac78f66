"""A request to a run that trains, maybe on another machine: ``RUN/stop.json``, which its first rank looks for."""

from __future__ import annotations

import json
from typing import Literal, get_args

from eighteen.base.files import write_json
from eighteen.base.rundir import RunDir

When = Literal["epoch", "step"]  # at the end of its epoch, or at the next step


def ask(run: RunDir, when: When) -> None:
    write_json(run.stop, {"v": 1, "when": when})


def asked(run: RunDir) -> When | None:
    """What a run is asked for; a file that says something else asks for nothing."""
    try:
        when = json.loads(run.stop.read_text("utf-8"))["when"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return when if when in get_args(When) else None


def clear(run: RunDir) -> None:
    run.stop.unlink(missing_ok=True)
