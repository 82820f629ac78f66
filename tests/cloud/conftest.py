"""What answers as a cloud does is found here, and machines that are home folders, reached by a stand-in for ssh."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

import eighteen
from eighteen.cloud import driver

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "training")]  # the latter's metadata server

from launching import HOSTS, alive  # noqa: E402


@pytest.fixture
def machines(tmp_path, monkeypatch):
    """Two, each with nothing but a home folder; one that is powered off is silent, and notes how often it was."""
    folder, program = tmp_path / "machines", tmp_path / "bin" / "ssh"
    for name in HOSTS.split(","):
        (folder / name).mkdir(parents=True)
    program.parent.mkdir()
    shutil.copy(Path(__file__).with_name("fake_ssh.py"), program)
    program.with_name("shutdown").write_text('#!/bin/sh\necho "$@" >>~/off\ntouch ~/cut\n')
    for each in program.parent.iterdir():
        each.chmod(0o755)
    monkeypatch.setenv("FAKE_HOSTS", str(folder))
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    monkeypatch.setattr(driver, "POLL_S", 0.2)
    monkeypatch.chdir(tmp_path)
    yield folder
    for pid in alive(folder):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for name in HOSTS.split(","):
        subprocess.run(
            ["tmux", "kill-server"], env={**os.environ, "TMUX_TMPDIR": str(folder / name)}, capture_output=True
        )


@pytest.fixture(scope="module")
def packed(pictures, tmp_path_factory):
    return eighteen.pack(pictures, tmp_path_factory.mktemp("here") / "photos.e18", procs=1)
