"""A gigabyte from a bucket to hosts that share nothing, through all that can go wrong on its way.

The bucket is moto's, behind a proxy that counts: see ``bucket``. The hosts got keys for it as docs/launch.md says.
"""

from __future__ import annotations

import re
import signal
import sys
import threading
from pathlib import Path

import bucket
import pytest
from gigabyte import gigabyte, last_of, num_bytes
from lab import Launched, kill, launch, wait_until

from eighteen.data import arriving, dataset

pytestmark = pytest.mark.soak_cloud

PAGE = Path(__file__).parents[2] / "docs" / "launch.md"
URL = "s3://datasets/photos.e18"
KEYS = "[default]\naws_access_key_id = of-the-lab\naws_secret_access_key = canary\n"
LOST_BYTES = (arriving.AT_ONCE + arriving.AHEAD) * arriving.PIECE_BYTES  # on their way, when a process ends
ROOM_BYTES = 2**26


@pytest.fixture(scope="module")
def packages():
    return bucket.packages()


@pytest.fixture(scope="module")
def packed(packages, possible, tmp_path_factory):
    return gigabyte(tmp_path_factory.mktemp("noise"))


@pytest.fixture(scope="module")
def there(lab, packages, packed):
    """The bucket with the dataset in it, and nothing on the hosts."""
    (lab.folder / "keys").write_text(KEYS)
    (lab.folder / "settings").write_text(bucket.SETTINGS)
    place = "umask 077; mkdir ~/.aws; cat keys >~/.aws/credentials; cat settings >~/.aws/config"
    assert lab.run(["sh", "-euc", place], cwd=lab.folder).returncode == 0
    for host in lab.hosts.values():
        bucket.furnish(host, packages)
        begin_anew(lab, host)
    with bucket.Bucket(lab, "datasets") as found:
        words = ["env", f"PYTHONPATH={packages}", sys.executable, "-m", "eighteen"]
        pushed = lab.run([*words, "push", str(packed.path), "s3://datasets"])
        assert pushed.stdout == f"sent to {URL}\n", pushed.stderr
        yield found


