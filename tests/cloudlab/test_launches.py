"""Launches on hosts that share nothing, from one packed dataset here to a run that lies here."""

from __future__ import annotations

import sys

import pytest
from lab import events, wait_for

import eighteen
from eighteen.base import rundir
from eighteen.training import checkpoint

SMALL = ["--recipe", "demo", "--set", "phases.0.size=32", "--set", "eval.size=32", "--set", "train.log_every=1"]
CHANGES = SMALL[3::2]


@pytest.fixture(scope="session")
def packed(pictures, tmp_path_factory):
    return eighteen.pack(pictures, tmp_path_factory.mktemp("here") / "photos.e18", procs=1)


def launch(packed, *more):
    words = [sys.executable, "-m", "eighteen", "launch", str(packed.path), "--hosts", "node1,node2", "--procs", "1"]
    return [*words, "--python", sys.executable, *SMALL, *more]


def test_two_machines_that_share_nothing_train_what_one_would(lab, packed, tmp_path):
    done = lab.run(launch(packed, "--epochs", "2"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "runs").iterdir()
    assert done.stdout == f"runs/{path.name}\n"
    ours = checkpoint.newest(rundir.open(path))
    alone = eighteen.train(packed, recipe="demo", epochs=2, procs=2, changes=CHANGES, runs_dir=tmp_path / "alone")
    theirs = checkpoint.newest(rundir.open(alone.run))
    assert ours.step == theirs.step
    for name, weight in ours.tensors("model").items():
        assert weight.equal(theirs.tensors("model")[name]), name
