"""Hosts with a network each, on this machine: namespaces around a bridge. Needs root; takes 10.77.240.0/20."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PREFIX = "pf-"
TOOLS = ("ip", "nft", "tc", "unshare", "hostname")
FILES = Path("/etc/netns")  # what ``ip netns exec`` lays over /etc


def why_not() -> str | None:
    """Why there can be no such hosts here; None if there can."""
    if os.geteuid():
        return "networks of their own need root"
    if missing := [tool for tool in TOOLS if not shutil.which(tool)]:
        return f"networks of their own need {', '.join(missing)}"
    done = subprocess.run(["ip", "netns", "add", f"{PREFIX}try"], capture_output=True, text=True)
    if done.returncode:
        return f"no network namespaces here: {done.stderr.strip()}"
    do("ip netns del", f"{PREFIX}try")
    return None


@contextmanager
def nets(hosts: Sequence[str]) -> Iterator[None]:
    """One network, in which each host has the address ``address_of`` tells, and knows the others' names."""
    try:
        do(f"ip link add {PREFIX}bridge type bridge")
        do(f"ip link set {PREFIX}bridge up")
        for host in hosts:
            space, cable = PREFIX + host, f"{PREFIX}v{host}"
            write_hosts(host, {name: address_of(name, hosts) for name in hosts})
            do("ip netns add", space)
            do(f"ip link add {cable} type veth peer name eth0 netns", space)
            do(f"ip link set {cable} master {PREFIX}bridge up")
            do(f"ip -n {space} address add {address_of(host, hosts)}/20 dev eth0")
            do(f"ip -n {space} link set eth0 up")
            do(f"ip -n {space} link set lo up")
        yield
    finally:
        for host in hosts:
            subprocess.run(["ip", "netns", "del", PREFIX + host], capture_output=True)
            shutil.rmtree(FILES / (PREFIX + host), ignore_errors=True)
        subprocess.run(["ip", "link", "del", f"{PREFIX}bridge"], capture_output=True)


def address_of(host: str, hosts: Sequence[str]) -> str:
    return f"10.77.240.{1 + hosts.index(host)}"


def write_hosts(host: str, addresses: dict[str, str]) -> None:
    """What a host knows of names, itself included."""
    folder = FILES / (PREFIX + host)
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in addresses.items())]
    (folder / "hosts").write_text("\n".join(lines) + "\n")
    (folder / "resolv.conf").write_text("")
    (folder / "nsswitch.conf").write_text("hosts: files\n")


def inside(host: str, command: str, text: str = "") -> None:
    do(f"ip netns exec {PREFIX}{host} {command}", text=text)


def do(command: str, *more: str, text: str = "") -> None:
    subprocess.run([*command.split(), *more], check=True, capture_output=True, text=True, input=text)
