"""What this machine has: processors that we may use, memory, and the versions of what runs on it."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from eighteen.base.machine import memory_limit


def num_cpus() -> int:
    """Processors that this process may use: its affinity, or less where a cgroup allows less time (at least 1)."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, _cgroup_cpus() or allowed))


def _cgroup_cpus(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """The processors that the cgroup's quota amounts to, rounded up; None without a quota (cgroup v2, then v1)."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota, period = (root / "cpu" / name for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
            quota, period = quota.read_text().strip(), period.read_text().strip()
        except OSError:
            return None
    if quota in ("max", "-1"):
        return None
    return -(-int(quota) // int(period))


def available_bytes(root: Path = Path("/")) -> int:
    """Memory that can be had without swapping: what the kernel says, or less where a cgroup allows less (Linux); half
    of all there is elsewhere.
    """
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        free = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    limit = memory_limit(root)
    return min(free, limit[0] - limit[1]) if limit else free


def let_threads_sleep() -> None:
    """Tell GNU OpenMP, before torch loads it, that threads which wait for each other soon sleep instead of spinning.

    Where anything else wants a core, a spinning thread stops the one that it waits for: on two busy cores a step took
    10 times as long (17 images/s instead of 188). On idle cores 3,000 turns, a few microseconds, are as fast as any.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")


def keep_freed_memory() -> None:
    """Tell glibc to keep what is freed for what is allocated next; other C libraries are left as they are.

    A step on the CPU frees and allocates the same large tensors over and over. Given back to the kernel each time, they
    come back one fault a page: 5 to 10 % of a step.
    """
    trim_threshold, mmap_threshold = -1, -3  # malloc.h
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(mmap_threshold, 2**30)
        mallopt(trim_threshold, 2**31 - 1)


def environment() -> dict[str, Any]:
    """What env.json keeps: machine, processors, Python and the versions of the packages that decide results."""
    packages = ("eighteen", "torch", "torchvision", "timm", "numpy", "pillow", "safetensors")
    return {
        "platform": platform.platform(),
        "machine": platform.machine(),
        "num_cpus": num_cpus(),
        "python": sys.version.split()[0],
        "packages": {name: version for name in packages if (version := version_of(name))},
    }


def version_of(name: str) -> str | None:
    """Of a package that is installed; of this one also where it is not, but was sent to be run."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return getattr(sys.modules.get(name), "__version__", None)
