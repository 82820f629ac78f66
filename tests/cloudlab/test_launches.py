"""Launches on hosts that share nothing, from one packed dataset here to a run that lies here."""

from __future__ import annotations

import json
import os
import pty
import re
import secrets
import shutil
import signal
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from lab import CHANGES, Launched, launch, wait_until

import eighteen
from eighteen.base import rundir
from eighteen.training import checkpoint

EVIL = """a 'b' "c"; $(touch pwned) `touch pwned` & touch pwned"""


@pytest.mark.soak_cloud
def test_two_machines_that_share_nothing_train_what_one_would(lab, packed, tmp_path):
    done = lab.run(launch(packed.path, "--epochs", "2"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "runs").iterdir()
    assert done.stdout == f"runs/{path.name}\n"
    ours = checkpoint.newest(rundir.open(path))
    alone = eighteen.train(packed, recipe="demo", epochs=2, procs=2, changes=CHANGES, runs_dir=tmp_path / "alone")
    theirs = checkpoint.newest(rundir.open(alone.run))
    assert ours.step == theirs.step
    for name, weight in ours.tensors("model").items():
        assert weight.equal(theirs.tensors("model")[name]), name


class Trains:
    """A launch that goes on for long, with names that a shell would trip over, and with a secret in its environment."""

    def __init__(self, lab, pictures, folder):
        self.lab, self.folder, self.secret = lab, folder, f"canary-{secrets.token_hex(12)}"
        shutil.copytree(pictures, folder / "pictures")
        first, *_ = sorted((folder / "pictures").iterdir())
        first.rename(first.with_name(EVIL))
        data = eighteen.pack(folder / "pictures", folder / f"{EVIL}.e18", procs=1).path
        (folder / EVIL).write_text("node1\nnode2\n")
        words = launch(data, "--epochs", "2000", "--set", f"about={EVIL}", hosts=f"./{EVIL}")
        secret = dict.fromkeys(("AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "HF_TOKEN"), self.secret)
        self.launched = Launched(lab, words, cwd=folder, env={**os.environ, **secret})
        self.launched.wait_for("  step ")

    def line(self, about):
        """A command that was printed, as somebody would paste it."""
        (found,) = re.findall(rf"^node1: {about}; (ssh .*)$", self.launched.said, re.MULTILINE)
        return found


@pytest.fixture(scope="module")
def trains(lab, pictures, tmp_path_factory):
    with all_words() as seen:
        trains = Trains(lab, pictures, tmp_path_factory.mktemp("desk"))
        try:
            yield trains
        finally:
            trains.launched.end(signal.SIGINT)
    assert any("eighteen" in words for words in seen)
    assert not [words for words in seen if trains.secret in words]


@contextmanager
def all_words():
    """Of the processes of this machine, and so of all hosts, looked at again and again."""
    seen, ends = set(), threading.Event()

    def look():
        while not ends.wait(0.05):
            for place in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):
                    seen.add(place.read_text(errors="replace"))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        ends.set()
        thread.join()


@pytest.mark.soak_cloud
def test_the_printed_line_shows_the_training(trains):
    with typed(trains, trains.line("training"), ends_with=b"\x02d") as screen:
        assert "loss" in screen("  step ")


@pytest.mark.soak_cloud
@pytest.mark.parametrize(
    ("page", "port", "says", "path", "shows"),
    [
        ("TensorBoard", 6006, "TensorBoard ", "data/plugin/scalars/tags", "train/loss"),
        ("live page", 8018, "shows it until Ctrl-C", "now", "images/s"),
    ],
)
def test_the_printed_lines_show_pages_until_ctrl_c(trains, page, port, says, path, shows):
    url, there = f"http://127.0.0.1:{port}", trains.lab.hosts["node1"]
    with typed(trains, trains.line(f"{page} at {url}"), ends_with=b"\x03") as screen:
        screen(says)
        ask = ["curl", "--fail", "--silent", f"{url}/{path}"]
        assert shows in wait_until(lambda: trains.lab.run(ask).stdout)
        assert f"127.0.0.1:{port}" in there.listening()
    assert f"127.0.0.1:{port}" not in there.listening()


@contextmanager
def typed(trains, line, *, ends_with):
    """A command in a terminal of its own at the desk. What it gives returns the screen once a text is on it."""
    keyboard, screen = pty.openpty()
    with trains.lab.start(
        ["sh", "-c", f"exec {line}"], cwd=trains.folder, stdin=screen, stdout=screen, stderr=screen
    ) as process:
        os.close(screen)
        said = b""

        def read_to(text):
            nonlocal said
            while text.encode() not in said:
                said += os.read(keyboard, 2**16)
            return said.decode(errors="replace")

        try:
            yield read_to
            os.write(keyboard, ends_with)
            with suppress(OSError):  # nobody holds the other end any more
                while os.read(keyboard, 2**16):
                    pass
            process.wait(60)
        finally:
            process.kill()
            os.close(keyboard)


@pytest.mark.soak_cloud
def test_nothing_is_listened_on_but_what_the_page_says(trains):
    """ssh, gloo and torch's launcher, each on a machine's own address."""
    (port,) = {json.loads(path.read_text())["port"] for path in trains.folder.glob("runs/*/launch/launch.json")}
    for host in trains.lab.hosts.values():
        listening = host.listening()
        assert not [one for one in listening if not one.startswith((f"{host.address}:", "127.0.0.1:"))]
        assert (f"{host.address}:{port}" in listening) == (host.name == "node1")


@pytest.mark.soak_cloud
def test_names_are_executed_nowhere(trains):
    assert not [*trains.folder.rglob("pwned")]
    for host in trains.lab.hosts.values():
        assert host.files("*touch pwned*")
        assert not host.files("pwned")


@pytest.mark.soak_cloud
def test_secrets_of_the_desk_are_nowhere_else(trains):
    there = [place for place in trains.folder.rglob("*") if place.is_file()]
    assert not [place for place in there if trains.secret.encode() in place.read_bytes()]
    for host in trains.lab.hosts.values():
        assert host.holds("eighteen.training.torchrun")
        assert not host.holds(trains.secret)


@pytest.mark.soak_cloud
def test_down_leaves_nothing_alive_in_the_midst_of_training(trains):
    assert any(host.ranks() for host in trains.lab.hosts.values())
    done = trains.lab.run([sys.executable, "-m", "eighteen", "down", str(trains.launched.run)])
    assert done.stdout == "node1: nothing is left\nnode2: nothing is left\n"
    assert trains.launched.end() == 75
    assert "eighteen down meanwhile" in trains.launched.said
    (name,) = {json.loads(path.read_text())["name"] for path in trains.folder.glob("runs/*/launch/launch.json")}
    for host in trains.lab.hosts.values():
        assert not host.processes()
        assert name not in host.ssh("ls .eighteen/launches").stdout
