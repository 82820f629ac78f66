"""Launches on machines that are home folders here, reached by a stand-in for ssh; processes and tmux are real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from fsspec.registry import known_implementations
from launching import HOSTS, SMALL, begun, power_off, wait_for

import eighteen
from eighteen import cli
from eighteen.base import events, rundir
from eighteen.base import recipe as recipes
from eighteen.base.errors import MachineError, UsageError
from eighteen.cloud import agent, driver, launcher, parcel, preflight
from eighteen.cloud.hosts import Host, hosts
from eighteen.cloud.launch import Action, Launch, Seen, next_actions, next_attempt, require_fit, words_of
from eighteen.training import checkpoint

WANTED = Launch("photos-1", ["a", "b"], "python3", 1, "photos-d.e18", ["--epochs", "1"], "c", "e", 20_000)
NEW = Seen("3.11.7", 0, True, 0.0, 10**12, False, False, False, (), False, False, None, "", None, "")
READY = replace(NEW, has_code=True, has_packages=True, has_dataset=True)
TRAINS = replace(READY, has_begun=True, is_running=True)
DONE = replace(READY, has_begun=True, exit=0)
FAILED = replace(DONE, exit=1)
ASKED = replace(FAILED, said="something\nStopped: train to the end: got a request to stop\n")
GOES = replace(ASKED, goes=True)  # its cloud takes it back
DIED = replace(READY, has_begun=True)  # its tmux is gone, and it wrote down no exit code


@pytest.mark.parametrize(
    ("seen", "reason", "expected"),
    [
        ([NEW, NEW], None, ["send_code a", "send_code b"]),
        ([replace(NEW, has_code=True), NEW], None, ["install a", "send_code b"]),
        ([READY, replace(READY, has_dataset=False)], None, ["send_dataset b"]),
        ([READY, READY], None, ["begin a", "begin b"]),
        ([READY, None], None, ["wait "]),
        ([TRAINS, READY], None, ["begin b"]),  # this program was killed in between
        ([TRAINS, TRAINS], None, ["wait "]),
        ([TRAINS, DONE], "done", ["wait "]),
        ([DONE, DONE], "done", ["finish "]),
        ([TRAINS, FAILED], None, ["end a"]),
        ([TRAINS, DIED], None, ["end a"]),
        ([TRAINS, None], None, ["wait "]),  # it may well train
        ([DIED, None], None, ["wait "]),  # until it is back, or the launch gives up on it
        ([FAILED, FAILED], "PeerLost", ["again "]),
        ([DIED, FAILED], None, ["again "]),
        ([FAILED, replace(FAILED, said="RecipeError: no\n")], None, ["finish "]),
        ([FAILED, FAILED], "stopped", ["finish "]),
        ([TRAINS, ASKED], None, ["wait "]),  # the first one still saves
        ([ASKED, GOES], "taken", ["again "]),  # without it
        ([GOES, GOES], "taken", ["wait "]),  # for other ones
        ([NEW, GOES], "taken", ["again "]),
        ([NEW, NEW], "taken", ["send_code a", "send_code b"]),
    ],
)
def test_what_is_done_next_follows_from_what_is_seen(seen, reason, expected):
    found = next_actions(WANTED, dict(zip(WANTED.hosts, seen, strict=True)), reason=reason)
    assert [f"{one.verb} {one.host}" for one in found] == expected


ALL_THREE = replace(WANTED, hosts=["a", "b", "c"], attempt=2, run="photos-1-then")
IDLE = replace(READY, run="photos-1-then")


@pytest.mark.parametrize(
    ("launch", "seen", "reason", "lost", "expected"),
    [
        (WANTED, [FAILED, None], None, "b", ["again "]),  # its peer noticed, and begins without it
        (WANTED, [None, FAILED], None, "a", ["again "]),
        (WANTED, [FAILED, None], None, "", ["wait "]),  # it may be back at once
        (WANTED, [TRAINS, None], None, "b", ["wait "]),  # only we do not hear it
        (WANTED, [TRAINS, NEW], None, "", ["send_code b"]),  # it was started again with nothing on it
        (WANTED, [FAILED, NEW], None, "", ["again "]),
        (replace(WANTED, attempt=2), [READY, None], None, "b", ["again "]),  # lost before it began
        (replace(WANTED, attempt=2), [None, None], None, "ab", ["wait "]),
        (replace(ALL_THREE, active=["b"]), [NEW, TRAINS, READY], None, "", ["send_code a"]),
        (replace(ALL_THREE, active=["b"]), [READY, TRAINS, READY], None, "", ["take_in a", "take_in c"]),
        (replace(ALL_THREE, active=["b"]), [READY, TRAINS, None], None, "c", ["take_in a"]),
        (replace(ALL_THREE, active=["b"]), [replace(READY, goes=True), TRAINS, None], None, "c", ["wait "]),
        (replace(ALL_THREE, active=["b"], joining=["a"]), [READY, TRAINS, READY], None, "", ["wait "]),
        (replace(ALL_THREE, active=["b", "c"], joining=["a"]), [READY, TRAINS, FAILED], "stopped", "", ["wait "]),
        (replace(ALL_THREE, active=["b", "c"], joining=["a"]), [READY, FAILED, FAILED], "stopped", "", ["again "]),
        (replace(ALL_THREE, active=["b"], joining=["a"]), [READY, DONE, READY], "done", "", ["finish "]),
        (ALL_THREE, [READY, IDLE, IDLE], None, "", ["again "]),  # who leads has to have the run
        (replace(ALL_THREE, active=["b", "c", "a"]), [READY, IDLE, IDLE], None, "", ["begin b", "begin c", "begin a"]),
    ],
)
def test_machines_are_left_out_and_taken_in(launch, seen, reason, lost, expected):
    found = next_actions(launch, dict(zip(launch.hosts, seen, strict=True)), reason=reason, lost=lost)
    assert [f"{one.verb} {one.host}" for one in found] == expected


@pytest.mark.parametrize(
    ("seen", "lost", "is_still", "expected"),
    [
        ([TRAINS, None], "b", True, ["end a"]),  # its peer waits for it, and may do so for minutes
        ([TRAINS, None], "b", False, ["wait "]),
        ([TRAINS, None], "", True, ["wait "]),  # it may be back at once
        ([TRAINS, TRAINS], "", True, ["wait "]),  # it evaluates
    ],
)
def test_a_machine_is_lost_when_it_is_silent_and_the_run_as_well(seen, lost, is_still, expected):
    found = next_actions(WANTED, dict(zip(WANTED.hosts, seen, strict=True)), reason=None, lost=lost, is_still=is_still)
    assert [f"{one.verb} {one.host}" for one in found] == expected


@pytest.mark.parametrize(
    ("seen", "active"),
    [
        ([FAILED, None, FAILED], ["a", "c"]),
        ([NEW, FAILED, FAILED], ["b", "c"]),  # it is made ready while they train
        ([NEW, NEW, None], ["a", "b"]),
        ([READY, replace(FAILED, run="photos-1-then"), None], ["b", "a"]),
        ([GOES, ASKED, READY], ["b", "c"]),
    ],
)
def test_the_next_attempt_is_that_of_the_machines_that_are_ready(seen, active):
    found = next_attempt(ALL_THREE, dict(zip("abc", seen, strict=True)), saved=0)
    assert [found.active, found.attempt, found.joining] == [active, 3, ()]
    assert {"--nnodes", "rank=1,timeout=120"} < {*words_of(found, active[1], 2)}


def test_attempts_that_bring_no_checkpoint_are_counted():
    seen = dict(zip("abc", [FAILED] * 3, strict=True))
    counted = [next_attempt(replace(ALL_THREE, fruitless=2, saved=5), seen, saved=saved) for saved in (5, 6)]
    assert [(one.fruitless, one.saved) for one in counted] == [(3, 5), (0, 6)]
    joining = replace(ALL_THREE, fruitless=2, saved=5, joining=["c"])
    assert next_attempt(joining, seen, saved=5).fruitless == 2


def test_a_run_goes_on_where_it_lies_or_from_its_copy():
    again = replace(ALL_THREE, words=["--epochs", "1", "--checkpoint-to", "s3://bucket/runs/"])
    assert words_of(again, "a", 1)[-2:] == ["--resume", "runs/photos-1-then"]
    assert words_of(again, "a", 1, is_there=False)[-2:] == ["--resume", "s3://bucket/runs/photos-1-then"]
    assert words_of(ALL_THREE, "a", 1, is_there=False)[-2:] == ["--epochs", "1"]  # from its beginning


def test_not_for_ever():
    last = replace(WANTED, attempt=9, fruitless=3)
    assert next_actions(last, {"a": FAILED, "b": FAILED}, reason=None) == [Action("finish")]


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (replace(NEW, python="3.9.2"), "--python python3.12, on b"),
        (replace(NEW, has_tmux=False), "install tmux, on b"),
        (replace(NEW, free_bytes=1000), "1,000 bytes free"),
        (replace(NEW, time_s=-900.0), "a clock -900 s off"),
    ],
)
def test_a_machine_that_cannot_is_named_before_anything_is_sent(one, said):
    with pytest.raises(MachineError, match="launch on b") as error:
        require_fit({"a": NEW, "b": one}, need_bytes=10**9, now=0.0)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("dataset", "words", "more"),
    [
        ("photos-d.e18", [], set()),
        ("s3://bucket/photos.e18", [], {"s3fs"}),
        ("https://host/photos.e18", ["--checkpoint-to", "gs://bucket/runs"], {"aiohttp", "gcsfs"}),
        ("file:///photos.e18", ["--checkpoint-to", "/mnt/runs"], set()),
    ],
)
def test_machines_get_what_their_urls_need(dataset, words, more):
    found = driver.asked(replace(WANTED, dataset=dataset, words=words))
    assert {*found["modules"]} - {*parcel.modules()} == more
    assert len(found["requirements"]) == len(found["modules"])


def test_a_driver_that_is_not_installed_here_comes_as_it_fits(monkeypatch):
    monkeypatch.setitem(known_implementations, "s3", {"class": "not_installed.Files"})
    monkeypatch.setitem(known_implementations, "gs", {"class": "numpy.Files"})
    assert "not_installed" in parcel.requirements(["s3://bucket/photos.e18"])
    assert parcel.requirements(["gs://bucket/photos.e18"]) == parcel.requirements()


def test_each_attempt_meets_at_a_port_of_its_own():
    first, second = (words_of(replace(WANTED, attempt=number), "b", 2) for number in (1, 2))
    assert first[first.index("--rdzv-endpoint") + 1] == "a:20000"
    assert second[second.index("--rdzv-endpoint") + 1] == "a:20001"
    assert first[first.index("--rdzv-conf") + 1] == "rank=1,timeout=120"
    assert first[-6:] == ["train", "../../datasets/photos-d.e18", "--name", "photos-1", "--epochs", "1"]


def test_what_a_machine_says_is_of_this_attempt_and_a_notice_has_its_time(tmp_path, monkeypatch):
    monkeypatch.setattr(agent, "HOME", tmp_path)
    launch = tmp_path / "launches" / "photos-1"
    launch.mkdir(parents=True)
    (launch / "out.log").write_text("== attempt 1\nStopped: train\n== attempt 2\nPeerLost: train\n")
    for name in ("begun-1", "exit-1", "begun-2", "exit-2", "notice.json"):
        (launch / name).touch()
    facts = driver.asked(replace(WANTED, attempt=2)) | {"events_from": 0}
    seen = agent.look(facts)
    assert (seen["said"], seen["goes"]) == ("PeerLost: train\n", True)
    os.utime(launch / "notice.json", (0, time.time() - 600))
    assert not agent.look(facts)["goes"], "it has stayed"


def test_a_machine_that_would_run_another_program_than_was_sent_does_not_begin(tmp_path):
    with pytest.raises(SystemExit, match="another eighteen goes first, where the one that was sent should be"):
        agent._require_program(sys.executable, tmp_path, "another digest")


def test_hosts_are_names_and_nothing_else(tmp_path):
    assert hosts("a,me@b:2222") == [Host("a"), Host("b", "me", 2222)]
    (tmp_path / "hosts").write_text("a  # the first\n\nb\n")
    assert hosts(str(tmp_path / "hosts")) == [Host("a"), Host("b")]
    for wrong in ("", "a,a", "-oProxyCommand=x", "a b", "a;b", "$(touch x)"):
        with pytest.raises(UsageError, match="--hosts"):
            hosts(wrong)


def test_two_machines_that_share_nothing_train_what_one_would(packed, machines, tmp_path, capsys):
    assert cli.main(begun(packed, "--epochs", "2", preflight="--preflight")) == 0
    shown = capsys.readouterr()
    (path,) = (tmp_path / "runs").iterdir()
    assert shown.out == f"runs/{path.name}\n"
    assert "tmux attach -t" in shown.err
    assert "preflight: 2 machines, links " in shown.err
    assert json.loads((path / "launch" / "preflight.json").read_text())["all_reduce"]["seconds"] > 0
    there = [*machines.glob("*/.eighteen/datasets/*/dataset.json")]
    assert len(there) == 2
    ours = checkpoint.newest(rundir.open(path))
    changes = [word for word in SMALL[2:] if word != "--set"]
    alone = eighteen.train(packed, recipe="demo", epochs=2, procs=2, changes=changes, runs_dir=tmp_path / "alone")
    theirs = checkpoint.newest(rundir.open(alone.run))
    assert ours.step == theirs.step
    for name, weight in ours.tensors("model").items():
        assert weight.equal(theirs.tensors("model")[name])
    assert json.loads((path / "launch" / "ended.json").read_text())["reason"] == "done"
    assert cli.main(["status", str(path)]) == 0
    assert capsys.readouterr().out.count("ended with 0") == 2
    assert cli.main(["down", str(path)]) == 0
    assert not [*machines.glob("*/.eighteen/launches/*")]


def test_a_launch_goes_on_after_a_kill_and_after_a_stop(packed, machines, tmp_path):
    """The program is killed while training goes on; the same command follows it, and goes on when it was stopped."""
    command = [sys.executable, "-m", "eighteen", *begun(packed, "--epochs", "60")]
    killed = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for(killed, "  checkpoint ")
    killed.kill()
    killed.communicate()
    (path,) = (tmp_path / "runs").iterdir()
    follows = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for(follows, "  step ")
    assert cli.main(["stop", str(path)]) == 0
    assert follows.communicate(timeout=60)[0] is None
    assert follows.returncode == 75
    again = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for(again, "  step ")
    again.kill()
    again.communicate()
    assert [one["event"] for one in events.read(path / "events.jsonl")].count("resume") == 1
    assert cli.main(["down", str(path)]) == 0
    assert [*(tmp_path / "runs").iterdir()] == [path]


@pytest.mark.parametrize("lost", ["localhost", pytest.param("127.0.0.1", marks=pytest.mark.soak_cloud)])
def test_a_lost_machine_is_left_out_and_taken_in_when_it_is_back(packed, machines, tmp_path, lost):
    """Without power, and back with nothing on its disk: the bits are those of a run that nothing happened to."""
    exact = ["--epochs", "40", "--set", "train.exact=true", "--set", "train.virtual_workers=2"]
    exact += ["--set", "train.checkpoint_minutes=0.02"]
    command = [sys.executable, "-m", "eighteen", *begun(packed, *exact)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for(process, "  checkpoint ")
    power_off(machines / lost)
    (left,) = {*HOSTS.split(",")} - {lost}
    wait_for(process, f"attempt 2, on {left}")
    wait_for(process, "  step ")
    (machines / lost).mkdir()
    wait_for(process, f"stopping to go on with {lost}")
    wait_for(process, "  resume ")
    process.communicate()
    assert process.returncode == 0
    (path,) = (tmp_path / "runs").iterdir()
    told = [*events.read(path / "events.jsonl")]
    assert [one["world"] for one in told if one["event"] == "start"] == [2, 1, 2]
    changes = [word for word in [*SMALL[2:], *exact[2:]] if word != "--set"]
    alone = eighteen.train(packed, recipe="demo", epochs=40, procs=2, changes=changes, runs_dir=tmp_path / "alone")
    ours, theirs = checkpoint.newest(rundir.open(path)), checkpoint.newest(rundir.open(alone.run))
    for name, weight in ours.tensors("model").items():
        assert weight.equal(theirs.tensors("model")[name])


def test_what_would_be_done_is_shown_and_nothing_is_done(packed, machines, tmp_path, capsys):
    assert cli.main(begun(packed, "--print")) == 0
    shown = capsys.readouterr().out
    assert shown.count("eighteen.training.torchrun") == 2
    assert "ForwardAgent=no" in shown
    assert not (tmp_path / "runs").exists()
    assert not [*machines.glob("*/.eighteen")]


def test_the_same_command_with_another_recipe_is_another_launch(packed, tmp_path):
    recipe, asked = tmp_path / "mine.toml", {"machines": HOSTS, "python": "python3", "ranks": 1, "words": []}
    asked |= {"recipe": recipe, "name": None, "runs_dir": tmp_path / "runs"}
    recipe.write_text(recipes.text("demo"))
    first, launch, _ = launcher.prepared(str(packed.path), **asked)
    again, same, _ = launcher.prepared(str(packed.path), **asked)
    assert (again, same.name) == (first, launch.name)
    first.path.rename(first.path.with_name("photos-20200101T000000Z"))
    recipe.write_text(recipes.text("demo").replace("size = 48", "size = 64"))
    other, _, _ = launcher.prepared(str(packed.path), **asked)
    assert other.path.name != "photos-20200101T000000Z"


def test_a_silent_machine_is_named(packed, machines, monkeypatch, capsys):
    monkeypatch.setattr(driver, "SILENT_S", 0.5)
    (machines / "127.0.0.1" / "cut").touch()
    assert cli.main(begun(packed)) == 4
    assert "reach 127.0.0.1" in capsys.readouterr().err
    assert not [*machines.glob("*/.eighteen/launches/*")]


def test_machines_that_cannot_train_together_begin_nothing(packed, machines, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(preflight, "LEAST_FREE_BYTES", 2**60)
    assert cli.main(begun(packed, preflight="--preflight")) == 4
    said = capsys.readouterr().err
    assert "train on 2 machines together: got " in said
    assert "bytes free on localhost; " in said
    (path,) = (tmp_path / "runs").iterdir()
    assert not json.loads((path / "launch" / "preflight.json").read_text())["is_fit"]
    assert not [*machines.glob("*/.eighteen/launches/*/begun-*")]


def test_a_launch_that_fails_tells_what_the_machines_said(packed, machines, capsys):
    assert cli.main(begun(packed, "--model", "not_there:net")) == 2
    said = capsys.readouterr().err
    assert "localhost: " in said
    assert "not_there" in said
    assert "eighteen logs" in said


def test_a_dataset_that_is_not_there_ends_a_launch_as_it_ends_training(packed, machines, tmp_path, capsys):
    words = begun(packed)
    words[1] = f"file://{tmp_path}/nothing.e18"
    assert cli.main(words) == 3
    said = capsys.readouterr().err
    assert "DataError: train nothing-" in said
    assert "localhost: DataError: read the dataset file://" in said


def test_a_mistake_is_said_before_anything_is_sent(packed, machines, capsys):
    assert cli.main(begun(packed, "--set", "train.micro_bath=3")) == 2
    assert "micro_batch" in capsys.readouterr().err
    assert not [*machines.glob("*/.eighteen")]
