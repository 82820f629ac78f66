"""Launches on a cluster: what is decided by tables, the script by a real shell, the rest on a real Slurm."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from contextlib import ExitStack, nullcontext
from dataclasses import replace

import pytest
import small_cluster
from launching import wait_for

import eighteen
from eighteen import cli
from eighteen.base import events, rundir
from eighteen.base.errors import BudgetSpent, Diverged, MachineError, Stopped, UsageError
from eighteen.base.rundir import RunDir
from eighteen.cloud import cluster, parcel, slurm_job
from eighteen.cloud.slurm import (
    Ended,
    Job,
    Queued,
    goes_on,
    is_refused,
    minutes,
    next_action,
    options,
    queued,
    rank_environment,
    script,
)
from eighteen.training import checkpoint

SMALL = ["--recipe", "demo", "--set", "phases.0.size=32", "--set", "eval.size=32", "--set", "train.log_every=1"]
JOB = Job("photos-1", "", 2, 8, "gpu", "python", "/work", "/photos.e18", ["--epochs", "1"], False, [], None, "c")
FAILED = Ended(code=7, reason="PeerLost", is_refused=False, is_asked=False, failures=0)
WAITS, TRAINS = Queued(7, "PENDING", "Priority", ""), Queued(7, "RUNNING", "None", "n[1-2]")
LOST = replace(TRAINS, state="TIMEOUT")


@pytest.mark.parametrize(
    ("job", "lines", "not_there"),
    [
        (
            JOB,
            ["nodes=2", "ntasks-per-node=8", "gpus-per-node=8", "requeue", "signal=TERM@120", "job-name=photos-1"],
            "time",
        ),
        (
            replace(JOB, partition="gpu", minutes=90, options=["account=a"]),
            ["partition=gpu", "time=90", "account=a"],
            "x",
        ),
        (replace(JOB, device="cpu"), ["open-mode=append", "output=out.log"], "gpus-per-node"),
    ],
)
def test_slurm_is_asked_for_what_the_ranks_need(job, lines, not_there):
    asked = {line.removeprefix("#SBATCH --") for line in script(job, "/run").splitlines() if line.startswith("#SBATCH")}
    assert set(lines) <= asked
    assert not_there not in {line.partition("=")[0] for line in asked}


STUB = """#!/usr/bin/env python3
import json, os, sys
with open(os.environ["TOLD"], "a") as file:
    print(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]), file=file)
