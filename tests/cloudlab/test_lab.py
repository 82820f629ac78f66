"""The lab itself: what a test may rely on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from lab import WITH_ME, wait_until

HERE = Path(__file__).parent
SESSION = """
import sys; sys.path.insert(0, sys.argv[1])
from pathlib import Path; from lab import Lab
lab = Lab(Path(sys.argv[2]), ["node1"]); lab.boot(); print(lab.desk, *lab.hosts["node1"].everything()); sys.stdin.read()
"""


def test_hosts_share_nothing_but_what_this_machine_has(lab, tmp_path):
    one, other = lab.hosts.values()
    (tmp_path / "here").touch()
    assert one.ssh("hostname; whoami").stdout.split() == ["node1", "trainer"]
    assert one.ssh("touch mine && ls").stdout.split() == ["mine"]
    assert other.ssh("ls").stdout == ""
    assert other.ssh(f"ls {tmp_path}").returncode
    assert one.ssh(f"{sys.executable} -c 'import torch'").returncode == 0
    assert "No module named 'eighteen'" in one.ssh(f"{sys.executable} -c 'import eighteen'").stderr
    assert one.ssh("getent hosts node2").stdout.split() == ["10.77.0.2", "node2"]
    assert one.listening() == ["10.77.0.1:22"]


def test_a_host_is_cut_off_and_comes_back_as_it_was(lab):
    one = lab.hosts["node1"]
    one.ssh("touch mine")
    one.cut()
    assert one.ssh("ls", options=["-o", "ConnectTimeout=1"]).returncode == 255
    one.mend()
    assert one.ssh("ls").stdout.split() == ["mine"]


def test_a_host_without_power_has_no_processes_and_comes_back_empty_under_its_key(lab):
    one = lab.hosts["node1"]
    one.ssh("touch mine; tmux new-session -d 'sleep 1000'")
    pids = [*one.processes()]
    assert pids
    one.power_off()
    assert one.ssh("ls", options=["-o", "ConnectTimeout=1"]).returncode == 255
    wait_until(lambda: not any(map(alive, pids)))
    one.boot()
    assert one.ssh("ls").stdout == ""
    assert not one.processes()


def test_a_session_that_is_killed_leaves_nothing_behind(possible, tmp_path):
    words = [*WITH_ME, sys.executable, "-c", SESSION, str(HERE), str(tmp_path / "lab")]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, text=True, start_new_session=True, stdin=pipe, stdout=pipe) as session:
        assert session.stdout
        pids = [int(word) for word in session.stdout.readline().split()]
        assert len(pids) >= 2
        os.kill(session.pid, signal.SIGKILL)
    wait_until(lambda: not any(map(alive, pids)))
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()


def alive(pid):
    return Path(f"/proc/{pid}").exists()
