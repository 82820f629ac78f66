from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eighteen.base.errors import MachineError
from eighteen.data.workers import in_order

# A fresh process must be able to import what it calls, and this file it cannot: hence these standard functions.


@pytest.mark.parametrize("procs", [1, 3])
def test_results_come_in_the_order_of_their_jobs(procs: int) -> None:
    assert list(in_order(abs, range(-50, 0), procs=procs)) == list(range(50, 0, -1))


def test_a_job_s_error_comes_in_its_turn() -> None:
    results = in_order(int, ["1", "2", "three", "4"], procs=2)
    assert [next(results), next(results)] == [1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)


def test_a_killed_process_is_a_clear_error() -> None:
    with pytest.raises(
        MachineError, match=r"one of them was killed .*need processes that live.*\n  Try: the same command again"
    ):
        list(in_order(os._exit, [9, 9, 9], procs=2))


def test_a_script_without_the_main_guard_works(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("from eighteen.data.workers import in_order\nprint(list(in_order(abs, [-1, -2, -3], procs=2)))\n")
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert result.stdout == "[1, 2, 3]\n"
    assert result.stderr == ""


def test_processes_end_with_a_parent_that_was_killed() -> None:
    code = """
import signal
from eighteen.data.workers import in_order
results = in_order(eval, ["__import__('os').getpid()"] * 9, procs=2)
print(next(results), flush=True)
signal.pause()
"""
    # Python says on stderr that the dead parent left semaphores, which it removes.
    command = [sys.executable, "-c", code]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 30
    while _is_alive(worker):
        assert time.monotonic() < deadline, "the worker outlived its parent"
        time.sleep(0.02)  # polling: another process's end cannot be waited for


def _is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")")[1].split()[0] != "Z"
    except OSError:
        return False
