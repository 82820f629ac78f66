"""Runs commands in this process and writes down what each cost, a line of JSON each: the exit code, what was printed to
standard error, the seconds of processor time, and how many bytes it took at its height beyond what was in use.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
import traceback
from pathlib import Path
from typing import Any

from eighteen.advice.passes import forget_peak_memory, memory_bytes
from eighteen.cli import main


def run(arguments: list[str]) -> dict[str, Any]:
    errors = io.StringIO()
    before, cpu = forget_peak_memory() or 0, time.process_time()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            code = main(arguments)
        except BaseException:
            code, _ = 1, traceback.print_exc()
    return {
        "code": code,
        "said": errors.getvalue(),
        "cpu_s": time.process_time() - cpu,
        "bytes": (memory_bytes("VmHWM") or 0) - before,
    }


def run_all(commands: list[list[str]], results: Path) -> None:
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])  # then no command starts processes: this one does it all
    results.write_text("".join(json.dumps(run(arguments)) + "\n" for arguments in commands))
