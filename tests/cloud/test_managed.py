"""Managed jobs: SkyPilot, which has a stand-in here, rents anew where machines are lost, and training goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from launching import SMALL, until
from test_sky import RENTAL, asked, cloud, verbs  # noqa: F401

import eighteen
from eighteen import cli
from eighteen.base import events, rundir
from eighteen.cloud import managed, sky
from eighteen.cloud.launch import Launch
from eighteen.cloud.mailbox import Mailbox, Note
from eighteen.cloud.managed_job import noted
from eighteen.cloud.sky import Job
from eighteen.cloud.slurm import Ended
from eighteen.training import checkpoint

MANAGED = ["--cloud", "aws", "--gpu", "L4", "--machines", "2", "--spot", "--managed", "--yes"]
COPIES = ["--checkpoint-to", "s3://here/runs"]
LAUNCH = Launch("photos-1", [], sky.OWN_PYTHON, 0, "s3://here/photos.e18", COPIES, "c", "e", 20_000)


@pytest.mark.parametrize(
    ("ended", "is_late", "goes_on", "code", "failures"),
    [
        (Ended(0, "done", False, False, 1), False, False, 0, 1),
        (Ended(75, "stopped", False, False, 2), False, True, 75, 2),  # a machine was taken back
        (Ended(75, "stopped", False, True, 0), False, False, 0, 0),  # by a person
        (Ended(75, "stopped", False, False, 0), True, False, 6, 0),  # by the limit of all
        (Ended(1, "PeerLost", False, False, 0), False, True, 75, 1),
        (Ended(1, None, False, False, 2), False, False, 4, 3),  # three times in a row
        (Ended(1, "DataError", True, False, 0), False, False, 3, 1),
        (Ended(1, "RecipeError", True, False, 0), False, False, 2, 1),
        (Ended(1, "Diverged", False, False, 0), False, False, 5, 1),
        (Ended(1, "cost", False, False, 0), False, False, 6, 1),
    ],
)
def test_what_follows_from_the_end_of_an_attempt(ended, is_late, goes_on, code, failures):
    said = "MachineError: why\n"
    note = noted(ended, attempt=2, step=7, is_late=is_late, said=said)
    why = "MachineError: why" if ended.code else ""
    assert note == Note(2, ended.reason, 7, failures, goes_on, code, why)


def test_skypilot_is_told_what_to_send_to_do_and_when_to_begin_again():
    rental = replace(RENTAL, name="photos-1", setup=sky.setup(sky.OWN_PYTHON, has_tmux=False))
    told = sky.job(rental, LAUNCH, Path("/here/job.tar"))
    assert told["resources"]["job_recovery"] == {"recover_on_exit_codes": [75]}
    assert "autostop" not in told["resources"]
    assert told["file_mounts"] == {"~/.eighteen/photos-1.tar": "/here/job.tar"}
    assert "uv venv" in told["setup"]
    assert "tmux" not in told["setup"]
    assert told["run"].endswith("-m eighteen.cloud.managed_job")


def test_only_jobs_of_ours_are_seen_the_newest_last():
    rows = [("eighteen-a", 3, "RUNNING", 1), ("mine", 2, "RUNNING", 0), ("eighteen-a", 1, "FAILED_SETUP", None)]
    names = ("job_name", "job_id", "status", "recovery_count")
    found = sky.jobs("Starting.\n" + json.dumps([dict(zip(names, row, strict=True)) for row in rows], indent=2))
    assert found == [Job("eighteen-a", 1, "FAILED_SETUP", 0), Job("eighteen-a", 3, "RUNNING", 1)]
    assert [one.is_over for one in found] == [True, False]
    assert str(found[1]) == "job 3: running, begun again 1 times"


@pytest.fixture
def jobs(cloud, monkeypatch):  # noqa: F811
    monkeypatch.setattr(managed, "ASK_S", 0.2)
    yield cloud
    for path in cloud.glob("told-*.json"):
        with suppress(ProcessLookupError, KeyError):
            os.kill(json.loads(path.read_text())["pid"], signal.SIGKILL)


def words(packed, tmp_path, *more):
    place = ["--checkpoint-to", f"file://{tmp_path}/copies", "--procs", "1", "--python", sys.executable]
    return ["launch", f"file://{packed.path}", *MANAGED, *place, *SMALL, *more]


def the_run(tmp_path):
    (path,) = (tmp_path / "runs").iterdir()
    return rundir.open(path)


def said_by(jobs):
    return "".join(path.read_text() for path in jobs.glob("job-*.log"))


@pytest.mark.parametrize(
    ("data", "more", "said"),
    [
        ("photos.e18", COPIES, "got photos.e18, need a dataset at a URL"),
        ("s3://here/photos.e18", [], "need --checkpoint-to at a URL"),
        ("s3://here/photos.e18", ["--checkpoint-to", "/mnt/runs"], "need --checkpoint-to at a URL"),
        ("s3://here/photos.e18", [*COPIES, "--keep"], "got --keep"),
        ("s3://here/photos.e18", [*COPIES, "--after-success", "stop:1m"], "got --after-success"),
        ("s3://here/photos.e18", [*COPIES, "--cheapest"], "both --managed and --cheapest"),
    ],
)
def test_what_no_managed_job_can_be_is_said_before_anybody_is_asked(jobs, data, more, said, capsys):
    assert cli.main(["launch", data, *MANAGED, *more]) == 2
    assert said in capsys.readouterr().err
    assert not asked(jobs)


def test_what_would_be_handed_over_is_shown(packed, jobs, tmp_path, capsys):
    assert cli.main([*words(packed, tmp_path), "--print"]) == 0
    shown = capsys.readouterr().out
    assert "sky jobs launch --name eighteen-" in shown
    assert "at most: 24 h" in shown
    assert sky.CONTROLLER in shown
    assert '"recover_on_exit_codes"' in shown
    assert not asked(jobs)


@pytest.mark.soak_cloud
def test_a_job_that_loses_its_machines_comes_to_the_weights_of_one_that_does_not(packed, jobs, tmp_path, capsys):
    (jobs / "lose").write_text("copies/*/checkpoints/step-000004/commit.json")
    assert cli.main(words(packed, tmp_path, "--epochs", "4", "--set", "train.checkpoint=epoch")) == 0, said_by(jobs)
    shown = capsys.readouterr()
    assert "price: $" in shown.err
    assert "begun again 1 times" in shown.err
    run = the_run(tmp_path)
    assert "resume at step 4  from step-000004" in said_by(jobs)
    alone = eighteen.train(packed, recipe="demo", epochs=4, procs=2, changes=SMALL[3::2], runs_dir=tmp_path / "alone")
    ours, theirs = checkpoint.newest(run), checkpoint.newest(rundir.open(alone.run))
    assert ours.step == theirs.step
    for name, weight in ours.tensors("model").items():
        assert weight.equal(theirs.tensors("model")[name]), name
    assert json.loads((run.path / "launch" / "ended.json").read_text())["reason"] == "done"
    assert {*verbs(jobs)} == {"jobs"}


@pytest.mark.soak_cloud
def test_stop_saves_and_the_same_command_goes_on_also_after_its_launcher_was_killed(packed, jobs, tmp_path, capsys):
    (jobs / "kill").touch()
    command = words(packed, tmp_path, "--epochs", "200", "--set", "train.checkpoint=epoch", "--max-hours", "2")
    process = subprocess.run([sys.executable, "-m", "eighteen", *command], capture_output=True)
    assert process.returncode == -signal.SIGKILL
    until(lambda: [*(tmp_path / "copies").glob("*/checkpoints/*/commit.json")])
    (path,) = (tmp_path / "runs").iterdir()
    assert cli.main(["status", str(path)]) == 0
    assert "job 1: running" in capsys.readouterr().out
    assert cli.main(["stop", str(path)]) == 0
    assert "asked to save and stop" in capsys.readouterr().out
    assert cli.main(command) == 75, said_by(jobs)  # which follows the job that is there
    assert "a request to stop" in capsys.readouterr().err
    end = events.last(the_run(tmp_path).events, "end")
    assert end
    assert end["reason"] == "stopped"
    assert cli.main(["logs", str(path)]) == 0
    assert "epoch" in capsys.readouterr().out
    process = subprocess.Popen([sys.executable, "-m", "eighteen", *command], stderr=subprocess.DEVNULL)
    until(lambda: f"resume at step {end['step']}" in said_by(jobs))
    assert cli.main(["down", str(path)]) == 0
    assert process.wait() == 4
    assert [one["status"] for one in map(json.loads, (path.read_text() for path in sorted(jobs.glob("told-*"))))] == [
        "SUCCEEDED",
        "CANCELLED",
    ]


@pytest.mark.soak_cloud
def test_what_cannot_be_used_is_not_begun_again(packed, jobs, tmp_path, capsys):
    (tmp_path / "gone").mkdir()
    command = words(packed, tmp_path)
    command[1] = f"file://{tmp_path}/gone"
    assert cli.main(command) == 3
    assert "got DataError" in capsys.readouterr().err
    assert Mailbox(f"file://{tmp_path}/copies/{next((tmp_path / 'runs').iterdir()).name}").read().attempt == 1


def test_all_jobs_of_ours_are_cancelled_by_a_sweep(jobs, capsys):
    (jobs / "told-1.json").write_text('{"job_id": 1, "job_name": "mine", "status": "RUNNING", "recovery_count": 0}')
    (jobs / "told-2.json").write_text(
        '{"job_id": 2, "job_name": "eighteen-a", "status": "RUNNING", "recovery_count": 0}'
    )
    assert cli.main(["down", "--all"]) == 0
    assert capsys.readouterr().out == "eighteen-a\n"
    assert ["jobs", "cancel", "--yes", "2"] in asked(jobs)
    assert cli.main(["down", "--all"]) == 0
    assert capsys.readouterr().out == "nothing is rented\n"
