"""The commands of docs/launch.md, as they stand there, behind the firewall that it recommends."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
from pathlib import Path

import pytest
from lab import Launched, wait_until

PAGE = Path(__file__).parents[2] / "docs" / "launch.md"
BLOCKS = re.findall(r"^```\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
QUICK = " --no-preflight --recipe demo --epochs "  # beside what the page has, and how long it trains
POWER = r"""
mkfifo -m 622 /run/power
(read -r _ </run/power; kill 1) &
printf '#!/bin/sh\n[ "$*" = "-h now" ] && echo off >/run/power\n' >/usr/local/bin/shutdown
printf '#!/bin/sh\n[ "$1" = -n ] && shift; [ "$1" = -l ] || exec "$@"\n' >/usr/local/bin/sudo
chmod 755 /usr/local/bin/shutdown /usr/local/bin/sudo
"""  # of a host: its user may power it off, which ends its first process
LATER = """
import json, os, pathlib, sys, time
(launch,) = pathlib.Path.home().glob(".eighteen/launches/*")
for path in [*launch.glob("heard"), *launch.glob("begun-*"), *launch.glob("exit-*")]:
    os.utime(path, (time.time() - float(sys.argv[1]),) * 2)
facts = json.loads((launch / "limits.json").read_text())
(launch / "later").write_text(json.dumps(facts | {"began": time.time() - float(sys.argv[1])}))
(launch / "later").rename(launch / "limits.json")
"""


def block(beginning):
    (found,) = (one for one in BLOCKS if one.startswith(beginning))
    return found


def line(beginning):
    (found,) = (one for text in BLOCKS for one in text.splitlines() if one.startswith(beginning))
    return found


@pytest.fixture
def desk(lab, packed, tmp_path):
    """A folder at the desk with photos.e18, and hosts whose python3 has the packages that training needs."""
    place = "/usr/local/bin/python3"
    python = f"printf '#!/bin/sh\\nexec {sys.executable} \"$@\"\\n' >{place}; chmod 755 {place}"
    for host in lab.hosts.values():
        host.power_off()
        host.at_boot = f"nft -f - <<'EOF'\n{block('table inet')}\nEOF\n{python}\n{POWER}"
        host.boot()
    shutil.copytree(packed.path, tmp_path / "photos.e18")
    return tmp_path


@pytest.mark.soak_cloud
def test_what_comes_before_the_first_launch(lab, desk):
    known = "rm ~/.ssh/known_hosts\n"
    here = block("ssh-keyscan").replace(line("ssh-keygen -lf /etc"), "")
    done = lab.run(["sh", "-euc", known + here], cwd=desk)
    assert done.returncode == 0, done.stderr
    for host in lab.hosts.values():
        there = host.ssh(line("ssh-keygen -lf /etc")).stdout
        assert there.split()[1] in done.stdout
        assert host.ssh("getent hosts node1").stdout.split()[0] == "10.77.0.1"
        assert host.ssh("getent hosts $(hostname)").stdout.split()[0] == host.address


@pytest.mark.soak_cloud
def test_a_launch_from_its_begin_to_its_end(lab, desk):
    def typed(beginning):
        words = ["sh", "-c", "exec " + line(beginning).replace("NAME", launched.run.name)]
        done = lab.run(words, cwd=desk, env={**os.environ, "PATH": PATH})
        assert done.returncode == 0, done.stderr
        return done.stdout

    words = ["sh", "-c", "exec " + line("eighteen launch photos.e18 --hosts node1,node2  ")]
    launched = Launched(lab, words, cwd=desk, env={**os.environ, "PATH": PATH})
    try:
        launched.wait_for("  step ")
        assert typed("eighteen launch photos.e18 --hosts node1,node2 --print").count("eighteen.training.torchrun") == 2
        assert typed("eighteen status").count("training") == 2
        assert typed("eighteen logs").startswith("== node2\n")
        typed("eighteen stop")
        assert launched.end() == 75
        assert typed("eighteen down") == "node1: nothing is left\nnode2: nothing is left\n"
    finally:
        launched.end(signal.SIGKILL)
    for host in lab.hosts.values():
        assert not host.processes()


def limited(lab, desk, beginning, *, epochs=5000):
    """A launch of the section on limits."""
    words = ["sh", "-c", f"exec {line(beginning)}{QUICK}{epochs}"]
    return Launched(lab, words, cwd=desk, env={**os.environ, "PATH": PATH})


def later(lab, minutes):
    """As if what the hosts noted a time of had been so long ago."""
    for host in lab.hosts.values():
        done = host.ssh(f"python3 - {60 * minutes} <<'EOF'\n{LATER}\nEOF")
        assert done.returncode == 0, done.stderr


@pytest.mark.soak_cloud
def test_the_limit_of_hours_saves_and_ends_with_6_and_the_machines_stay(lab, desk):
    launched = limited(
        lab, desk, "eighteen launch photos.e18 --hosts node1,node2 --max-hours 2 --after-failure stop:60m"
    )
    try:
        launched.wait_for("  step ")
        assert "what runs is ended 2h after it began" in launched.said
        done = lab.run(["eighteen", "status", str(launched.run)], cwd=desk, env={**os.environ, "PATH": PATH})
        assert done.stdout.count("training") == done.stdout.count(", the limit of all") == 2, done.stdout
        later(lab, 120)
        assert launched.end() == 6
        assert "the same command with a higher limit goes on" in launched.said
        assert launched.events("end")[-1]["reason"] == "stopped"
        assert launched.events("checkpoint")
    finally:
        launched.end(signal.SIGKILL)
    assert not any(host.is_off for host in lab.hosts.values())


@pytest.mark.soak_cloud
def test_the_limit_of_cost_saves_and_powers_off_though_the_launch_is_dead(lab, desk):
    launched = limited(lab, desk, "eighteen launch photos.e18 --hosts node1,node2 --max-cost '$40' --price-usd-h 24")
    try:
        launched.wait_for("  step ")
        assert "the machines power off 1h40m after it began" in launched.said
    finally:
        launched.end(signal.SIGKILL)
    later(lab, 100)
    for host in lab.hosts.values():
        wait_until(lambda host=host: not host.ranks())
    assert lab.hosts["node1"].ssh("ls -d .eighteen/launches/*/runs/*/checkpoints/step-*").stdout
    assert not any(host.is_off for host in lab.hosts.values())
    later(lab, 102)
    wait_until(lambda: all(host.is_off for host in lab.hosts.values()))


@pytest.mark.soak_cloud
def test_machines_power_off_after_success(lab, desk):
    beginning = "eighteen launch photos.e18 --hosts node1,node2 --power-off --after-success stop:5m"
    launched = limited(lab, desk, beginning, epochs=1)
    assert launched.end() == 0, launched.said
    assert "the machines power off 5m after success" in launched.said
    later(lab, 4)
    assert not any(host.is_off for host in lab.hosts.values())
    later(lab, 5)
    wait_until(lambda: all(host.is_off for host in lab.hosts.values()))
