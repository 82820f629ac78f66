"""Limits of launches, and the watches that keep to them on each machine, whoever else is gone by then."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
from launching import alive, begun, until, wait_for

from eighteen import cli
from eighteen.base import events
from eighteen.base.errors import MachineError, UsageError
from eighteen.cloud import agent, launcher
from eighteen.cloud.launch import Launch, Seen, next_actions, require_fit
from eighteen.cloud.limits import described, limits

FACTS = {"began": 1000.0, "idle_since": 1000.0, "is_running": False, "exit": None, "is_asked": False}
FACTS |= {"most_s": 7200.0, "after_success_s": 600.0, "after_failure_s": 3600.0, "grace_s": 120.0, "power_off": True}
TRAINS = FACTS | {"is_running": True, "idle_since": 8000.0}
DONE = FACTS | {"exit": 0, "idle_since": 2000.0}
FAILED = DONE | {"exit": 1}
OWN = {"power_off": False}

WANTED = Launch("photos-1", ["a", "b"], "python3", 1, "photos-d.e18", [], "c", "e", 20_000, limits={"most_s": 7200.0})
NEW = Seen("3.11.7", 0, True, 0.0, 10**12, False, False, False, (), False, False, None, "", None, "")
WATCHED = replace(NEW, limits=WANTED.watched)
RUNS = replace(WATCHED, has_code=True, has_packages=True, has_dataset=True, has_begun=True, is_running=True)
STOPPED = replace(RUNS, is_running=False, exit=1)


@pytest.mark.parametrize(
    ("facts", "now", "expected"),
    [
        (TRAINS, 8199, ("wait", None)),
        (TRAINS, 8200, ("ask", "most")),
        (TRAINS | {"is_asked": True}, 8300, ("wait", "most")),  # while it saves
        (TRAINS | {"is_asked": True}, 8320, ("off", "most")),
        (TRAINS | {"is_asked": True} | OWN, 8320, ("end", "most")),
        (TRAINS | {"most_s": None}, 10**9, ("wait", None)),
        (FAILED | {"idle_since": 8210.0, "is_asked": True}, 8250, ("wait", "most")),  # it has saved, and is fetched
        (DONE, 2599, ("wait", None)),
        (DONE, 2600, ("off", "after_success")),
        (DONE | OWN, 2600, ("end", "after_success")),
        (DONE | {"after_success_s": None}, 8199, ("wait", None)),
        (DONE | {"idle_since": 8000.0}, 8200, ("ask", "most")),  # which is there sooner: nobody may begin again
        (FAILED, 5599, ("wait", None)),
        (FAILED, 5600, ("off", "after_failure")),
        (FAILED | {"exit": None}, 5600, ("off", "after_failure")),  # it was killed
        (FACTS, 4599, ("wait", None)),
        (FACTS, 4600, ("off", "after_failure")),  # made ready, and nobody came to begin
        (FACTS | {"idle_since": 4000.0}, 4600, ("wait", None)),  # the launch still looks
        (FACTS | {"most_s": None, "after_failure_s": None}, 10**9, ("wait", None)),
    ],
)
def test_what_a_watch_does_follows_from_the_facts_and_the_time(facts, now, expected):
    assert agent.decide(facts, now) == expected


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, {}),
        ({"max_hours": 2}, (7200.0, None, None)),
        ({"max_cost": "$40", "price_usd_h": 80.0}, (1800.0, None, None)),
        ({"max_cost": "$40", "price_usd_h": 80.0, "max_hours": 0.25}, (900.0, None, None)),
        ({"after_success": "stop:10m", "after_failure": "stop:1h30m"}, (None, 600.0, 5400.0)),
        ({"power_off": True}, (None, 600.0, 3600.0)),
        ({"power_off": True, "after_failure": "keep", "after_success": "stop:5s"}, (None, 5.0, None)),
        ({"after_success": "keep"}, {}),
    ],
)
def test_limits_are_seconds(asked, expected):
    names = ("most_s", "after_success_s", "after_failure_s")
    assert limits(**asked) == (dict(zip(names, expected, strict=True)) if expected else {})


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"max_hours": 0}, "--max-hours: got 0, need hours above 0"),
        ({"max_cost": "$40"}, "--max-cost .40: got no --price-usd-h"),
        ({"max_cost": "much", "price_usd_h": 1.0}, "dollars above 0"),
        ({"after_success": "10m"}, "--after-success: got '10m', need stop and a time, or keep"),
        ({"after_failure": "stop:soon"}, "--after-failure: got 'stop:soon'"),
    ],
)
def test_what_is_no_limit_is_refused(asked, said):
    with pytest.raises(UsageError, match=said):
        limits(**asked)


def test_limits_are_told_as_a_person_thinks_of_them():
    both = limits(max_hours=1.5, power_off=True)
    said = (
        "the machines power off 1h30m after it began, at 1970-01-01 01:46:40 UTC, 10m after success, 1h after a failure"
    )
    assert described(both, began=1000.0, power_off=True) == said
    assert (
        described(limits(after_failure="stop:90s"), began=0.0, power_off=False)
        == "what runs is ended 1m30s after a failure"
    )


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ([NEW, NEW], ["watch a", "watch b"]),  # before anything else
        ([WATCHED, None], ["wait "]),
        ([WATCHED, WATCHED], ["send_code a", "send_code b"]),
        ([RUNS, replace(RUNS, limits=None)], ["watch b"]),  # it was started again
        ([RUNS, replace(RUNS, limits={**(WANTED.watched or {}), "most_s": 60.0})], ["watch b"]),  # it is another now
        ([replace(RUNS, struck="most"), RUNS], ["wait "]),
        ([replace(STOPPED, struck="most"), STOPPED], ["finish "]),  # and no other attempt
        ([replace(WATCHED, struck="most"), WATCHED], ["finish "]),
    ],
)
def test_a_launch_with_limits_is_watched_and_does_not_go_on_after_them(seen, expected):
    found = next_actions(WANTED, dict(zip(WANTED.hosts, seen, strict=True)), reason=None)
    assert [f"{one.verb} {one.host}" for one in found] == expected


def test_a_machine_that_may_not_power_off_is_named_before_anything_is_sent():
    with pytest.raises(MachineError, match="launch on b: got no right to power off"):
        require_fit({"a": NEW, "b": replace(NEW, can_power_off=False)}, need_bytes=10**9, now=0.0)


def test_a_launch_that_goes_on_keeps_its_limits_and_takes_new_ones(packed, tmp_path):
    asked = {"machines": "a,b", "python": "python3", "ranks": 1, "words": [], "recipe": None, "name": None}
    given = [({"most_s": 60.0}, True), ({}, False), ({"most_s": 90.0}, False)]
    found = [
        launcher.prepared(str(packed.path), **asked, limits=limits, power_off=off, runs_dir=tmp_path)[1]
        for limits, off in given
    ]
    assert [(one.limits["most_s"], one.power_off) for one in found] == [(60.0, True), (60.0, True), (90.0, False)]
    assert len({one.began for one in found}) == len({one.name for one in found}) == 1


@pytest.mark.parametrize(("sudo", "may"), [("exit 0", True), ("exit 1", False), (None, False)])
def test_who_is_not_root_powers_off_by_sudo_without_a_password(tmp_path, monkeypatch, sudo, may):
    scripts = {"shutdown": "exit 1", "sudo": sudo and f'echo sudo "$@" >>{tmp_path}/said; {sudo}'}
    for name, script in scripts.items():
        if script:
            (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / name).chmod(0o755)
    monkeypatch.setattr(agent, "_path", lambda: str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert agent._can_power_off() is may
    if sudo:
        assert (agent._power_off() == 0) is may
        assert (tmp_path / "said").read_text() == "sudo -n -l shutdown\nsudo -n shutdown -h now\n"


def launched(packed, *more):
    command = [sys.executable, "-m", "eighteen", *begun(packed, *more)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def are_off(machines):
    return all((home / "off").exists() for home in machines.iterdir())


def test_machines_whose_launcher_and_tmux_were_killed_end_what_runs_and_power_off_once(packed, machines, tmp_path):
    limited = ["--epochs", "60", "--power-off", "--after-failure", "stop:15s"]
    killed = launched(packed, *limited)
    wait_for(killed, "  step ")
    killed.kill()
    killed.communicate()
    for home in machines.iterdir():
        subprocess.run(["tmux", "kill-server"], env={**os.environ, "TMUX_TMPDIR": str(home)}, check=True)
    until(lambda: are_off(machines) and not alive(machines))
    assert [(home / "off").read_text() for home in machines.iterdir()] == ["-h now\n"] * 2


def test_the_limit_of_all_saves_and_a_higher_one_goes_on(packed, machines, tmp_path, capsys):
    """The same command with a limit that has passed already takes effect on what trains."""
    first = launched(packed, "--epochs", "60", "--max-hours", "1")
    wait_for(first, "  checkpoint ")
    (path,) = (tmp_path / "runs").iterdir()
    assert cli.main(["status", str(path)]) == 0
    said = capsys.readouterr().out
    assert said.count("training") == said.count("UTC, the limit of all") == 2
    assert "what runs is ended 1h after it began" in said
    first.send_signal(signal.SIGINT)
    first.communicate()
    assert alive(machines)
    assert cli.main(begun(packed, "--epochs", "60", "--max-hours", "0.000001")) == 6
    assert "higher limit goes on" in capsys.readouterr().err
    assert [one["reason"] for one in events.read(path / "events.jsonl") if one["event"] == "end"] == ["stopped"]
    again = launched(packed, "--epochs", "60", "--max-hours", "2")
    wait_for(again, "  step ")
    again.kill()
    again.communicate()
    assert [one["event"] for one in events.read(path / "events.jsonl")].count("resume") == 1
    assert (
        len({json.loads(kept.read_text())["began"] for kept in machines.glob("*/.eighteen/launches/*/limits.json")})
        == 2
    )
    assert cli.main(["down", str(path)]) == 0
    assert not alive(machines)
    assert not [*machines.glob("*/off")]
