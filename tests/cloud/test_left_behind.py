"""Whatever becomes of the program that began a launch, its machines end by themselves, and the same command goes on."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launching import alive, begun, until

from eighteen import cli
from eighteen.base import events

SWEPT_S = 180.0
MOMENTS = sorted(random.Random(18).sample(range(1, 46), 10))  # about as many as there are in such a launch
LIMITED = ["--epochs", "4", "--power-off", "--after-success", "stop:20s", "--after-failure", "stop:20s"]
CUT_SHORT = str(Path(__file__).with_name("cut_short.py"))


def swept(machines):
    """Nothing is alive any more; each machine that was prepared has powered off, once. Returns how long that took."""
    began = time.monotonic()

    def is_swept():
        watched = [kept.parents[3] for kept in machines.glob("*/.eighteen/launches/*/limits.json")]
        return all((home / "off").exists() for home in watched) and not alive(machines)

    until(is_swept, SWEPT_S)
    for off in machines.glob("*/off"):
        assert off.read_text() == "-h now\n"
        off.unlink()
    print(f"nothing left after {time.monotonic() - began:.0f} s")


def power_on(machines):
    for cut in machines.glob("*/cut"):
        cut.unlink()


def test_nothing_is_left_of_a_launch_that_was_killed_before_it_trained(packed, machines):
    cut = subprocess.run([sys.executable, CUT_SHORT, "9", "8", *begun(packed, *LIMITED)], stderr=subprocess.PIPE)
    assert cut.returncode == -signal.SIGKILL, cut.stderr.decode()
    assert alive(machines)
    swept(machines)


@pytest.mark.soak_cloud
@pytest.mark.parametrize(
    ("number", "moment"),
    [*((signal.SIGKILL, one) for one in MOMENTS), *((signal.SIGINT, one) for one in MOMENTS[::4])],
)
def test_nothing_is_left_of_a_launch_that_was_cut_short_and_it_goes_on(packed, machines, tmp_path, number, moment):
    command = begun(packed, *LIMITED)
    cut = subprocess.run([sys.executable, CUT_SHORT, str(int(number)), str(moment), *command], stderr=subprocess.PIPE)
    assert cut.returncode in (-signal.SIGKILL, 130, 0), cut.stderr.decode()
    swept(machines)
    power_on(machines)
    assert cli.main(command) == 0
    (path,) = (tmp_path / "runs").iterdir()
    assert [one["reason"] for one in events.read(path / "events.jsonl") if one["event"] == "end"][-1] == "done"
    assert cli.main(["down", str(path)]) == 0
    assert not alive(machines)


@pytest.mark.soak_cloud
@pytest.mark.parametrize(("more", "code"), [((), 0), (("--model", "not_there:net"), 4)])
def test_nothing_is_left_of_a_launch_that_came_to_its_end(packed, machines, more, code):
    assert cli.main(begun(packed, *LIMITED, *more)) == code
    swept(machines)
