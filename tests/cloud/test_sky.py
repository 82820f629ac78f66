"""Machines that are rented: what is asked, agreed to and given back. SkyPilot and ssh have stand-ins."""

from __future__ import annotations

import base64
import csv
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from launching import alive, power_off, until
from recorded import Recorded, serving

import eighteen
from eighteen import cli
from eighteen.advice.offers import Offer, offers
from eighteen.advice.plan import Estimate, Plan, Times
from eighteen.advice.quotes import Quote, Spot, as_in_table
from eighteen.base import events
from eighteen.base.errors import MachineError, UsageError
from eighteen.base.rundir import RunDir
from eighteen.cli import rental as rentals
from eighteen.cloud import driver, keys, launcher, rent, sky
from eighteen.cloud.renewal import Renewal
from eighteen.cloud.sky import Node, Place, Rental, Wish, next_step

DAY = datetime(2026, 11, 28, tzinfo=UTC)
WISH = Wish("aws", "H100:8", 2, is_spot=True)
EAST, WEST = Place("p5", "us-east-1", "us-east-1a", 10.0, "AWS, today"), Place("p5", "us-west-2", "", 12.0, "table")
RENTAL = Rental("Photos_1", WISH, [EAST, WEST], 24.0, 256, "set -e")
SMALL = ["--recipe", "demo", "--set", "phases.0.size=32", "--set", "eval.size=32", "--set", "train.log_every=1"]
RENT = ["--cloud", "aws", "--gpu", "L4", "--machines", "2", "--spot", "--procs", "1", "--python", sys.executable]


@pytest.mark.parametrize(
    ("state", "there", "is_over", "step"),
    [
        ("wanted", None, False, "rent"),
        ("renting", None, False, "rent"),  # it was killed before SkyPilot heard of it
        ("renting", "INIT", False, "rent"),  # or meanwhile: the same words go on
        ("renting", "UP", False, "reach"),  # or before it knew where they are
        ("rented", "UP", False, "reach"),
        ("rented", "INIT", False, "reach"),  # one was taken back: others are rented in its place
        ("rented", None, False, "rent"),  # all were
        ("returned", None, False, "rent"),
        ("wanted", None, True, "nothing"),
        ("returned", None, True, "nothing"),
        ("renting", None, True, "give_back"),  # SkyPilot may be at it
        ("rented", None, True, "give_back"),
        ("rented", "UP", True, "give_back"),
        ("returned", "UP", True, "give_back"),  # it was killed while it gave them back
    ],
)
def test_what_is_done_next_follows_from_what_is_there(state, there, is_over, step):
    assert next_step(state, there, is_over=is_over) == step


def test_skypilot_is_told_which_machines_until_when_and_whose_they_are():
    asked = sky.task(replace(RENTAL, hours=1.5))
    assert asked["name"] == "eighteen-photos-1"
    assert asked["num_nodes"] == 2
    assert "run" not in asked
    resources = asked["resources"]
    assert resources["infra"] == "aws/us-east-1/us-east-1a"
    assert (resources["instance_type"], resources["use_spot"]) == ("p5", True)
    assert resources["labels"] == {"eighteen-launch": "eighteen-photos-1"}
    assert resources["autostop"] == {"idle_minutes": 90, "down": True, "wait_for": "none"}
    by_gpu = replace(RENTAL, places=[sky.by_hand(20.0, replace(WISH, region="us-east-1"))])
    assert sky.task(by_gpu)["resources"]["accelerators"] == "H100:8"
    assert sky.task(by_gpu)["resources"]["infra"] == "aws/us-east-1"
    assert json.loads(sky.text(sky.task(RENTAL))) == sky.task(RENTAL)


