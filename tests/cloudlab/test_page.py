"""The commands of docs/launch.md, as they stand there, behind the firewall that it recommends."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
from pathlib import Path

import pytest
from lab import Launched

PAGE = Path(__file__).parents[2] / "docs" / "launch.md"
BLOCKS = re.findall(r"^```\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


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
        host.at_boot = f"nft -f - <<'EOF'\n{block('table inet')}\nEOF\n{python}"
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
        there = host.ssh(line("ssh-keygen -lf /etc").replace("ssh_host_ed25519_key", "key")).stdout
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
        assert typed("eighteen launch photos.e18 --hosts node1,node2 --print").count("eighteen.cloud.torchrun") == 2
        assert typed("eighteen status").count("training") == 2
        assert typed("eighteen logs").startswith("== node2\n")
        typed("eighteen stop")
        assert launched.end() == 75
        assert typed("eighteen down") == "node1: nothing is left\nnode2: nothing is left\n"
    finally:
        launched.end(signal.SIGKILL)
    for host in lab.hosts.values():
        assert not host.processes()
