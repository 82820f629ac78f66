"""The words of a small launch on two machines, waiting for what it says, and what it has left."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

HOSTS = "localhost,127.0.0.1"
SMALL = ["--recipe", "demo", "--set", "phases.0.size=32", "--set", "eval.size=32", "--set", "train.log_every=1"]


def begun(packed, *more, preflight="--no-preflight"):
    words = ["launch", str(packed.path), "--hosts", HOSTS, "--python", sys.executable, "--procs", "1", preflight]
    return [*words, *SMALL, *more]


def wait_for(process, text):
    assert process.stderr
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"it ended without {text!r}")


def until(is_so, limit_s=180.0):
    """Waits for what processes do that nobody is told of."""
    ends = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < ends, f"not so in {limit_s:g} s"
        time.sleep(0.05)


def alive(machines):
    """The processes of launches on these machines, and their watches: they carry it in their environment."""
    marks = [f"{name}={machines}/".encode() for name in ("EIGHTEEN_LAUNCH", "EIGHTEEN_WATCH")]
    found = []
    for place in Path("/proc").iterdir():
        with suppress(OSError):
            if place.name.isdigit() and any(mark in (place / "environ").read_bytes() for mark in marks):
                found.append(int(place.name))
    return found


def power_off(home):
    """All that runs there ends at once, and the disk is gone."""
    mark = f"TMUX_TMPDIR={home}".encode()
    for place in Path("/proc").iterdir():
        with suppress(OSError):
            if place.name.isdigit() and mark in (place / "environ").read_bytes():
                os.kill(int(place.name), signal.SIGKILL)
    shutil.rmtree(home, ignore_errors=True)