def test_others_in_place_of_the_lost_come_to_the_same_region_for_the_hours_that_are_left():
    near = replace(EAST, zone="us-east-1b", usd_h=11.0)
    rental = replace(RENTAL, places=[EAST, near, WEST], state="rented", others=["eighteen-photos-1-again-1"])
    other = sky.instead(rental, 1, region="us-east-1", hours=3.5)
    assert other.cluster == "eighteen-photos-1-again-2"
    assert (other.wish.machines, other.places, other.state) == (1, [EAST, near], "wanted")
    assert sky.task(other)["resources"]["autostop"]["idle_minutes"] == 210
    chosen = sky.instead(replace(rental, places=[sky.by_hand(20.0, WISH)]), 1, region="eu-west-1", hours=-1)
    assert sky.task(chosen)["resources"]["infra"] == "aws/eu-west-1"
    assert sky.task(chosen)["resources"]["autostop"]["idle_minutes"] == 1
    said = json.dumps([{"name": "eighteen-a", "status": "INIT", "region": "us-west-2"}])
    assert (sky.region(said, "eighteen-a"), sky.region(said, "eighteen-b")) == ("us-west-2", None)


def test_where_no_other_machine_is_to_be_had_it_is_said_and_tried_later(monkeypatch):
    told, asked_for = list[str](), list[int]()

    def get(machines):
        asked_for.append(machines)
        if len(asked_for) == 1:
            raise MachineError("rent", got="none in us-east-1a", need="one", hint="later")
        return ["10.0.0.9"]

    renewal = Renewal(get, told.append)
    assert renewal.instead_of(0) == []
    until(lambda: renewal.instead_of(1) or told, 5)
    assert told == ["no other machine: none in us-east-1a; once more in 5 minutes"]
    assert renewal.instead_of(1) == []
    later = time.monotonic() + 301
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert renewal.instead_of(2) == []
    renewal.wait()
    assert renewal.instead_of(2) == ["10.0.0.9"]
    assert asked_for == [1, 2]


