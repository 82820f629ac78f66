"""What a rank says of itself, and what is taken from it."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time

import pytest

from eighteen.training import heartbeat
from eighteen.training.heartbeat import GENEROUS_S, SILENT_S, Beat, Heartbeat, hanging, read

NOW = 1000.0


def beat(alive=1.0, progressed=1.0, limit_s=10.0, step=5, reached=1):
    """alive, progressed: seconds ago"""
    return Beat(NOW - alive, NOW - progressed, 10.0, limit_s, step, reached)


@pytest.mark.parametrize(
    ("beats", "hung"),
    [
        ([], []),
        ([beat(), beat()], []),
        ([beat(), beat(alive=9.9)], []),
        ([beat(), beat(alive=10.1)], [1]),
        ([beat(progressed=11), beat(progressed=9)], []),
        ([beat(progressed=11), beat(progressed=12, step=4)], [1]),
        ([beat(progressed=11, reached=7), beat(progressed=12, reached=2)], [1]),
        ([beat(progressed=11), beat(progressed=12)], [0, 1]),
        ([beat(progressed=11), beat(progressed=99, step=4, limit_s=math.inf)], []),  # its pictures are late
        ([beat(progressed=11), beat(progressed=99, step=4, limit_s=600)], []),
        ([beat(progressed=11), beat(alive=11, progressed=99, limit_s=math.inf)], [1]),
    ],
)
def test_who_hangs(beats, hung):
    assert hanging(dict(enumerate(beats)), NOW) == hung


def test_a_rank_that_has_not_said_a_word_has_time(tmp_path):
    (tmp_path / "empty").touch()
    (tmp_path / "zeros").write_bytes(bytes(8 * len(Beat._fields)))
    for name in ("nothing", "empty", "zeros"):
        silent = {0: read(tmp_path / name, started=NOW)}
        assert hanging(silent, NOW + GENEROUS_S - 1) == []
        assert hanging(silent, NOW + GENEROUS_S + 1) == [0]


def test_a_step_may_take_five_times_the_usual_and_the_first_of_a_phase_as_long_as_it_likes(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: clock[0])
    pulse = Heartbeat(hang_s=10)

    def step(seconds, phase=0):
        pulse.doing("data")
        clock[0] += 50  # late pictures count for nothing
        pulse.doing("step", phase=phase, step=0)
        clock[0] += seconds
        return pulse.now().limit_s

    assert [step(4.0), step(3.0), step(3.0), step(3.0)] == [GENEROUS_S, 20, 17.5, 15]
    assert [step(0.1, phase=1), step(0.1, phase=1)] == [GENEROUS_S, 10]


def test_an_evaluation_of_another_kind_has_another_usual_length(monkeypatch):
    """One with test-time augmentation takes six times as long as those before it."""
    clock = [0.0]
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: clock[0])
    pulse = Heartbeat(hang_s=10)

    def evaluated(seconds, phase):
        limits = []
        for _ in pulse.over(range(3), "evaluate", phase=phase):
            limits.append(pulse.now().limit_s)
            clock[0] += seconds
        return limits

    assert evaluated(3.0, 0) == [GENEROUS_S, 15, 15]
    assert evaluated(3.0, 0) == [15, 15, 15]
    assert evaluated(18.0, -1) == [GENEROUS_S, 90, 90]


@pytest.mark.parametrize(
    ("kind", "silent_s", "limit_s"),
    [("data", 10, math.inf), ("end", SILENT_S, math.inf), ("save", 10, GENEROUS_S), ("evaluate", 10, GENEROUS_S)],
)
def test_how_long_what_may_take(kind, silent_s, limit_s):
    pulse = Heartbeat(hang_s=10)
    pulse.doing(kind)
    assert (pulse.now().silent_s, pulse.now().limit_s) == (silent_s, limit_s)


def test_a_rank_alone_has_time_in_a_step_after_something_else(monkeypatch):
    """The others may still be at it: the first saves, or has more to evaluate."""
    for is_alone, limit_s in ((True, GENEROUS_S), (False, 10)):
        pulse = Heartbeat(hang_s=10, is_alone=is_alone)
        for kind in ("step", "data", "step", "data", "step"):
            pulse.doing(kind)
        assert pulse.now().limit_s == 10
        for kind in ("compare", "save", "data", "step"):
            pulse.doing(kind)
        assert pulse.now().limit_s == limit_s
        for kind in ("data", "step", "compare"):
            pulse.doing(kind)
            assert pulse.now().limit_s == (math.inf if kind == "data" else 10)


def test_what_a_process_says_is_seen_from_another_until_it_is_stopped(tmp_path):
    says = "import sys, time; from pathlib import Path; from eighteen.training.heartbeat import Heartbeat\n"
    says += "with Heartbeat(Path(sys.argv[1])) as pulse: pulse.doing('step', step=3); print(flush=True); time.sleep(60)"
    path = tmp_path / "beat"
    process = subprocess.Popen([sys.executable, "-c", says, path], stdout=subprocess.PIPE)
    try:
        assert process.stdout
        process.stdout.readline()
        first = read(path, started=0)
        assert (first.step, first.reached) == (3, 1)
        while read(path, started=0).alive == first.alive:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGSTOP)
        while (stopped := read(path, started=0)).alive + 1 > time.monotonic():
            time.sleep(0.05)
        assert hanging({0: stopped}, time.monotonic() + 10) == [0]
    finally:
        process.kill()
        process.communicate()
