"""Who listens: no command may open a socket that another machine could reach."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from eighteen.demo.pictures import draw

LISTENS = {"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"}  # the state of a socket that takes what comes
LOCAL = re.compile(r"[0-9A-F]{6}7F|0{24}01000000|0{16}FFFF0000[0-9A-F]{6}7F")  # 127.*, ::1, ::ffff:127.*
POLL_S = 0.05


def tree(process: int) -> Iterator[int]:
    """The process and all that descend from it."""
    yield process
    try:
        for task in Path(f"/proc/{process}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from tree(int(child))
    except OSError:  # gone by now
        pass


def sockets_of(process: int) -> set[str]:
    """The inodes of its open sockets."""
    found = set()
    try:
        for descriptor in Path(f"/proc/{process}/fd").iterdir():
            try:
                if link := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(descriptor)):
                    found.add(link[1])
            except OSError:
                continue
    except OSError:
        pass
    return found


def listening(process: int) -> set[tuple[str, str]]:
    """(protocol, address in hexadecimal) of the sockets on which a process or one of its children listens."""
    inodes = set().union(*map(sockets_of, tree(process)))
    found = set()
    for protocol, state in LISTENS.items():
        table = Path("/proc/net", protocol)
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            _, local, _, status, *_, inode = line.split()[:10]
            if status == state and inode in inodes:
                found.add((protocol, local.partition(":")[0]))
    return found


def heard(words: list[str], folder: Path) -> tuple[set[tuple[str, str]], int]:
    """Run a command to its end; on which addresses it listened meanwhile, and its exit code."""
    process = subprocess.Popen(words, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    found: set[tuple[str, str]] = set()
    while process.poll() is None:
        found |= listening(process.pid)
        time.sleep(POLL_S)
    return found, process.returncode


def is_local(address: str) -> bool:
    return LOCAL.fullmatch(address) is not None


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with pictures, a dataset and a finished run."""
    place = tmp_path_factory.mktemp("place")
    draw(place / "photos", num_samples=60, seed=18)
    (place / "mine.toml").write_text(RECIPE)
    commands = ("pack photos photos.e18", "train photos.e18 --recipe mine.toml --name first")
    for command in commands:
        subprocess.run([sys.executable, "-m", "eighteen", *command.split()], cwd=place, check=True, capture_output=True)
    next((place / "runs").iterdir()).rename(place / "runs" / "one")
    return place


RECIPE = """
name = "mine"
[model]
name = "eighteen.training.compact:CompactNet"
[optim]
batch = 16
lr = [[0, 0.01], [2, 0.0]]
[[phases]]
epochs = 2
size = 32
batch = 16
[eval]
size = 32
"""

NOWHERE = (
    "pack photos again.e18 --procs 2",
    "check photos.e18",
    "preview photos.e18",
    "train photos.e18 --recipe mine.toml",
    "train photos.e18 --recipe mine.toml --checkpoint-to copies",
    "eval runs/one photos.e18",
    "predict runs/one photos",
    "recipes small",
    "bench loader photos.e18 --pictures 64 --batch 16 --repeats 1 --threads 1",
    "bench train photos.e18 --recipe mine.toml --steps 1 --rounds 1 --no-compile",
    "--version",
)


def test_what_listens_is_found(tmp_path):
    code = "import socket, time; s = socket.create_server(('ADDRESS', 0)); time.sleep(60)"
    for address, local in (("127.0.0.1", True), ("0.0.0.0", False)):
        process = subprocess.Popen(["sh", "-c", f'{sys.executable} -c "{code.replace("ADDRESS", address)}"; true'])
        try:
            while not (found := listening(process.pid)):
                assert process.poll() is None
            assert [(protocol, is_local(where)) for protocol, where in found] == [("tcp", local)]
        finally:
            for one in reversed(list(tree(process.pid))):
                os.kill(one, 9)
            process.wait()
    assert is_local("0100007F")
    assert is_local("00000000000000000000000001000000")
    assert not is_local("00000000000000000000000000000000")


@pytest.mark.soak
@pytest.mark.parametrize("command", NOWHERE)
def test_no_command_listens(place, command):
    found, code = heard([sys.executable, "-m", "eighteen", *command.split()], place)
    assert code == 0
    assert found == set()


def test_ranks_listen_on_the_loopback_interface_only(place):
    found, code = heard(f"{sys.executable} -m eighteen train photos.e18 --recipe mine.toml --procs 2".split(), place)
    assert code == 0
    assert found, "gloo is heard, or nothing would be proven"
    assert {protocol for protocol, _ in found} <= {"tcp", "tcp6"}
    assert [address for _, address in found if not is_local(address)] == []


@pytest.mark.soak
def test_the_demo_listens_nowhere(tmp_path):
    found, code = heard(f"{sys.executable} -m eighteen demo demo --samples 600".split(), tmp_path)
    assert code == 0
    assert found == set()
