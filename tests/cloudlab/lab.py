"""A small cloud on one machine: hosts that share nothing, behind real sshd, and the desk at which one launches.

A host has its own network, processes, name and file system: an overlay over this machine's, whose changes are in
memory and gone at power-off. So it has this machine's Python and packages, but neither ``eighteen`` nor what lies in
``/tmp``. The desk is this machine, but for its network and names, which are the lab's, and ``~/.ssh``, which opens the
hosts.

All are namespaces that live as long as a process in them, and each such process is killed by the kernel when its parent
dies: a session that ends in whatever way leaves no process, link, address or mount behind. Nobody outside the lab sees
its addresses, 10.77.0.0/24, and nothing in it has a route out.
"""

from __future__ import annotations

import ctypes
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import eighteen

USER = "trainer"
DESK_ADDRESS = "10.77.0.254"
NEW_NET = 0x40000000  # CLONE_NEWNET
GIVE_UP_S = 300.0
CHANGES = ["phases.0.size=32", "eval.size=32", "train.log_every=1"]
SOURCE = Path(eighteen.__file__).parents[1]
PROGRAMS = ("ip", "nsenter", "setpriv", "ss", "ssh-keygen", "tmux", "unshare", "useradd", "/usr/sbin/sshd")
WITH_ME = ("setpriv", "--pdeathsig", "KILL")  # what is started so ends when its parent does
NEW_DESK = ("unshare", "--net", "--mount")
NEW_HOST = ("unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--kill-child")

OVERLAY = """
over() { mkdir "$2/upper" "$2/work"; mount -t overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" lab "$3"; }
memory() { mount -t tmpfs -o "mode=$1" lab "$2"; }
"""
DESK = """
ip link set lo up
ip link add lab type bridge
ip address add "$ADDRESS/24" dev lab
ip link set lab up
memory 700 "$LAB/disk"
over ~ "$LAB/disk" ~
rm -rf ~/.ssh ~/.eighteen
install -D -m 600 -t ~/.ssh "$LAB"/ssh/*
mount --bind "$LAB/names" /etc/hosts
echo ready
exec sleep infinity
"""
HOST = """
echo waits for its link
read -r _
hostname "$NAME"
ip link set lo up
ip address add "$ADDRESS/24" dev eth0
ip link set eth0 up
memory 755 "$LAB/disk"
root=$LAB/disk/root
mkdir "$root"
over / "$LAB/disk" "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
memory 1777 "$root/dev/shm"
memory 1777 "$root/tmp"
memory 755 "$root/run"
mkdir "$root/run/sshd"
chmod 755 "$root/root"
for place in $SHOWN; do mkdir -p "$root$place"; mount --bind -o ro "$place" "$root$place"; done
for place in $HIDDEN; do rm -rf "$root$place"; done
[ -z "$MORE" ] || cp -a "$MORE/." "$root"
cat "$LAB/names" >"$root/etc/hosts"
cp "$LAB"/etc/* "$root/etc/ssh"
chroot "$root" useradd --create-home --password '*' --shell /bin/bash ${ID:+--uid "$ID"} "$WHO"
install -D -m 600 -t "$root/home/$WHO/.ssh" "$LAB"/authorized_keys
chroot "$root" chown -R "$WHO" "/home/$WHO/.ssh"
chroot "$root" sh -c "$AT_BOOT"
echo ready
exec chroot "$root" /usr/sbin/sshd -D -e -f /etc/ssh/lab
"""
SSHD = """Port 22
ListenAddress {address}
HostKey /etc/ssh/ssh_host_ed25519_key
AuthorizedKeysFile .ssh/authorized_keys
PasswordAuthentication no
PermitRootLogin no
UsePAM no
MaxStartups 100
SetEnv OMP_NUM_THREADS=1
"""  # one thread for each rank, as in all tests: sums are then added up in the same order everywhere


def missing(folder: Path) -> str | None:
    """Why there can be no lab here; None if there can."""
    if os.geteuid():
        return "a lab of hosts needs root"
    if lacks := [name for name in PROGRAMS if not shutil.which(name)]:
        return f"a lab of hosts needs {', '.join(lacks)}"
    if Path(sys.prefix).resolve().is_relative_to("/tmp"):
        return f"a lab of hosts needs packages elsewhere than in {sys.prefix}: each host has a /tmp of its own"
    tried = """memory 755 "$LAB"; mkdir "$LAB/root"; over / "$LAB" "$LAB/root"; mount -t proc proc "$LAB/root/proc"
    ip link add lab type bridge; ip link add name left type veth peer name right; chroot "$LAB/root" true"""
    done = subprocess.run(
        [*NEW_HOST, *_script(tried)], env={**os.environ, "LAB": str(folder)}, capture_output=True, text=True
    )
    return f"no lab of hosts here: {done.stderr.strip()}" if done.returncode else None