sys.exit(75) if "srun" in sys.argv[0] else print("digest")
"""


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """Runs a script as a node does, with stand-ins for Slurm and Python: what each was started with."""
    for name in ("bin/srun", "my env/python"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(STUB)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "bin" / "python3").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("TOLD", str(tmp_path / "told"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    def run(job, folder):
        text = script(replace(job, python=str(tmp_path / "my env" / "python"), folder=str(tmp_path)), str(folder))
        done = subprocess.run(["sh", "-s"], input=text, capture_output=True, text=True, cwd=tmp_path)
        assert not done.stderr
        return [json.loads(line) for line in (tmp_path / "told").read_text().splitlines()]

    return run


@pytest.mark.parametrize("machines", [1, 2])
def test_nothing_in_a_name_is_done_by_the_shell(shell, tmp_path, machines):
    run = tmp_path / "it's $(touch x) run"
    words = ["--set", "a=$(touch y)", "--until", "top1=0.9; touch z", "--epochs", "1"]
    job = replace(JOB, machines=machines, dataset="/my `touch w`.e18", words=words, has_recipe=True, device="cpu")
    begin, srun, ended = shell(job, run)
    module = ["-m", "eighteen.cloud.slurm_job"]
    assert begin == ["python", *module, "begin", str(run)]
    own = srun[srun.index("-m") :]
    assert own[:6] == [*module, "rank", str(run), "digest", "/my `touch w`.e18"]
    assert own[6:] == [*words, "--recipe", f"{run}/launch/recipe.toml", "--into", str(run)]
    assert ended == ["python", *module, "ended", str(run), "75"]
    assert {path.name for path in tmp_path.iterdir()} == {"bin", "my env", "told"}


def test_a_run_that_has_begun_goes_on(shell, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "env.json").touch()
    _, srun, _ = shell(JOB, run)
    assert srun[-3:] == ["digest", "--resume", str(run)]


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({}, ["3", "4", "1", "2", "10.0.0.1", "20084"]),
        ({"SLURM_RESTART_COUNT": "2"}, ["3", "4", "1", "2", "10.0.0.1", "20086"]),
    ],
)
def test_a_task_is_a_rank(told, expected):
    environ = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_NODES": "2"}
    environ |= {"SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1", "SLURM_JOB_ID": "12", **told}
    names = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"]
    assert rank_environment(environ) == dict(zip(names, expected, strict=True))


@pytest.mark.parametrize(
    ("ended", "expected"),
    [
        (replace(FAILED, code=0, reason="done"), False),
        (replace(FAILED, code=75, reason="stopped"), True),  # Slurm wants its machines, or the time is over
        (replace(FAILED, code=75, reason="stopped", failures=2), True),
        (replace(FAILED, code=75, reason="stopped", is_asked=True), False),
        (replace(FAILED, code=75, reason="Stopped"), True),  # a rank lost the others
        (replace(FAILED, code=75, reason="Stopped", failures=2), False),
        (FAILED, True),
        (replace(FAILED, failures=2), False),
        (replace(FAILED, code=137, reason=None), True),
        (replace(FAILED, code=143, reason=None, is_asked=True), False),
        (replace(FAILED, reason="Diverged"), False),  # the first rank told why, another one's code is higher
        (replace(FAILED, reason="cost"), False),
        (replace(FAILED, reason=None, is_refused=True), False),
    ],
)
def test_a_job_goes_on_where_that_helps(ended, expected):
    assert goes_on(ended) is expected


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("== attempt 1 on n1\nRecipeError: no\n  Try: x\n", True),
        ("== attempt 1 on n1\nUsageError: no\n== attempt 2 on n1\nMachineError: no\n", False),
        ("warning: an UsageError: \n", False),
        ("", False),
    ],
)
def test_what_was_refused_is_told_by_the_last_attempt(log, expected):
    assert is_refused(log) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("7|PENDING|Priority|\n", WAITS),
        ("6|FAILED|NonZeroExitCode|n1\n7|RUNNING|None|n[1-2]\n", TRAINS),
    ],
)
def test_a_job_is_the_newest_in_the_queue(text, expected):
    assert queued(text) == expected


@pytest.mark.parametrize(
    ("job", "is_begun", "reason", "expected"),
    [
        (None, False, None, "submit"),
        (WAITS, False, None, "follow"),  # this program was killed before it knew the number
        (TRAINS, False, "stopped", "follow"),
        (replace(TRAINS, state="COMPLETING"), True, "done", "follow"),
        (LOST, False, None, "submit"),
        (LOST, True, None, "finish"),
        (None, True, None, "finish"),
        (None, False, "stopped", "submit"),
        (None, False, "done", "finish"),  # while nobody looked
    ],
)
def test_what_is_done_next_follows_from_the_queue(job, is_begun, reason, expected):
    assert next_action(job, is_begun=is_begun, reason=reason) == expected


def test_a_job_is_told_in_a_line():
    assert [str(one) for one in (WAITS, TRAINS)] == ["job 7: pending (Priority)", "job 7: running on n[1-2]"]


@pytest.mark.parametrize(
    ("hours", "time_s", "expected"), [(None, None, None), (None, 18 * 60, 33), (1.5, 18 * 60, 90), (0.07, None, 5)]
)
def test_time_limits(hours, time_s, expected):
    assert minutes(hours, time_s) == expected


def test_options_of_sbatch_are_names_with_values_and_not_ours():
    assert options(["account=a", "--exclusive", "gres=gpu:1"]) == ["account=a", "exclusive", "gres=gpu:1"]
    for wrong in ("", "-A", "comment=a b", "comment=$'x'", "a=b\n#SBATCH --uid=0", "comment='x'", "a=b#"):
        with pytest.raises(UsageError, match="an option of sbatch, its long name"):
            options([wrong])
    with pytest.raises(UsageError, match="--machines, --gpus or --procs"):
        options(["nodes=4"])
    with pytest.raises(UsageError, match=r"at least 0\.067"):
        minutes(0.01, None)


@pytest.fixture
def run(tmp_path):
    """One whose job was submitted, after a checkpoint at step 4."""
    run = RunDir(tmp_path / "photos-1")
    (run.path / "launch").mkdir(parents=True)
    (run.path / "launch" / "out.log").write_text("== attempt 1 on n1\n")
    cluster.keep(run, replace(JOB, code=parcel.digest()))
    run.event("checkpoint", step=4, path="step-000004", bytes=1, seconds=1.0, best=False)
    return run


@pytest.fixture
def requeued(tmp_path, monkeypatch):
    """What scontrol was asked for."""
    file, program = tmp_path / "asked", tmp_path / "bin" / "scontrol"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >>{shlex.quote(str(file))}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    return lambda: file.read_text().splitlines() if file.exists() else []


def test_failures_are_counted_until_there_is_a_new_checkpoint(run, requeued, capsys):
    assert [slurm_job.ended(run, "7"), slurm_job.ended(run, "137")] == [7, 137]
    assert requeued() == ["requeue 12"] * 2
    assert "failed with 137, 2 of 3 times at step 4" in capsys.readouterr().out
    run.event("checkpoint", step=6, path="step-000006", bytes=1, seconds=1.0, best=False)
    assert [slurm_job.ended(run, "7") for _ in range(3)] == [7, 7, 7]
    assert len(requeued()) == 4  # the third in a row at step 6 was the last


def test_a_job_that_a_person_stops_stays_out_of_the_queue(run, requeued):
    run.event("end", reason="stopped", step=4, exit_code=75)
    assert slurm_job.ended(run, "75") == 75
    assert requeued() == ["requeue 12"]
    slurm_job.stop_file(run).touch()
    assert slurm_job.ended(run, "75") == 75
    assert requeued() == ["requeue 12"]


def test_a_rank_with_another_program_or_a_stop_does_not_train(run, capsys):
    words = [sys.executable, "-m", "eighteen.cloud.slurm_job", "rank", str(run.path)]
    other = subprocess.run([*words, "another"], capture_output=True, text=True)
    assert other.returncode == 4
    assert f"got the program {parcel.digest()}, need another, as the others" in other.stderr
    slurm_job.stop_file(run).touch()
    assert subprocess.run([*words, parcel.digest()]).returncode == 75
    assert slurm_job.begin(run) == 0
    cluster.keep(run, JOB)
    slurm_job.begin(run)
    told = capsys.readouterr()
    assert told.out == f"{parcel.digest()}\n" * 2
    assert told.err.count("warning: the program is another one") == 1


@pytest.mark.parametrize(
    ("state", "reason", "log", "raised", "said", "is_over"),
    [
        ("COMPLETED", "done", "", None, "", True),
        ("FAILED", "stopped", "", Stopped, "the same command goes on", False),
        ("FAILED", "Diverged", "", Diverged, "eighteen logs", True),
        ("FAILED", "cost", "", BudgetSpent, "eighteen logs", True),
        ("TIMEOUT", None, "== attempt 1 on n1\n", MachineError, "got job 7: timeout on n1; == attempt 1", False),
        ("FAILED", None, "UsageError: no\n  Try: x\nended with 2", MachineError, "UsageError: no", False),
        ("FAILED", None, "", MachineError, "need a folder that all nodes share", False),
    ],
)
def test_a_job_ends_as_its_run_did(tmp_path, monkeypatch, state, reason, log, raised, said, is_over):
    run = RunDir(tmp_path / "photos-1")
    (run.path / "launch").mkdir(parents=True)
    (run.path / "launch" / "out.log").write_text(log)
    for name, answer in {"squeue": f"7|{state}|None|n1", "sbatch": "7;cluster"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{answer}'\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    if reason:
        run.event("end", reason=reason, step=4, exit_code=1)
    with pytest.raises(raised, match=said) if raised else nullcontext():
        cluster.follow(run, JOB, on_event=None, say=print)
    assert (run.path / "launch" / "ended.json").exists() == is_over
    assert (run.path / "launch" / "job.json").exists() == (not is_over)  # what is over is not submitted again


def test_slurm_may_be_silent_for_a_while(tmp_path, monkeypatch):
    program, answers = tmp_path / "squeue", tmp_path / "answers"
    program.write_text(
        f'#!/bin/sh\necho >>{shlex.quote(str(answers))}\ntest "$(wc -l <{shlex.quote(str(answers))})" -ge 3 '
        "&& echo '7|RUNNING|None|n1' && exit\n"
        "echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2; exit 1\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(cluster, "LOOK_S", 0.0)
    assert cluster.patiently(JOB) == Queued(7, "RUNNING", "None", "n1")
    answers.unlink()
    monkeypatch.setattr(cluster, "SILENT_S", -1.0)
    with pytest.raises(cluster.Silent, match="Unable to contact slurm controller"):
        cluster.patiently(JOB)


@pytest.fixture(scope="module")
def packed(pictures, tmp_path_factory):
    return eighteen.pack(pictures, tmp_path_factory.mktemp("here") / "my photos.e18", procs=1)


def command(packed, *more):
    return ["launch", str(packed.path), "--slurm", "default", *SMALL, *more]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["launch", "DATA"], 2, "got no machines, need one of --hosts, --slurm"),
        (["launch", "DATA", "--slurm", "gpu", "--hosts", "a"], 2, "got --hosts and --slurm"),
        (
            ["launch", "DATA", "--hosts", "a", "--machines", "2"],
            2,
            "got --machines, need it with --slurm or --cloud only",
        ),
        (["launch", "DATA", "--slurm", "gpu", "--python", "python3.12"], 2, "leave out --python"),
        (["launch", "DATA", "--slurm", "gpu", "--machines", "0"], 2, "--machines: got 0"),
        (["launch", "DATA", "--slurm", "a b"], 2, "need a partition that sinfo shows"),
        (["launch", "nowhere.e18", "--slurm", "gpu"], 3, "nowhere.e18"),
        (["launch", "DATA", "--slurm", "gpu", "--recipe", "demo"], 4, "got no squeue here"),
    ],
)
def test_what_cannot_be_launched_is_said(packed, tmp_path, monkeypatch, capsys, words, code, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main([str(packed.path) if word == "DATA" else word for word in words]) == code
    assert said in capsys.readouterr().err


def test_a_script_is_shown_and_nothing_is_done(packed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(command(packed, "--machines", "3", "--sbatch", "account=vision", "--print")) == 0
    shown = capsys.readouterr().out
    for line in ("#SBATCH --nodes=3", "#SBATCH --account=vision", "sbatch --parsable job.sh"):
        assert f"\n{line}\n" in shown
    assert not [*tmp_path.iterdir()]


def test_the_same_command_is_the_same_job(packed, tmp_path):
    asked = {"partition": "default", "machines": 2, "gpus": 8, "procs": None, "words": ["--epochs", "1"], "name": None}
    job = cluster.wanted(str(packed.path), **asked, recipe=None, hours=None, time_=None, sbatch=[])
    run, named = cluster.prepared(job, recipe=None, runs_dir=tmp_path, new=False)
    assert named == replace(job, name=run.path.name)
    assert cluster.prepared(replace(job, code="newer"), recipe=None, runs_dir=tmp_path, new=False) == (run, named)
    run.path.rename(tmp_path / "my-photos-20200101T000000Z")
    other, _ = cluster.prepared(replace(job, machines=3), recipe=None, runs_dir=tmp_path, new=False)
    assert other.path != tmp_path / "my-photos-20200101T000000Z"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    if why := small_cluster.why_not():
        pytest.skip(why)
    with ExitStack() as stack:
        try:
            stack.enter_context(small_cluster.cluster(tmp_path_factory.mktemp("slurm")))
        except TimeoutError as error:
            pytest.skip(f"Slurm does not start here: {error}")
        yield


@pytest.fixture
def here(nodes, tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    monkeypatch.setattr(cluster, "LOOK_S", 0.2)
    monkeypatch.setattr(cluster, "ASK_S", 1.0)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def began(words):
    return subprocess.Popen([sys.executable, "-m", "eighteen", *words], stderr=subprocess.PIPE, text=True)


def number_of(run):
    return str(json.loads((run / "launch" / "job.json").read_text())["number"])


def told(run):
    return [one["event"] for one in events.read(run / "events.jsonl")]


@pytest.mark.soak_cloud
def test_a_run_goes_on_whatever_happens_to_its_job(packed, here, capsys):
    """The launcher killed; the job warned as before its time limit, put back by a person, put off by a more urgent one.

    In the end the weights are those of two ranks that nobody disturbed, and there was one job.
    """
    words = command(packed, "--machines", "2", "--procs", "1", "--epochs", "60")
    killed = began(words)
    wait_for(killed, "  checkpoint ")
    killed.kill()
    killed.communicate()
    (path,) = (here / "runs").iterdir()
    number = number_of(path)
    follows = began(words)
    subprocess.run(["scancel", "--signal=TERM", number], check=True)
    wait_for(follows, "  resume ")
    wait_for(follows, "  checkpoint ")
    subprocess.run(["scontrol", "requeue", number], check=True)
    wait_for(follows, "  resume ")
    wait_for(follows, "  checkpoint ")
    urgent = [
        "sbatch",
        "--parsable",
        "--partition=urgent",
        "--nodes=2",
        "--exclusive",
        "--output=/dev/null",
        "--wrap=true",
    ]
    subprocess.run(urgent, check=True, capture_output=True)
    wait_for(follows, "  resume ")
    follows.communicate()
    assert follows.returncode == 0
    assert told(path).count("resume") == 3
    assert number_of(path) == number
    assert not (path / "launch" / "failures.json").exists()
    changes = [word for word in SMALL[2:] if word != "--set"]
    alone = eighteen.train(packed, recipe="demo", epochs=60, procs=2, changes=changes, runs_dir=here / "alone")
    ours, theirs = (checkpoint.newest(rundir.open(run)) for run in (path, alone.run))
    assert ours.step == theirs.step
    for name, weight in ours.tensors("model").items():
        assert weight.equal(theirs.tensors("model")[name])
    assert cli.main(["status", str(path)]) == 0
    assert "done, step" in capsys.readouterr().out
    assert cli.main(["logs", str(path)]) == 0
    assert "ended with 0" in capsys.readouterr().out
    assert cli.main(["logs", str(path), "--host", "n1"]) == 2


@pytest.mark.soak_cloud
def test_a_job_is_stopped_and_ended_by_a_person(packed, here, capsys):
    """On one node, whose two ranks meet in a file: one dies, then it is stopped while it trains and while it waits."""
    words = command(packed, "--procs", "2", "--epochs", "200", "--runs-dir", "my runs")
    stopped = began(words)
    wait_for(stopped, "  checkpoint ")
    (path,) = (here / "my runs").iterdir()
    listening = small_cluster.said("ss", "-ltnpH")
    first, _, _ = (path / "lock").read_text().partition(" ")
    os.kill(int(first), signal.SIGKILL)
    wait_for(stopped, "  resume ")
    wait_for(stopped, "  checkpoint ")
    assert json.loads((path / "launch" / "failures.json").read_text())["failures"] == 1
    assert cli.main(["stop", str(path)]) == 0
    assert stopped.communicate()[0] is None
    assert stopped.returncode == 75
    assert told(path).count("checkpoint") >= 1
    assert not [line for line in listening.splitlines() if "python" in line and "127.0.0.1:" not in line.split()[3]]
    subprocess.run(["scontrol", "update", "partition=work", "state=DOWN"], check=True)
    waits = began(words)
    wait_for(waits, "pending")
    assert cli.main(["stop", str(path)]) == 0
    waits.communicate()
    assert waits.returncode == 75
    subprocess.run(["scontrol", "update", "partition=work", "state=UP"], check=True)
    goes_on = began(words)
    wait_for(goes_on, "  resume ")
    assert cli.main(["down", str(path)]) == 0
    goes_on.communicate()
    assert goes_on.returncode == 4
    assert cli.main(["stop", str(path)]) == 2
    assert "need one that waits or trains" in capsys.readouterr().err
    assert [*here.iterdir()] == [path.parent]
    assert [*path.parent.iterdir()] == [path]


@pytest.mark.soak_cloud
def test_a_job_that_cannot_train_ends(packed, here, capsys):
    assert cli.main(command(packed, "--model", "not_there:net")) == 4
    said = capsys.readouterr().err
    assert "not_there" in said
    assert "eighteen logs" in said
    (path,) = (here / "runs").iterdir()
    assert (path / "launch" / "out.log").read_text().count("== attempt") == 1
