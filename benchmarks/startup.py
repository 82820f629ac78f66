"""How long ``eighteen --help`` takes, as a whole process: seconds, to be below 0.5."""

from __future__ import annotations

import subprocess
import sys
import time

from record import record, spread

RUNS = 11


def seconds() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "eighteen", "--help"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


if __name__ == "__main__":
    seconds()  # compiles the bytecode
    record("startup", help_s=spread([seconds() for _ in range(RUNS)]))