class Lab:
    """The desk, and the hosts of these names, none of which runs before ``boot``."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder = folder
        self.hosts = {name: Host(self, name, f"10.77.0.{number}") for number, name in enumerate(names, start=1)}
        (folder / "ssh").mkdir(parents=True)
        _key(folder / "ssh" / "id_ed25519")
        shutil.copy(folder / "ssh" / "id_ed25519.pub", folder / "authorized_keys")
        known = [f"{one.name} {one.key()}" for one in self.hosts.values()]
        (folder / "ssh" / "known_hosts").write_text("\n".join(known) + "\n")
        (folder / "ssh" / "config").write_text(f"Host *\n User {USER}\n")
        addresses = [f"{one.address} {one.name}" for one in self.hosts.values()]
        (folder / "names").write_text("\n".join(["127.0.0.1 localhost", *addresses]) + "\n")
        self._desk = _started(NEW_DESK, DESK, folder, {"ADDRESS": DESK_ADDRESS})

    @property
    def desk(self) -> int:
        """The process that keeps it."""
        return self._desk.pid

    def words(self, command: Sequence[str], *, cwd: Path) -> list[str]:
        """What does a command at the desk; the process of these words is the command's own."""
        return [*WITH_ME, *_inside(self._desk), f"--wdns={cwd}", "--", *command]

    def run(self, command: Sequence[str], *, cwd: Path = Path("/"), **more: Any) -> subprocess.CompletedProcess[str]:
        """Done at the desk, to its end."""
        more = {"stdin": subprocess.DEVNULL, "capture_output": True, "timeout": GIVE_UP_S} | more
        return subprocess.run(self.words(command, cwd=cwd), text=True, **more)

    def start(self, command: Sequence[str], *, cwd: Path, **more: Any) -> subprocess.Popen[str]:
        """Begun at the desk; who started it ends it."""
        more = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} | more
        return subprocess.Popen(self.words(command, cwd=cwd), text=True, **more)

    def enter(self) -> None:
        """This thread, and those that it begins, have the desk's network from now on."""
        _enter(self._desk)

    def listen(self, port: int) -> socket.socket:
        """A socket of this process at an address of the desk's that hosts reach."""
        return _listen(self._desk, DESK_ADDRESS, port)

    def boot(self) -> None:
        for host in self.hosts.values():
            host.boot()

    def add(self, name: str, address: str) -> Host:
        """One more, which is not yet booted; those that run do not know its name."""
        self.hosts[name] = Host(self, name, address)
        with (self.folder / "names").open("a") as names:
            names.write(f"{address} {name}\n")
        return self.hosts[name]

    def close(self) -> None:
        for host in self.hosts.values():
            host.power_off()
        _end(self._desk)


