"""Machines that share nothing but a network: two folders here, whose ranks never look into each other's."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys

import pytest
from small_runs import NUM_STEPS, differing, pictures, recipe, saved, train

import eighteen
from eighteen.base import recipe as recipes
from eighteen.base import rundir
from eighteen.training import checkpoint


@pytest.fixture
def machines(data, tmp_path):
    """Two folders, each with a dataset of its own."""
    for name in "ab":
        shutil.copytree(data.path, tmp_path / name / "photos.e18")
        (tmp_path / name / "mine.toml").write_text(recipes.dump(recipe()))
    return [tmp_path / "a", tmp_path / "b"]


def together(machines, *words):
    """The same command on each machine, one rank on each: exit codes, and what each said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "GLOO_SOCKET_IFNAME": "lo"}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-m", "eighteen", "train", *words]
    ranks = [
        subprocess.Popen(
            command,
            cwd=machine,
            env={**os.environ, **world, **meeting, "RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, machine in enumerate(machines)
    ]
    said = [rank.communicate(timeout=120)[1] for rank in ranks]
    return [rank.returncode for rank in ranks], said


def only_run(machine):
    (path,) = (machine / "runs").iterdir()
    return rundir.open(path)


def test_a_run_on_machines_that_share_nothing_is_that_of_one_machine(machines, data, tmp_path):
    codes, said = together(machines, "photos.e18", "--recipe", "mine.toml")
    assert codes == [0, 0], said
    ours, theirs = map(only_run, machines)
    assert ours.path.name == theirs.path.name
    assert theirs.recipe.read_text() == ours.recipe.read_text()
    assert not theirs.events.exists()  # the first rank writes the run
    assert differing(saved(theirs.path), saved(ours.path)) == []  # but each machine keeps its checkpoints
    alone = train(data, tmp_path / "one", procs=2)
    assert differing(saved(ours.path), saved(alone.run)) == []


def test_what_another_machine_has_newer_is_where_the_run_goes_on(machines):
    """The first one has none at all."""
    codes, said = together(machines, "photos.e18", "--recipe", "mine.toml")
    assert codes == [0, 0], said
    ours, theirs = map(only_run, machines)
    shutil.rmtree(ours.checkpoints)
    ours.checkpoints.mkdir()
    ours.events.unlink()
    codes, said = together(machines, "--resume", f"runs/{ours.path.name}")
    assert codes == [0, 0], said
    assert checkpoint.newest(ours).step == checkpoint.newest(theirs).step == NUM_STEPS


def test_a_run_outlives_the_machine_that_wrote_it(machines):
    """The first machine is gone, another takes its place: nothing but what the second one kept is left."""
    codes, said = together(machines, "photos.e18", "--recipe", "mine.toml", "--set", "train.checkpoint=epoch")
    assert codes == [0, 0], said
    theirs = only_run(machines[1])
    shutil.rmtree(checkpoint.newest(theirs).path)
    shutil.rmtree(machines[0] / "runs")
    codes, said = together(machines[::-1], "photos.e18", "--resume", f"runs/{theirs.path.name}")
    assert codes == [0, 0], said
    ours = only_run(machines[0])
    assert checkpoint.newest(ours).step == checkpoint.newest(theirs).step == NUM_STEPS
    assert theirs.events.exists()


def test_machines_that_see_one_folder_write_it_once(machines, data, tmp_path):
    (tmp_path / "runs").mkdir()
    for machine in machines:
        (machine / "runs").symlink_to(tmp_path / "runs")
    codes, said = together(machines, "photos.e18", "--recipe", "mine.toml")
    assert codes == [0, 0], said
    alone = train(data, tmp_path / "one", procs=2)
    assert differing(saved(only_run(machines[0]).path), saved(alone.run)) == []


def test_another_dataset_on_another_machine_is_refused_before_the_first_step(machines):
    others = {"train": pictures(104, seed=9), "val": pictures(24, seed=8)}
    eighteen.pack(others, machines[1] / "photos.e18", procs=1, force=True)
    codes, said = together(machines, "photos.e18", "--recipe", "mine.toml")
    assert codes == [7, 3], said
    assert "an error on rank 1" in said[0]
    assert "another dataset than on the first rank's machine" in said[1]
