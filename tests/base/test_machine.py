"""What a machine says of itself, read from made-up /proc and /sys trees and a stand-in for nvidia-smi."""

from __future__ import annotations

import os
import time

import pytest

from eighteen.base import machine
from eighteen.base.hardware import available_bytes

STAT = "cpu  100 0 100 1000 0 0 0 0 0 0\ncpu0 100 0 100 1000 0 0 0 0 0 0\n"


@pytest.fixture
def tree(tmp_path):
    """A root folder with what a container on Linux has; a test changes what it is about."""
    files = {
        "proc/cpuinfo": "processor\t: 0\nmodel name\t: A Chip\ncpu MHz\t: 2600.5\n\nprocessor\t: 1\n",
        "proc/meminfo": "MemTotal:       16 kB\nMemFree:        2 kB\nMemAvailable:   8 kB\n",
        "proc/stat": STAT,
        "proc/pressure/cpu": "some avg10=12.50 avg60=1.00 total=1\nfull avg10=0.00 total=0\n",
        "proc/self/cgroup": "0::/jobs/mine\n",
        "proc/self/mountinfo": f"22 27 0:21 / / rw - ext4 /dev/a rw\n23 27 0:21 / {tmp_path}/net rw - nfs4 a:/ rw\n",
        "sys/devices/system/cpu/cpu0/topology/thread_siblings_list": "0,32\n",
        "sys/fs/cgroup/jobs/mine/memory.max": "max\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "net/deep").mkdir(parents=True)
    return tmp_path


def write(tree, name, text):
    (tree / name).parent.mkdir(parents=True, exist_ok=True)
    (tree / name).write_text(text)


def test_this_machine_says_what_it_is(tmp_path):
    found = machine.look(tmp_path)
    assert 0 < found.cpus <= found.affinity == len(os.sched_getaffinity(0))
    assert 0 < found.free_bytes <= found.memory_bytes
    assert found.disk.free_bytes > 0


def test_what_proc_and_sys_say(tree):
    found = machine.look(tree, root=tree, watch_s=0.01)
    assert (found.processor, found.mhz, found.threads_per_core) == ("A Chip", 2600.5, 2)
    assert (found.waiting, found.others_cpus) == (0.125, 0.0)
    assert (found.memory_bytes, found.free_bytes) == (16 * 1024, 8 * 1024)
    assert found.unknown["shared memory"] == "no /dev/shm"


def test_what_is_not_there_is_unknown_and_said(tmp_path):
    found = machine.look(tmp_path, root=tmp_path, watch_s=0.01)
    assert (found.mhz, found.waiting, found.others_cpus, found.shm_bytes) == (None, None, None, None)
    assert found.unknown["pressure"] == "the kernel keeps no pressure stall information"
    assert found.disk.filesystem == "unknown"
    assert found.cpus == found.affinity


@pytest.mark.parametrize(
    ("name", "text", "cpus"),
    [
        ("sys/fs/cgroup/jobs/mine/cpu.max", "50000 100000\n", 0.5),
        ("sys/fs/cgroup/jobs/cpu.max", "25000 100000\n", 0.25),  # of the cgroup above
        ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "150000\n", 1.5),  # v1
        ("sys/fs/cgroup/cpu.max", "max 100000\n", None),
    ],
)
def test_a_quota_leaves_a_part_of_a_processor(tree, name, text, cpus):
    write(tree, name, text)
    write(tree, "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    assert machine.cpu_quota(tree) == cpus
    found = machine.look(tree, root=tree, watch_s=0.01)
    assert found.cpus == min(cpus or found.affinity, found.affinity)


def test_a_cgroup_limits_memory(tree):
    write(tree, "sys/fs/cgroup/jobs/memory.max", "12288\n")
    write(tree, "sys/fs/cgroup/jobs/memory.current", "10240\n")
    found = machine.look(tree, root=tree, watch_s=0.01)
    assert (found.memory_bytes, found.free_bytes) == (12288, 2048)


@pytest.mark.parametrize(("version", "name"), [("", "inactive_file"), ("memory/", "total_inactive_file")])
def test_files_that_the_kernel_keeps_are_not_in_use(tree, version, name):
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if version else ("memory.max", "memory.current")
    for file, value in zip(names, (12288, 10240), strict=True):
        write(tree, f"sys/fs/cgroup/{version}{file}", f"{value}\n")
    write(tree, f"sys/fs/cgroup/{version}memory.stat", f"anon 6144\n{name} 4096\n")
    assert machine.memory_limit(tree) == (12288, 6144)
    assert available_bytes(tree) == 6144
    write(tree, "proc/meminfo", "MemAvailable: 1 kB\n")
    assert available_bytes(tree) == 1024


def test_a_path_lies_on_the_innermost_mount(tree):
    assert machine.disk_of(tree / "net/deep", tree).filesystem == "nfs4"
    assert machine.disk_of(tree / "net/deep", tree).is_network
    assert not machine.disk_of(tree, tree).is_network


def test_usage_tells_who_uses_the_processors(tree):
    write(tree, "sys/fs/cgroup/jobs/mine/cpu.stat", "usage_usec 5\nthrottled_usec 1000\n")
    usage = machine.Usage(root=tree)
    ends = time.monotonic() + 0.05
    while time.monotonic() < ends:
        pass
    write(tree, "proc/stat", STAT.replace("cpu  100 0 100 1000 0 0 0 0", "cpu  160 0 100 1000 0 0 0 3"))
    write(tree, "sys/fs/cgroup/jobs/mine/cpu.stat", "usage_usec 5\nthrottled_usec 501000\n")
    found = usage.take()
    assert 0 < found["own"] < 1.5
    assert found["others"] > 1  # 0.6 s in a twentieth
    assert 0 < found["stolen"] < found["others"] / 10
    assert found["throttled"] > 1
    assert usage.take()["throttled"] == 0.0


def test_usage_leaves_out_what_the_system_does_not_tell(tmp_path):
    assert {*machine.Usage(root=tmp_path).take()} == {"own"}


def smi(folder, monkeypatch, script):
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


def test_gpus_as_nvidia_smi_tells_of_them(tmp_path, monkeypatch):
    row = "NVIDIA A100, 550.1, 40960, 1024, 1200, 1410, 250.5, 400, 70, 3, 4, 16, 16, 0x0000000000000024"
    smi(tmp_path, monkeypatch, f"echo '{row}'; echo 'Old, 1.0, [N/A], [N/A]{', [N/A]' * 9}, 0x0'")
    first, second = machine.gpus()
    assert (first.name, first.driver, first.memory_bytes, first.used_bytes) == (
        "NVIDIA A100",
        "550.1",
        40 * 2**30,
        2**30,
    )
    assert (first.mhz, first.max_mhz, first.pcie, first.max_pcie) == (1200, 1410, 3, 4)
    assert first.throttled == ("power limit", "temperature")
    assert (second.memory_bytes, second.watts, second.throttled) == (None, None, ())


def test_a_driver_that_fails_or_hangs_is_said(tmp_path, monkeypatch):
    smi(tmp_path, monkeypatch, "echo 'NVIDIA-SMI has failed because it could not communicate with the driver.'; exit 9")
    assert "could not communicate with the driver" in machine.look(tmp_path).unknown["GPUs"]
    smi(tmp_path, monkeypatch, "exec sleep 60")
    monkeypatch.setattr(machine, "SMI_S", 0.2)
    assert machine.look(tmp_path).unknown["GPUs"] == "OSError: nvidia-smi does not answer for 0.2 s"


def test_without_a_driver_there_are_no_gpus_and_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = machine.look(tmp_path)
    assert found.gpus == ()
    assert "no NVIDIA driver" in found.unknown["GPUs"]
