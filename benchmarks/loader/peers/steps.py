"""How a trainer that is compared takes its turns: the name of a task comes in a line, the seconds of a step go out, by
the wall and as CPU time of the thread that steps.

Imported by the scripts beside it, each in an environment of its own, so it needs the standard library alone. Each turn
is a whole run of ``TOTAL`` steps, of which those from ``FIRST`` on are timed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable

SIZE, BATCH, WIDTHS = 64, 64, (32, 64, 128, 256)
NUM_STEPS = 48  # that are timed, after as many that are not
FIRST, TOTAL = NUM_STEPS + 1, 2 * NUM_STEPS + 2
MEAN, STD = 0.5, 0.25  # of pixels in [0, 1]
MIN_SCALE = 0.35


Clocks = tuple[float, float]  # by the wall, and CPU time of this thread


def clocks() -> Clocks:
    return time.perf_counter(), time.thread_time()


def a_step(began: Clocks, ended: Clocks) -> Clocks:
    """Of those that are timed."""
    return (ended[0] - began[0]) / NUM_STEPS, (ended[1] - began[1]) / NUM_STEPS


def serve(turn: Callable[[str], Clocks], **facts: str) -> None:
    """Take turns until standard input ends; what the trainer prints is no answer."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    print(json.dumps(facts), file=answers)
    for line in sys.stdin:
        _, task = line.strip().split("\t")
        print(json.dumps(dict(zip(("wall_s", "cpu_s"), turn(task), strict=True))), file=answers)