def test_machines_get_their_key_when_they_boot_but_not_in_place_of_somebody_elses_wishes(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "launch" / "ssh"
    keys.make(folder)
    login = (folder / "login").read_bytes()
    keys.make(folder)
    assert (folder / "login").read_bytes() == login
    path = keys.settings(folder)
    assert {one.stat().st_mode & 0o77 for one in (path, folder / "login", folder / "machines")} == {0}
    ((shell, flag, script),) = json.loads(path.read_text())["aws"]["post_provision_runcmd"]
    assert (shell, flag) == ("sh", "-c")
    assert base64.b64decode(script.split()[5]) == (folder / "machines").read_bytes()
    assert (keys.can_be_sent("aws"), keys.can_be_sent("gcp")) == (True, False)
    (tmp_path / ".sky").mkdir()
    (tmp_path / ".sky" / "config.yaml").write_text("aws:\n  post_provision_runcmd: [proxy]\n")
    assert not keys.can_be_sent("aws")
    keys.delete(folder)
    with monkeypatch.context() as bare:
        bare.setenv("PATH", str(tmp_path))
        with pytest.raises(MachineError, match="no program ssh"):
            keys.make(folder)
    assert [one.name for one in sorted(folder.iterdir())] == ["login.pub", "machines.pub"]


def test_a_python_is_only_installed_where_nobody_named_one():
    assert "uv venv" in sky.setup(sky.OWN_PYTHON)
    assert "uv" not in sky.setup("python3")
    assert sky.disk_gb(0) == 256
    assert sky.disk_gb(10**12) == 2064


def test_a_place_that_has_none_is_told_from_all_that_is_no_better_elsewhere():
    assert sky.is_refused("sky.exceptions.ResourcesUnavailableError: Failed to acquire resources in us-east-1a")
    assert not sky.is_refused("sky.exceptions.NoCloudAccessError: Cloud access is not set up")
    assert not sky.is_refused("Setup failed")


def test_only_clusters_of_ours_are_seen():
    said = "\x1b[2mStarting a local server.\x1b[0m\n" + json.dumps(
        [{"name": "eighteen-a", "status": "UP"}, {"name": "mine", "status": "UP"}], indent=2
    )
    assert sky.clusters(said) == {"eighteen-a": "UP"}
    assert sky.clusters("[]\n") == {}


SETTINGS = """# Added by sky
Host eighteen-a
  HostName 54.1.2.3
  User ubuntu
  IdentityFile /home/me/.sky/clients/0a/ssh/sky-key
  IdentitiesOnly yes
  StrictHostKeyChecking no
  UserKnownHostsFile=/dev/null
  GlobalKnownHostsFile=/dev/null
  Port 22
  SetEnv SKYPILOT_CLUSTER_NAME=eighteen-a

# Added by sky
Host eighteen-a-worker1
  HostName 54.1.2.4
  User ubuntu
  IdentityFile /home/me/.sky/clients/0a/ssh/sky-key
  Port 2222
  ProxyCommand ssh -W %h:%p jump

"""


def test_machines_are_reached_as_skypilot_does_but_only_if_their_keys_stay(tmp_path):
    first, second = sky.nodes(SETTINGS)
    key = "/home/me/.sky/clients/0a/ssh/sky-key"
    assert first == Node("54.1.2.3", "ubuntu", 22, key, [])
    assert second == Node("54.1.2.4", "ubuntu", 2222, key, ["ProxyCommand ssh -W %h:%p jump"])
    path = tmp_path / "config"
    path.write_text(sky.ssh_config({"10.0.0.5": first, "10.0.0.6": second}, tmp_path / "known hosts"))
    told = subprocess.run(["ssh", "-G", "-F", str(path), "10.0.0.6"], capture_output=True, text=True, check=True).stdout
    for line in (
        "hostname 54.1.2.4",
        "port 2222",
        "stricthostkeychecking true",
        f'userknownhostsfile "{tmp_path}/known hosts"',
        "proxycommand ssh -W %h:%p jump",
        "forwardagent no",
    ):
        assert line in told or line.replace('"', "") in told


def offered(region, *, usd_h=40.0, spot_usd_h=None, gpus=8, cloud="aws", zone="", instance="p5"):
    facts = {"cloud": cloud, "instance": instance, "gpus": gpus, "gpu": "H100", "cpus": 8, "memory_gib": 64}
    offer = Offer(**facts, region=zone or region, usd_h=usd_h, spot_usd_h=spot_usd_h, source="AWS", date=DAY.date())
    if not zone:
        return as_in_table(offer)
    assert spot_usd_h
    return Quote(offer, Spot(instance, region, zone, spot_usd_h, spot_usd_h, spot_usd_h, spot_usd_h, DAY), "now")


QUOTES = [
    offered("us-east-1", spot_usd_h=12.0, zone="us-east-1a"),
    offered("us-east-1", spot_usd_h=11.0, zone="us-east-1b"),
    offered("us-west-2", spot_usd_h=9.0, usd_h=44.0, zone="us-west-2c"),
    offered("eu-west-1", usd_h=39.0),  # it has no spot machines
    offered("us-east-1", gpus=1, instance="p5.4xlarge"),
    offered("eu-north1", cloud="nebius", instance="h100-8"),
]


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        (WISH, ["p5 us-west-2c", "p5 us-east-1b", "p5 us-east-1a"]),
        (replace(WISH, region="us-east-1"), ["p5 us-east-1b", "p5 us-east-1a"]),
        (replace(WISH, is_spot=False), ["p5 eu-west-1", "p5 us-east-1", "p5 us-west-2"]),
        (replace(WISH, is_spot=False, gpu="H100"), ["p5.4xlarge us-east-1"]),
        (replace(WISH, is_spot=False, cloud="nebius"), ["h100-8 eu-north1"]),
    ],
)
def test_the_cheapest_place_comes_first(wish, expected):
    assert [str(one) for one in sky.places(QUOTES, wish)] == expected