class Host:
    """One machine. It keeps its name, address and host key, and nothing else, when it is powered off and booted again.

    at_boot: what root's shell does there before anybody can log in      more: a folder of files that it has as well
    user, user_id: who may log in; "": any number      keys: with others than the lab's
    shown: folders of this machine that it has as well, though they lie in a place of which it has its own
    """

    def __init__(self, lab: Lab, name: str, address: str) -> None:
        self.name, self.address, self.user, self.user_id = name, address, USER, ""
        self.at_boot, self.more, self.shown, self.keys = "true", "", list[Path](), list[str]()
        self._lab, self._process = lab, None
        self._folder = lab.folder / name
        (self._folder / "etc").mkdir(parents=True)
        _key(self._folder / "etc" / "ssh_host_ed25519_key")
        (self._folder / "etc" / "lab").write_text(SSHD.format(address=address))

    def key(self) -> str:
        return " ".join((self._folder / "etc" / "ssh_host_ed25519_key.pub").read_text().split()[:2])

    def boot(self) -> None:
        """Until one can log in."""
        self.start()
        done = self.ssh("true", options=["-o", "ConnectionAttempts=20"])
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        """Until sshd does."""
        for name in ("names", "authorized_keys"):
            shutil.copy(self._lab.folder / name, self._folder)
        with (self._folder / "authorized_keys").open("a") as known:
            known.writelines(f"{key}\n" for key in self.keys)
        facts = {"NAME": self.name, "ADDRESS": self.address, "WHO": self.user, "AT_BOOT": self.at_boot}
        facts |= {"ID": self.user_id, "MORE": self.more, "HIDDEN": _hidden()}
        facts["SHOWN"] = shlex.join(map(str, self.shown))
        self._process = _started(NEW_HOST, HOST, self._folder, facts, "waits for its link")
        link = ["ip", "link", "add", self._link(), "type", "veth", "peer", "name", "eth0", "netns"]
        self._lab.run([*link, str(self._process.pid)], check=True)
        self._lab.run(["ip", "link", "set", self._link(), "master", "lab", "up"], check=True)
        assert self._process.stdin
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        _read_until(self._process, "ready")

    def power_off(self) -> None:
        """As if somebody had pulled the plug: nobody is told, and nothing of it stays."""
        if self._process is not None:
            self._lab.run(["ip", "link", "delete", self._link()])
            _end(self._process)
        self._process = None

    @property
    def is_off(self) -> bool:
        """Also by itself."""
        return self._process is None or self._process.poll() is not None

    def listen(self, address: str, port: int) -> socket.socket:
        """A socket of this process at an address that the host has."""
        assert self._process
        return _listen(self._process, address, port)

    def cut(self) -> None:
        """Its cable is pulled: what is sent to it, or by it, is lost without a word."""
        self._lab.run(["ip", "link", "set", self._link(), "down"], check=True)

    def mend(self) -> None:
        self._lab.run(["ip", "link", "set", self._link(), "up"], check=True)

    def ssh(self, command: str, *, options: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        """Done there by the user's shell."""
        return self._lab.run(["ssh", "-o", "BatchMode=yes", *options, self.name, command])

    def as_root(self, command: str) -> subprocess.CompletedProcess[str]:
        """Done there by root's shell, as what a cloud has a machine do."""
        assert self._process
        words = [*_inside(self._process), f"--pid=/proc/{self._process.pid}/ns/pid_for_children"]
        words += ["chroot", str(self._folder / "disk" / "root"), "sh", "-c", command]
        return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=GIVE_UP_S)

    def everything(self) -> list[int]:
        """All processes there, as this machine counts them."""
        if self._process is None:
            return []
        ours, found = os.readlink(f"/proc/{self._process.pid}/ns/pid_for_children"), []
        for place in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                found += [int(place.name)] if os.readlink(place / "ns" / "pid") == ours else []
        return found

    def processes(self) -> list[int]:
        """The user's, but for sshd's part of a login."""
        found = []
        for pid in self.everything():
            with suppress(OSError):
                name = Path(f"/proc/{pid}/comm").read_text().strip()
                found += [pid] if Path(f"/proc/{pid}").stat().st_uid and name != "sshd" else []
        return found

    def ranks(self) -> list[int]:
        """Processes that train."""
        return [pid for pid in self.processes() if any(one.startswith("RANK=") for one in _told(pid))]

    def holds(self, text: str) -> list[str]:
        """What there has this text in it: files that were written, words and environments of processes."""
        assert self._process
        words = [*_inside(self._process), "grep", "-rlF", "-f", "-", *self._written()]
        found = subprocess.run(words, input=text, capture_output=True, text=True).stdout.splitlines()
        return found + [f"{pid}" for pid in self.everything() if any(text in word for word in _told(pid))]

    def files(self, name: str) -> list[str]:
        """Those of this name that were written there."""
        assert self._process
        words = [*_inside(self._process), "find", *self._written(), "-name", name]
        return subprocess.run(words, capture_output=True, text=True).stdout.splitlines()

    def listening(self) -> list[str]:
        """Where something there waits for TCP connections: ADDRESS:PORT."""
        assert self._process
        done = subprocess.run([*_inside(self._process), "ss", "-Hltn"], capture_output=True, text=True, check=True)
        return [line.split()[3] for line in done.stdout.splitlines()]

    def _written(self) -> list[str]:
        """Folders that hold all that was ever written there."""
        disk = self._folder / "disk"
        return [str(disk / name) for name in ("upper", "root/tmp", "root/run", "root/dev/shm")]

    def _link(self) -> str:
        return "to-" + self.address.rpartition(".")[2]


def launch(data: Path | str, *more: str, hosts: str = "node1,node2") -> list[str]:
    """The command for a small training with one rank on each host."""
    words = [sys.executable, "-m", "eighteen", "launch", str(data), "--hosts", hosts, "--procs", "1"]
    changes = [word for change in CHANGES for word in ("--set", change)]
    return [*words, "--python", sys.executable, "--recipe", "demo", *changes, *more]