def begin_anew(lab, host):
    """With an empty disk, but for the keys."""
    host.power_off()
    host.boot()
    (lines,) = re.findall(r"^```\n(ssh node1 .*\.aws.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    done = lab.run(["sh", "-euc", lines.replace("node1", host.name)])
    assert done.returncode == 0, done.stderr
    assert host.ssh("stat -c %a .aws/credentials").stdout == "600\n"


def launched(lab, folder, *more):
    more = ("--epochs", "1", "--no-preflight", "--set", "data.keep=never", *more)
    return Launched(lab, launch(URL, *more), cwd=folder)


class Way:
    """What came to one host."""

    def __init__(self, there, host, packed):
        self.way, self.host, self.start = there.way, host, f"{host.address} datasets/photos.e18/"
        facts = dataset.read_facts(packed.path)
        self.sizes = {one.name: one.num_bytes for one in dataset.stored_files(facts)}
        self.shards = dataset.shards(facts)

    def sent(self, name=None):
        return sum(self.way.sent[self.start + one] for one in ([name] if name else self.sizes))

    def more(self):
        """What came oftener than once, by file."""
        return {name: self.sent(name) - size for name, size in self.sizes.items() if self.sent(name) != size}

    def check(self):
        """Every byte, there."""
        words = "PYTHONPATH=$(echo ~/.eighteen/code/*) {} -m eighteen check ~/.cache/eighteen/datasets/*.e18"
        done = self.host.ssh(words.format(sys.executable))
        assert done.returncode == 0, done.stdout + done.stderr

    def forget(self):
        for one in self.sizes:
            self.way.sent.pop(self.start + one, None)


@pytest.fixture
def ways(lab, there, packed):
    return {name: Way(there, host, packed) for name, host in lab.hosts.items()}


def test_it_comes_whole_through_resets_a_spoilt_shard_and_kills_and_trains_meanwhile(
    lab, there, ways, packed, tmp_path
):
    shards, gate = next(iter(ways.values())).shards, threading.Event()
    expected = {*shards[::5], shards[3]}
    for way in ways.values():
        there.way.resets.update({way.start + name: 1 for name in shards[::5]})
        there.way.spoilt[way.start + shards[3]] = 1
        there.way.gates[way.start + last_of(packed)] = gate
    there.way.bytes_per_s = 20e6 / arriving.AT_ONCE
    begun = launched(lab, tmp_path)
    try:
        wait_until(lambda: all(way.sent() > 3 * 10**8 for way in ways.values()) or begun.has_ended)
        for host in lab.hosts.values():
            kill(host.processes())
    finally:
        begun.end(signal.SIGKILL)
    there.way.bytes_per_s = 0.0
    again = launched(lab, tmp_path)
    try:
        first = again.wait_for("  step ")  # with that shard still to come
        assert not [name for name in there.way.ended if name.endswith(last_of(packed))]
        gate.set()
        assert again.end() == 0, again.said
    finally:
        gate.set()
        again.end(signal.SIGKILL)
    for name, way in ways.items():
        way.check()
        more = way.more()
        lost = sum(count for shard, count in more.items() if shard not in expected)
        last = there.way.ended[way.start + last_of(packed)]
        print(f"{name}: {way.sent():,} bytes for {sum(way.sizes.values()):,}, {lost:,} lost to the kill;", end=" ")
        print(f"first step {last - first:.1f} s before the last shard")
        assert lost <= LOST_BYTES
        assert sum(more.values()) <= LOST_BYTES + arriving.PIECE_BYTES * len(shards[::5]) + way.sizes[shards[3]]


def test_a_shard_that_comes_wrong_again_and_again_is_named_and_nothing_else_is_read_twice(lab, there, ways, tmp_path):
    one, other = ways.values()
    begin_anew(lab, other.host)
    other.forget()
    wrong, came = other.shards[5], one.sent()
    there.way.spoilt[other.start + wrong] = 100
    refused = launched(lab, tmp_path)
    assert refused.end() == 3, refused.said
    named = rf"node2: DataError: bring {URL}/{wrong}: got bytes that do not match its digest, twice"
    assert re.search(named, refused.said), refused.said
    there.way.spoilt.clear()
    again = launched(lab, tmp_path)  # another one: this has come to its end
    assert again.end() == 0, again.said
    other.check()
    more = other.more()
    lost = sum(count for name, count in more.items() if name != wrong)
    print(f"{one.sent() - came:,} bytes to who has it; {lost:,} bytes that were on their way when the other gave up")
    assert one.sent() == came
    assert lost <= LOST_BYTES


def test_a_disk_that_becomes_full_is_named_and_what_came_stays(lab, there, ways, packed, tmp_path):
    other = ways["node2"]
    cache, size = "/home/trainer/.cache", num_bytes(packed.path) + ROOM_BYTES
    other.host.at_boot += f"mkdir {cache}; mount -t tmpfs -o size={size},mode=1777 lab {cache}\n"
    begin_anew(lab, other.host)
    other.forget()
    there.way.bytes_per_s = 40e6 / arriving.AT_ONCE
    full = launched(lab, tmp_path)
    wait_until(lambda: other.sent() > size // 2 or full.has_ended)
    other.host.ssh("cat /dev/zero >~/.cache/filler")
    there.way.bytes_per_s = 0.0
    assert full.end() == 4, full.said
    print(full.said.splitlines()[-2:])
    assert re.search(r"node2: .*ENOSPC|node2: .*bytes free on the disk", full.said), full.said
    came = other.sent()
    other.host.ssh("rm ~/.cache/filler")
    again = launched(lab, tmp_path)
    assert again.end() == 0, again.said
    other.check()
    lost = sum(other.more().values())
    print(f"{came:,} bytes before the disk was full, {other.sent() - came:,} after; {lost:,} lost")
    assert 0 <= lost <= LOST_BYTES