def test_without_cheapest_skypilot_chooses_and_the_dearest_price_is_agreed_to():
    (place,) = sky.asked_in(sky.places(QUOTES, WISH), WISH)
    assert (place.instance, place.region, place.zone, place.usd_h) == ("p5", "", "", 12.0)
    assert len(sky.asked_in(sky.places(QUOTES, WISH), replace(WISH, is_cheapest=True))) == 3


def test_what_has_no_price_is_not_rented():
    with pytest.raises(UsageError, match="no spot price of H100:8 on gcp moon-1"):
        sky.places(QUOTES, replace(WISH, cloud="gcp", region="moon-1"))


def planned(where, seconds, usd, *, machines=1, is_spot=False):
    took, costs = (one and Estimate(one, one / 2, 2 * one) for one in (seconds, usd))
    return Plan(where, machines, 8, is_spot, Times(*[0.0] * 8), took, costs, None, 0.0, 0.0, "published")


def test_the_estimate_tells_price_hours_and_since_when_it_stands():
    lines = sky.estimate(RENTAL, planned("aws", 3600.0, 20.0, machines=2), epochs=10)
    assert lines == [
        "2 x aws H100:8 spot: p5 us-east-1a; if it has none, the next of 2",
        "price: $10 an hour each, $20 together (AWS, today)",
        "expected: 1 h (0.5 to 2), $20 ($10 to $40), $2 an epoch; published",
        "at most: 24 h, $576; then the machines end by themselves (--max-hours)",
    ]


TASK = SimpleNamespace(schedule=SimpleNamespace(epochs=10.0))
PLANS = [
    planned("this machine", 10.0, None),
    planned("slow", 3600.0, 1.0),
    planned("middle", 1800.0, 2.0),
    planned("fast", 600.0, 8.0),
    planned("fast", 500.0, 3.0, is_spot=True),
]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"time": "40m"}, "middle"),  # the cheapest that is fast enough
        ({"cost": "$5"}, "middle"),  # the fastest that is cheap enough
        ({"cost": "$10"}, "fast"),
        ({"time": "2h", "cost": "$5"}, "slow"),
        ({"time": "40m", "is_spot": True}, "fast"),
    ],
)
def test_machines_are_chosen_by_time_or_cost(changes, expected):
    assert rentals.chosen(PLANS, **changes).where == expected


def test_no_machine_is_chosen_that_does_not_keep_to_the_limits():
    with pytest.raises(UsageError, match="none of 3 plans"):
        rentals.chosen(PLANS, time="1m")


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    """Two machines with nothing but a home folder, and a SkyPilot that rents them; its folder."""
    folder, programs, home = tmp_path / "sky", tmp_path / "bin", tmp_path / "home"
    for path in (folder, programs, home, *(tmp_path / "machines" / name for name in ("localhost", "127.0.0.1"))):
        path.mkdir(parents=True)
    for name in ("ssh", "sky"):
        shutil.copy(Path(__file__).with_name(f"fake_{name}.py"), programs / name)
    (programs / "shutdown").write_text("#!/bin/sh\ntouch ~/cut\n")  # rented machines do power off
    for each in programs.iterdir():
        each.chmod(0o755)
    facts = {"FAKE_SKY": folder, "FAKE_HOSTS": tmp_path / "machines", "HOME": home, "GLOO_SOCKET_IFNAME": "lo"}
    facts |= {"PATH": f"{programs}:{os.environ['PATH']}", "AWS_EC2_METADATA_DISABLED": "true"}
    for name, value in facts.items():
        monkeypatch.setenv(name, str(value))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(driver, "POLL_S", 0.2)
    monkeypatch.chdir(tmp_path)
    yield folder
    for pid in alive(tmp_path / "machines"):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for path in (tmp_path / "machines").iterdir():
        facts = {**os.environ, "TMUX_TMPDIR": str(path)}
        subprocess.run(["tmux", "kill-server"], env=facts, capture_output=True)


