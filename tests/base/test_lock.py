from __future__ import annotations

import subprocess
import sys

import pytest

from eighteen.base import recipe as recipes
from eighteen.base import rundir
from eighteen.base.errors import UsageError
from eighteen.base.lock import alone, alone_if_free, held, holder, unused, used

HOLDS = """
import sys
from pathlib import Path
from eighteen.base.lock import held
from eighteen.base.rundir import RunDir
with held(RunDir(Path(sys.argv[1]))) as is_held:
    print(is_held, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def run(tmp_path):
    return rundir.create(tmp_path, "flowers", recipe=recipes.load("fast"), command="", environment={})


def test_a_run_that_another_process_trains_is_refused_until_that_dies(run):
    command = [sys.executable, "-c", HOLDS, str(run.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        assert other.stdout.readline() == "True\n"
        who = holder(run)
        assert who
        assert who.startswith(f"process {other.pid} on ")
        with pytest.raises(
            UsageError, match=rf"got one that process {other.pid} on .* is training, need a run at rest"
        ):
            held(run).__enter__()
        other.kill()
    assert holder(run) is None
    with held(run) as is_held:
        assert is_held


def test_a_lock_is_free_again_after_its_block_however_that_ends(run):
    assert holder(run) is None
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), held(run):
            raise ZeroDivisionError if holder(run) else AssertionError
    assert holder(run) is None


def test_a_folder_in_use_is_not_unused_and_one_that_was_deleted_is_said(tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    with used(folder) as is_there, used(folder), unused(folder) as is_unused:
        assert (is_there, is_unused) == (True, False)
    with unused(folder) as is_unused:
        assert is_unused
        folder.rmdir()
    folder.mkdir()
    with used(folder) as is_there:
        assert is_there


def test_who_does_not_wait_is_told_that_another_is_at_work(tmp_path):
    with alone_if_free(tmp_path / "lock") as first, alone_if_free(tmp_path / "lock") as second:
        assert (first, second) == (True, False)
    with alone_if_free(tmp_path / "lock") as again:
        assert again


def test_where_there_are_no_locks_a_run_goes_on_and_its_own_word_is_believed(run, monkeypatch):
    def flock(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with held(run) as is_held, alone(run.path):
        assert not is_held
    assert holder(run) is None
    run.heartbeat(state="training")
    assert holder(run) == "another process"
    run.heartbeat(state="stopped")
    assert holder(run) is None