class Launched:
    """A launch that goes on at the desk, and its run here."""

    def __init__(self, lab: Lab, words: Sequence[str], *, cwd: Path, **more: Any) -> None:
        self._process, self._lines = lab.start(words, cwd=cwd, **more), list[tuple[float, str]]()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        self._runs = cwd / "runs"

    @property
    def run(self) -> Path:
        (path,) = self._runs.iterdir()
        return path

    @property
    def said(self) -> str:
        return "".join(line for _, line in self._lines)

    def events(self, kind: str, since: float = 0.0) -> list[dict[str, Any]]:
        """Of its run, as far as they have come here."""
        path = self.run / "events.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [one for one in map(json.loads, lines) if one["event"] == kind and one["time_s"] > since]

    def line(self, text: str, since: float = 0.0) -> float | None:
        """When it printed the first line with this text."""
        return next((when for when, line in [*self._lines] if when > since and text in line), None)

    def wait_for(self, text: str, since: float = 0.0, limit_s: float = GIVE_UP_S) -> float:
        """When it printed that, as soon as it has."""

        def has_come() -> bool:
            return self.line(text, since) is not None or not self._thread.is_alive()

        wait_until(has_come, limit_s=limit_s)
        found = self.line(text, since)
        assert found is not None, f"it ended without {text!r}:\n{self.said}"
        return found

    @property
    def has_ended(self) -> bool:
        return not self._thread.is_alive()

    def end(self, kind: signal.Signals | None = None) -> int:
        """Its exit code, after this signal or its own end."""
        if kind:
            self._process.send_signal(kind)
        self._thread.join(GIVE_UP_S)
        if self._thread.is_alive():
            self._process.kill()
            self._thread.join()
            raise AssertionError(f"it does not end:\n{self.said}")
        return self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._lines.append((time.time(), line))
        self._process.stdout.close()


def wait_until(happens: Callable[[], Any], *, limit_s: float = GIVE_UP_S, every_s: float = 0.1) -> Any:
    """What it returns as soon as that is true."""
    until = time.monotonic() + limit_s
    while not (found := happens()):
        assert time.monotonic() < until, f"not within {limit_s:g} s"
        time.sleep(every_s)
    return found


def _script(text: str) -> list[str]:
    return ["bash", "-euc", OVERLAY + text]


def _started(
    new: Sequence[str], script: str, folder: Path, facts: Mapping[str, str] | None = None, until: str = "ready"
) -> subprocess.Popen[str]:
    """Namespaces with a process in them that has come so far."""
    (folder / "disk").mkdir(exist_ok=True)
    with (folder / "log").open("a") as log:
        process = subprocess.Popen(
            [*WITH_ME, *new, *_script(script)],
            env={**os.environ, "LAB": str(folder), **(facts or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,  # Ctrl-C is for the session, which then closes the lab
        )
    said = _read_until(process, until)
    assert until in said, (folder / "log").read_text()
    return process


def _read_until(process: subprocess.Popen[str], text: str) -> str:
    said = ""
    assert process.stdout
    for line in process.stdout:
        said += line
        if text in line:
            break
    return said


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def _listen(process: subprocess.Popen[str], address: str, port: int) -> socket.socket:
    def listen() -> socket.socket:
        _enter(process)
        return socket.create_server((address, port))

    with ThreadPoolExecutor(1) as threads:  # one of its own, which alone is there, and ends
        return threads.submit(listen).result()


def _enter(process: subprocess.Popen[str]) -> None:
    with open(f"/proc/{process.pid}/ns/net") as net:
        if ctypes.CDLL(None, use_errno=True).setns(net.fileno(), NEW_NET):
            raise OSError(ctypes.get_errno(), "setns")


def _inside(process: subprocess.Popen[str]) -> list[str]:
    return ["nsenter", "--target", str(process.pid), "--net", "--mount"]


def _hidden() -> str:
    """What a host must not have: the program, installed or as a checkout."""
    packages = [Path(place) for place in sys.path if place.endswith("-packages")]
    return shlex.join(map(str, [SOURCE / "eighteen", *(one for place in packages for one in place.glob("*eighteen*"))]))


def _told(pid: int) -> list[str]:
    """A process's words and environment."""
    found = []
    for name in ("cmdline", "environ"):
        with suppress(OSError):
            found += Path(f"/proc/{pid}/{name}").read_text(errors="replace").split("\0")
    return found


def _key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


def kill(pids: Sequence[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