@pytest.fixture(scope="module")
def packed(pictures, tmp_path_factory):
    return eighteen.pack(pictures, tmp_path_factory.mktemp("here") / "photos.e18", procs=1)


def rented(packed, *more):
    return ["launch", str(packed.path), *RENT, *SMALL, *more]


@pytest.fixture
def untrained(monkeypatch):
    """Training takes no time, and comes to its end, where it is not what is looked at."""

    def follow(run, launch, dataset, **told):
        (run.path / "launch" / "ended.json").write_text("{}")

    monkeypatch.setattr(launcher, "follow", follow)


def asked(cloud):
    path = cloud / "asked.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def verbs(cloud):
    return [words[0] for words in asked(cloud) if words[0] != "status"]


def left(cloud):
    return json.loads((cloud / "clusters.json").read_text())


def test_machines_are_rented_trained_on_and_given_back(packed, cloud, tmp_path, capsys):
    assert cli.main(rented(packed, "--yes", "--epochs", "1")) == 0
    shown = capsys.readouterr()
    assert "price: $" in shown.err
    assert "at most: 24 h" in shown.err
    (path,) = (tmp_path / "runs").iterdir()
    assert [*path.glob("checkpoints/step-*")]
    assert verbs(cloud) == ["launch", "down"]
    assert not left(cloud)
    settings = (path / "launch" / "ssh" / "config").read_text()
    assert "StrictHostKeyChecking yes" in settings
    assert f'IdentityFile "{path / "launch" / "ssh" / "login"}"' in settings  # the launch's own, not SkyPilot's
    assert not [*(path / "launch" / "ssh").glob("login")]  # which ends with it
    assert f'"{path / "launch" / "ssh" / "known_hosts"}"' in settings
    (task,) = [json.loads(line) for line in (cloud / "tasks.jsonl").read_text().splitlines()]
    assert task["resources"]["use_spot"]
    usd_h = json.loads((path / "launch" / "launch.json").read_text())["priced"]
    assert usd_h[0] == "--price-usd-h"
    assert json.loads((path / "launch" / "rent.json").read_text())["state"] == "returned"


def test_the_next_cheapest_zone_is_taken_where_the_cheapest_has_none(
    packed, cloud, untrained, tmp_path, monkeypatch, capsys
):
    lately, spot = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=2), {}
    for number, region in enumerate(("us-east-1", "us-east-2", "us-west-2", "eu-west-1", "eu-north-1")):
        spot[region] = [("g6.2xlarge", f"{region}{zone}", f"0.{4 + number}{zone == 'b':d}", lately) for zone in "ab"]
    (cloud / "refused").write_text("aws/us-east-1/us-east-1a\naws/us-east-1/us-east-1b\n")
    recorded = Recorded(spot, {("g6.2xlarge", region): "0.98" for region in spot})
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "canary-of-the-secret")
    with serving(recorded) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        assert cli.main(rented(packed, "--yes", "--cheapest", "--max-hours", "3")) == 0
    shown = capsys.readouterr().err
    assert "price: $0.4 an hour each, $0.8 together (DescribeSpotPriceHistory and GetProducts of AWS, 20" in shown
    assert "the next of 10" in shown
    assert f"at most: 3 h, ${2 * 3 * 0.81:.4g}" in shown
    assert "us-east-1a: none to be had" in shown
    tasks = [json.loads(line) for line in (cloud / "tasks.jsonl").read_text().splitlines()]
    assert [one["resources"]["infra"].rpartition("/")[2] for one in tasks] == ["us-east-1a", "us-east-1b", "us-east-2a"]
    assert all(one["resources"]["use_spot"] for one in tasks)
    assert not left(cloud)
    (path,) = (tmp_path / "runs").iterdir()
    assert (path / "launch" / "sky.log").read_text().count("ResourcesUnavailableError") == 2
    assert json.loads((path / "launch" / "launch.json").read_text())["priced"] == ["--price-usd-h", "1"]
    for file in [*path.rglob("*"), *cloud.iterdir()]:
        assert file.is_dir() or b"canary" not in file.read_bytes()


