"""``kill -9`` of the launch program at any moment: the same command goes on, and comes to the same end."""

from __future__ import annotations

import random
import signal
import time

import pytest
from lab import CHANGES, Launched, launch, wait_until

import eighteen
from eighteen.base import rundir
from eighteen.training import checkpoint

KILLS = 10
EPOCHS = 60


@pytest.mark.soak_cloud
def test_a_launch_program_killed_at_any_moment_is_gone_on_with(lab, packed, tmp_path):
    """Each kill is a number of printed lines after its start, which grows from kill to kill, and then a random time."""
    draw, words = random.Random(18), launch(packed.path, "--epochs", str(EPOCHS))
    for number in range(KILLS):
        launched, lines, seconds = Launched(lab, words, cwd=tmp_path), number + draw.randrange(3), draw.uniform(0, 3)
        wait_until(lambda launched=launched, lines=lines: launched.said.count("\n") >= lines or launched.has_ended)
        time.sleep(seconds)  # a random moment
        ended = launched.has_ended
        launched.end(signal.SIGKILL)
        print(f"kill {number + 1}, {seconds:.2f} s after {lines} lines: {launched.said.splitlines()[-1:]}")
        assert not ended, launched.said
    last = Launched(lab, words, cwd=tmp_path)
    assert last.end() == 0, last.said
    ours = checkpoint.newest(rundir.open(last.run))
    runs, changes = tmp_path / "alone", CHANGES
    alone = eighteen.train(packed, recipe="demo", epochs=EPOCHS, procs=2, changes=changes, runs_dir=runs)
    theirs = checkpoint.newest(rundir.open(alone.run))
    assert ours.step == theirs.step
    for name, weight in ours.tensors("model").items():
        assert weight.equal(theirs.tensors("model")[name]), name
