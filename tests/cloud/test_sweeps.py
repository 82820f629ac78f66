"""All machines that launches have rented, given back at once. SkyPilot has a stand-in, AWS a server that answers so."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from recorded import Recorded, serving

from eighteen import cli

OURS, TEAMS = {"eighteen-launch": "eighteen-photos-1", "Name": "a"}, {"team": "vision"}


@pytest.fixture
def machines(tmp_path, monkeypatch):
    """Of an account of AWS, by region."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (tmp_path / "sky").mkdir()
    shutil.copy(Path(__file__).with_name("fake_sky.py"), programs / "sky")
    (programs / "sky").chmod(0o755)
    none = str(tmp_path / "none")
    facts = {"FAKE_SKY": tmp_path / "sky", "FAKE_HOSTS": tmp_path / "sky"}
    facts |= {"PATH": f"{programs}:{os.environ['PATH']}", "AWS_CONFIG_FILE": none}
    facts |= {"AWS_SHARED_CREDENTIALS_FILE": none, "AWS_EC2_METADATA_DISABLED": "true"}
    facts |= {"AWS_ACCESS_KEY_ID": "lab", "AWS_SECRET_ACCESS_KEY": "canary"}
    recorded = Recorded({}, machines={"us-east-1": {"i-1": OURS, "i-2": TEAMS}, "eu-west-1": {}, "us-west-2": {}})
    recorded.machines["us-west-2"]["i-3"] = OURS
    with serving(recorded) as url:
        for name, value in facts.items() | {("AWS_ENDPOINT_URL", url)}:
            monkeypatch.setenv(name, str(value))
        yield recorded


def test_machines_with_our_tag_are_ended_in_all_regions_and_no_others(machines, capsys):
    assert cli.main(["down", "--all", "--yes"]) == 0
    told = capsys.readouterr()
    assert told.out.splitlines() == ["eighteen-photos-1 (i-1 in us-east-1)", "eighteen-photos-1 (i-3 in us-west-2)"]
    assert machines.machines == {"us-east-1": {"i-2": TEAMS}, "eu-west-1": {}, "us-west-2": {}}
    assert cli.main(["down", "--all"]) == 0
    assert capsys.readouterr().out == "nothing is rented\n"


def test_machines_of_which_skypilot_does_not_know_are_ended_only_if_somebody_says_so(machines, capsys):
    assert cli.main(["down", "--all"]) == 2
    said = capsys.readouterr().err
    assert "eighteen-photos-1 (i-3 in us-west-2) is ours by its tag, and SkyPilot here does not know of it" in said
    assert "nobody to ask" in said
    assert {*machines.machines["us-east-1"]} == {"i-1", "i-2"}


def test_a_region_that_does_not_answer_is_named_when_the_others_are_swept(machines, capsys):
    machines.refused = {"eu-west-1": "UnauthorizedOperation"}
    assert cli.main(["down", "--all", "--yes"]) == 4
    told = capsys.readouterr()
    assert "i-3 in us-west-2" in told.out
    assert "look for machines in eu-west-1: got UnauthorizedOperation: not for you" in told.err
    assert not machines.machines["us-west-2"]


def test_without_skypilot_the_account_is_swept_and_it_is_said(machines, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert cli.main(["down", "--all", "--yes"]) == 4
    told = capsys.readouterr()
    assert "i-1 in us-east-1" in told.out
    assert "no program sky" in told.err


def test_without_an_account_it_is_said_that_nobody_was_asked(machines, monkeypatch, capsys):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert cli.main(["down", "--all"]) == 0
    told = capsys.readouterr()
    assert told.out == "nothing is rented\n"
    assert "warning: ask AWS for machines: no credentials" in told.err