def test_where_no_place_has_any_nothing_is_left(packed, cloud, capsys):
    (cloud / "refused").write_text("aws\n")
    assert cli.main(rented(packed, "--yes")) == 4
    assert "none in g6.2xlarge" in capsys.readouterr().err
    assert not left(cloud)


def test_what_no_other_place_would_do_better_is_told_at_once(packed, cloud, capsys):
    (cloud / "broken").touch()
    assert cli.main(rented(packed, "--yes", "--cheapest")) == 4
    assert "NoCloudAccessError" in capsys.readouterr().err
    assert verbs(cloud) == ["launch", "down"]


def test_a_launch_that_fails_gives_its_machines_back(packed, cloud, monkeypatch, capsys):
    def follow(*wanted, **more):
        raise MachineError("train", got="a machine that is silent", need="an answer", hint="wait")

    monkeypatch.setattr(launcher, "follow", follow)
    assert cli.main(rented(packed, "--yes")) == 4
    assert "a machine that is silent" in capsys.readouterr().err
    assert verbs(cloud) == ["launch", "down"]
    assert not left(cloud)


def test_giving_back_is_not_interrupted(packed, cloud, untrained):
    (cloud / "impatient").touch()
    assert cli.main(rented(packed, "--yes")) == 0
    assert not left(cloud)


def test_nothing_is_rented_unless_somebody_agrees(packed, cloud, tmp_path, monkeypatch, capsys):
    assert cli.main(rented(packed)) == 2
    assert "nobody to ask, for there is no terminal" in capsys.readouterr().err
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert cli.main(rented(packed)) == 0
    assert "nothing was rented" in capsys.readouterr().err
    assert not asked(cloud)
    assert not (tmp_path / "runs").exists()


def test_what_would_be_rented_is_shown(packed, cloud, tmp_path, capsys):
    assert cli.main(rented(packed, "--print")) == 0
    shown = capsys.readouterr().out
    assert "sky launch --cluster eighteen-" in shown
    assert '"eighteen-launch"' in shown
    assert "at most: 24 h" in shown
    assert not asked(cloud)
    assert not (tmp_path / "runs").exists()


def test_without_skypilot_it_is_said_how_to_get_it(packed, cloud, monkeypatch, capsys):
    (cloud.parent / "bin" / "sky").unlink()
    monkeypatch.setenv("PATH", f"{cloud.parent / 'bin'}:/usr/bin:/bin")
    assert cli.main(rented(packed, "--yes")) == 4
    assert "uv tool install" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "got no machines, need one of --hosts, --slurm, --cloud"),
        (["--cloud", "aws"], "neither --gpu and --machines nor a limit"),
        (["--cloud", "aws", "--gpu", "L4"], "neither --gpu and --machines nor a limit"),
        (["--cloud", "aws", "--gpu", "L4", "--machines", "0"], "--machines"),
        (["--cloud", "aws", "--gpu", "L4", "--machines", "1", "--max-hours", "0"], "--max-hours"),
        (["--cloud", "gcp", "--gpu", "L4", "--machines", "1"], "no price of L4 on gcp"),
        (["--cloud", "aws", "--hosts", "a"], "got --hosts and --cloud"),
    ],
)
def test_what_cannot_be_rented_is_said(packed, cloud, words, said, capsys):
    assert cli.main(["launch", str(packed.path), *words]) == 2
    assert said in capsys.readouterr().err
    assert not asked(cloud)


def test_whoever_was_killed_after_renting_finds_the_machines(packed, cloud, untrained, tmp_path, capsys):
    (cloud / "kill").touch()
    command = [sys.executable, "-m", "eighteen", *rented(packed, "--yes", "--epochs", "1")]
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    assert [*left(cloud).values()] == ["UP"]
    assert cli.main(command[3:]) == 0
    shown = capsys.readouterr().err
    assert "going on with runs/" in shown
    assert "price" not in shown  # it was agreed to before
    assert verbs(cloud) == ["launch", "down"]
    assert len([*(tmp_path / "runs").iterdir()]) == 1


