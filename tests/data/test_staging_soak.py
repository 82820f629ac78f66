"""A gigabyte from elsewhere, through all that can go wrong on its way. Run by ``make soak-cloud``."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from elsewhere import Elsewhere
from gigabyte import gigabyte, last_of, num_bytes

from eighteen.base import events
from eighteen.base.errors import MachineError
from eighteen.data import arriving, dataset, staging
from eighteen.data.check import check

pytestmark = pytest.mark.soak_cloud

LOST_BYTES = (arriving.AT_ONCE + arriving.AHEAD) * arriving.PIECE_BYTES  # on their way, when a process ends
OPTIONS = ["--recipe", "demo", "--epochs", "1", "--set", "phases.0.size=32", "--set", "eval.size=32"]
OPTIONS += ["--set", "train.log_every=1", "--set", "data.keep=never"]


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return gigabyte(tmp_path_factory.mktemp("noise"))


@pytest.fixture
def there(packed):
    with Elsewhere(packed.path.parent) as found:
        yield found


def names_of(packed) -> list[str]:
    return [f"photos.e18/{name}" for name in dataset.shards(dataset.read_facts(packed.path))]


def test_a_gigabyte_comes_whole_through_resets_a_spoilt_shard_and_a_kill_and_trains_meanwhile(packed, there, tmp_path):
    names = names_of(packed)
    for name in names[::5]:
        there.resets[name] = 1
    there.spoilt[names[3]] = 1
    there.bytes_per_s = 20e6 / arriving.AT_ONCE  # slower than training, which so waits for shards
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "eighteen", "train", f"{there.url}/photos.e18", *OPTIONS]
    begun = subprocess.Popen(command, cwd=tmp_path, env=environment)
    try:
        wait_for(lambda: sum(there.sent.values()) > 3 * 10**8, begun)
    finally:
        begun.send_signal(signal.SIGKILL)
        begun.wait()
    there.bytes_per_s = 0.0
    gate = there.gates[f"photos.e18/{last_of(packed)}"] = threading.Event()
    again = subprocess.Popen(command, cwd=tmp_path, env=environment)
    wait_for(lambda: first_step(tmp_path), again)  # with that shard still to come
    gate.set()
    assert again.wait() == 0
    (copy,) = (tmp_path / "cache" / "eighteen" / "datasets").glob("photos-*.e18")
    assert not check(copy).problems  # every byte
    assert dataset.open(copy).digest == packed.digest
    known = {f"photos.e18/{one.name}": one.num_bytes for one in dataset.stored_files(dataset.read_facts(copy))}
    more = {name: there.sent[name] - size for name, size in known.items() if there.sent[name] != size}
    expected = {*names[::5], names[3]}
    lost = sum(count for name, count in more.items() if name not in expected)
    pieces = arriving.PIECE_BYTES * len(names[::5])
    print(f"{sum(there.sent.values()):,} bytes sent for {num_bytes(copy):,}; {lost:,} lost to the kill")
    assert sum(more.values()) <= LOST_BYTES + pieces + known[names[3]]
    last, first = max(there.ended[name] for name in names), first_step(tmp_path)
    print(f"first step {last - first:.1f} s before the last shard")
    assert first < last


def test_a_disk_that_becomes_full_is_named_and_what_came_stays(packed, there, tmp_path):
    url, names = f"{there.url}/photos.e18", names_of(packed)
    with small_disk(tmp_path / "tiny", num_bytes(packed.path) // 2) as tiny:
        with pytest.raises(MachineError, match=r"bring http.*bytes free on the disk"):
            staging.stage(url, tiny)
        assert not [name for name, _ in there.asked if name in names]
    with small_disk(tmp_path / "disk", num_bytes(packed.path) + 2**26) as disk:
        filler = disk / "filler"

        def fill(done: int, total: int, _: int) -> None:
            if done > total // 2 and not filler.exists():
                with filler.open("wb", buffering=0) as file:
                    while room := shutil.disk_usage(disk).free:
                        file.write(bytes(min(room, 2**20)))

        with pytest.raises(MachineError, match=r"write .*\.part: got ENOSPC"):
            staging.stage(url, disk, on_progress=fill)
        came = sum(there.sent[name] for name in names)
        filler.unlink()
        copy = staging.stage(url, disk)
        assert not check(copy).problems
        again = sum(there.sent[name] for name in names) - came
        lost = came + again - sum((packed.path.parent / name).stat().st_size for name in names)
        print(f"{came:,} bytes before the disk was full, {again:,} after; {lost:,} lost")
        assert 0 <= lost <= LOST_BYTES


@contextmanager
def small_disk(path: Path, size: int) -> Iterator[Path]:
    """A file system in memory of so many bytes."""
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("only root mounts a file system")
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def first_step(folder: Path) -> float:
    """When it was told, if it was; else 0."""
    told = [one for path in folder.glob("runs/*/events.jsonl") for one in events.read(path)]
    return min((one["time_s"] for one in told if one["event"] == "step"), default=0.0)


def wait_for(is_so, process) -> None:
    while not is_so():
        assert process.poll() is None
        time.sleep(0.05)
