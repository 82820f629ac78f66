"""How a loader that is compared takes its turns: ``names -> a pass`` goes in, a line of JSON a turn comes out.

Imported by the scripts beside it, each in the environment of its own loader, so it needs the standard library alone. A
line ``CONTENDER<TAB>TASK`` on standard input is answered by the CPU and wall seconds of a pass over all pictures;
between turns the process waits and uses no CPU.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable

BATCH = 256
SIZES = {"crop 128": 128, "crop 224": 224, "val 224": 224}  # tasks; of val, the centre of a short side of 256
MIN_SCALE = 0.08

Pass = Callable[[], int]  # goes through the pictures once, and says how many they were


def serve(prepare: Callable[[str, str], Pass], **versions: str) -> None:
    """Take turns until standard input ends.

    prepare: called with the names of contender and task at their first turn, before the clocks
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever the loader prints is no answer
    passes: dict[tuple[str, str], Pass] = {}
    print(json.dumps(versions), file=answers)
    for line in sys.stdin:
        contender, task = line.strip().split("\t")
        if (contender, task) not in passes:
            passes[contender, task] = prepare(contender, task)
        cpu_s, wall_s = cpu_time(), time.perf_counter()
        pictures = passes[contender, task]()
        wall_s = time.perf_counter() - wall_s
        cpu_s = cpu_time_at_rest() - cpu_s
        print(json.dumps({"pictures": pictures, "cpu_s": cpu_s, "wall_s": wall_s}), file=answers)


def cpu_time_at_rest() -> float:
    """``cpu_time`` once nothing works any more: a loader that runs ahead has by then done a pass's work for a pass."""
    before = cpu_time()
    while True:
        time.sleep(0.05)
        if (now := cpu_time()) - before < 0.001:
            return now
        before = now


def cpu_time() -> float:
    """User and system seconds of this process and of its workers, which must live as long as it does."""
    workers = multiprocessing.active_children()
    return time.process_time() + sum(
        time.clock_gettime(~worker.pid << 3 | 2) for worker in workers
    )  # clock_getcpuclockid(3)