def test_ctrl_c_saves_and_gives_back_and_the_same_command_goes_on(packed, cloud, tmp_path):
    command = [sys.executable, "-m", "eighteen", *rented(packed, "--yes", "--epochs", "60")]
    first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for(first, "  step ")
    first.send_signal(signal.SIGINT)
    said = first.communicate()[1]
    assert first.returncode == 130, said
    assert not left(cloud)
    (path,) = (tmp_path / "runs").iterdir()
    assert [*path.glob("checkpoints/step-*")]
    for home in (tmp_path / "machines").iterdir():
        shutil.rmtree(home)  # the next machines are others
        home.mkdir()
    again = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for(again, "  step ")
    again.terminate()
    again.communicate()
    assert not left(cloud)
    assert [*(tmp_path / "runs").iterdir()] == [path]
    told = [one["event"] for one in events.read(path / "events.jsonl")]
    assert told.count("start") + told.count("resume") >= 2
    assert told.count("resume") == 1
    assert verbs(cloud) == ["launch", "down", "launch", "down"]


PATIENT = "import sys; from eighteen import cli; from eighteen.cloud import driver; driver.GONE_S = 1.0; "
PATIENT += "sys.exit(cli.main(sys.argv[1:]))"


def test_another_machine_is_rented_in_place_of_one_that_is_lost_and_taken_in(packed, cloud, tmp_path):
    (tmp_path / "machines" / "127.0.0.2").mkdir()
    command = [sys.executable, "-c", PATIENT, *rented(packed, "--yes", "--epochs", "200", "--no-preflight")]
    launch = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for(launch, "  step ")
    (path,) = (tmp_path / "runs").iterdir()
    hosts = json.loads((path / "launch" / "launch.json").read_text())["hosts"]
    assert hosts == ["localhost", "127.0.0.2"]
    power_off(tmp_path / "machines" / "127.0.0.2")
    wait_for(launch, "renting 1 x")
    wait_for(launch, "stopping to go on with 127.0.0.1")
    wait_for(launch, "on localhost and 127.0.0.1")
    wait_for(launch, "  step ")
    assert len(left(cloud)) == 2
    launch.terminate()
    launch.communicate()
    assert not left(cloud)
    assert verbs(cloud) == ["launch", "launch", "down"]
    assert json.loads((path / "launch" / "launch.json").read_text())["hosts"] == ["localhost", "127.0.0.1"]
    first, second = [json.loads(line) for line in (cloud / "tasks.jsonl").read_text().splitlines()]
    assert second["name"] == f"{first['name']}-again-1"
    assert (first["num_nodes"], second["num_nodes"]) == (2, 1)


@pytest.mark.parametrize("trouble", ["refused", "silent"])
def test_another_machine_that_is_not_to_be_had_or_not_to_be_reached_leaves_nothing(
    packed, cloud, untrained, tmp_path, trouble
):
    (tmp_path / "machines" / "127.0.0.2").mkdir()  # the first two are rented
    assert cli.main(rented(packed, "--yes", "--keep")) == 0
    (path,) = (tmp_path / "runs").iterdir()
    before, run = left(cloud), RunDir(path)
    if trouble == "refused":
        (cloud / "refused").write_text("aws/us-east-1")
    else:
        shutil.rmtree(tmp_path / "machines" / "127.0.0.1")
    with pytest.raises(MachineError):
        rent.others(run, 1, say=print)
    assert left(cloud) == before
    tasks = [json.loads(line)["resources"]["autostop"] for line in (cloud / "tasks.jsonl").read_text().splitlines()]
    assert [24 * 60 - 5 < one["idle_minutes"] <= 24 * 60 for one in tasks] == [True, True]  # of the hours that are left
    assert verbs(cloud) == ["launch", "launch"] + ["down"] * (1 + (trouble == "refused"))
    rental = rent.known(run)
    assert rental
    assert rental.others == []


def test_machines_stay_if_that_is_asked_for_until_a_sweep(packed, cloud, untrained, tmp_path, capsys):
    (cloud / "clusters.json").write_text('{"mine": "UP"}')
    assert cli.main(rented(packed, "--yes", "--keep")) == 0
    (name,) = left(cloud).keys() - {"mine"}
    (path,) = (tmp_path / "runs").iterdir()
    assert cli.main(["status", str(path)]) == 0
    assert "not begun" in capsys.readouterr().out
    assert cli.main(["down"]) == 2
    assert cli.main(["down", "--all"]) == 0
    assert capsys.readouterr().out == f"{name}\n"
    assert left(cloud) == {"mine": "UP"}
    assert cli.main(["down", "--all"]) == 0
    assert capsys.readouterr().out == "nothing is rented\n"


def test_down_gives_back_what_a_run_rented(packed, cloud, untrained, tmp_path):
    assert cli.main(rented(packed, "--yes", "--keep")) == 0
    (path,) = (tmp_path / "runs").iterdir()
    assert cli.main(["down", str(path)]) == 0
    assert not left(cloud)


def test_the_planner_chooses_machines_by_time(packed, cloud, tmp_path, monkeypatch, capsys):
    table = tmp_path / "table.csv"
    rows = [one for one in offers() if one.instance in ("g6.2xlarge", "p5.4xlarge") and one.region == "us-east-1"]
    with table.open("w") as file:
        written = csv.DictWriter(file, Offer.model_fields)
        written.writeheader()
        written.writerows({name: "" if value is None else value for name, value in row} for row in rows)
    plans = [planned(rows[0].name, 600.0, 9.0), planned(rows[1].name, 900.0, 3.0)]
    monkeypatch.setattr(rentals, "planned", lambda *_, **asked: SimpleNamespace(plans=plans, task=TASK))
    words = ["launch", str(packed.path), "--cloud", "aws", "--time", "20m", "--prices", str(table), "--print"]
    assert cli.main(words) == 0
    shown = capsys.readouterr().out
    assert f'"instance_type": "{rows[1].instance}"' in shown
    assert "expected: 0.25 h" in shown


def test_the_commands_at_the_head_of_the_page_do_as_it_says(packed, cloud, untrained, tmp_path, monkeypatch):
    shutil.copytree(packed.path, "photos.e18")
    plans = [planned(offers()[0].name, 900.0, 3.0)]
    monkeypatch.setattr(rentals, "planned", lambda *_, **asked: SimpleNamespace(plans=plans, task=TASK))
    page = (Path(__file__).parents[2] / "docs" / "clouds.md").read_text()
    typed = [shlex.split(line, comments=True) for line in page.partition("```\n")[2].partition("```")[0].splitlines()]
    for program, *words in typed:
        assert program == "eighteen"
        is_asked = words[0] == "launch" and not {"--yes", "--print"} & {*words}
        run = max((tmp_path / "runs").glob("*"), default=None)
        assert cli.main([word.replace("runs/NAME", str(run)) for word in words] + ["--yes"] * is_asked) == 0
        assert not left(cloud)
        time.sleep(1)  # runs are named by the second
    assert verbs(cloud) == ["launch", "down"] * 3 + ["jobs"]  # down --all asks for jobs
    tasks = [json.loads(line)["resources"] for line in (cloud / "tasks.jsonl").read_text().splitlines()]
    assert [task["use_spot"] for task in tasks] == [True, True, False]
    assert [task["autostop"]["idle_minutes"] for task in tasks] == [24 * 60, 120, 24 * 60]


def wait_for(process, text):
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"it ended without {text!r}")
