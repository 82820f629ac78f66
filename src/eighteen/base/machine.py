"""What a machine is and what it does at the moment: processors, limits, memory, disk, GPUs.

In: /proc, /sys and ``nvidia-smi``. Out: a ``Machine``. What cannot be found out is None, and ``unknown`` says why.
"""

from __future__ import annotations

import csv
import math
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

SMI_S = 10.0  # that nvidia-smi may take; on a broken driver it hangs
WATCH_S = 0.25  # in which we look at who uses the processors
NETWORKS = {"9p", "afs", "beegfs", "ceph", "cifs", "fuse.s3fs", "fuse.gcsfuse", "fuse.sshfs", "gpfs", "lustre", "nfs"}
NETWORKS |= {"nfs4", "smb3", "virtiofs", "wekafs"}
MISSING = {"", "[N/A]", "[Not Supported]", "N/A"}
THROTTLES = {  # of ``clocks_event_reasons.active``: nvml.h, NVML_CLOCKS_EVENT_REASON_*
    0x4: "power limit",
    0x8: "hardware",
    0x20: "temperature",
    0x40: "hardware temperature",
    0x80: "power brake",
}


@dataclass(frozen=True)
class Gpu:
    """memory in bytes, clocks in MHz, power in watts, temperature in degrees Celsius; None: not told

    throttled: by what its clock is held down at the moment
    """

    name: str
    driver: str
    memory_bytes: int | None = None
    used_bytes: int | None = None
    mhz: float | None = None
    max_mhz: float | None = None
    watts: float | None = None
    limit_watts: float | None = None
    celsius: float | None = None
    pcie: float | None = None
    max_pcie: float | None = None
    lanes: float | None = None
    max_lanes: float | None = None
    throttled: tuple[str, ...] = ()


@dataclass(frozen=True)
class Disk:
    """What a path lies on. is_network: its bytes come from another machine"""

    path: str
    filesystem: str
    is_network: bool
    free_bytes: int


class Usage:
    """Who uses the processors, from one call of ``take`` to the next.

    num_alike: processes on this machine that do as much as this one: the ranks of a run
    """

    def __init__(self, num_alike: int = 1, root: Path = Path("/")) -> None:
        self._root, self._num_alike = root, num_alike
        self._before = self._now()

    def take(self) -> dict[str, float]:
        """own, others: processors in use, on average; stolen: those of the others that other machines have, which share
        the processors of this virtual one; throttled: processors' worth of time for which a cgroup's quota made
        processes wait. What the system does not tell is left out.
        """
        before, self._before = self._before, self._now()
        spent = {name: self._before[name] - before[name] for name in before if name in self._before}
        seconds = max(spent.pop("clock"), 1e-9)
        if "others" in spent:
            spent["others"] -= spent["own"]
        return {name: max(0.0, value) / seconds for name, value in spent.items()}

    def _now(self) -> dict[str, float]:
        told = {"clock": time.monotonic(), "own": self._num_alike * time.process_time()}
        with suppress(OSError, ValueError, IndexError):
            told["others"], told["stolen"] = _busy_s(self._root)
        for folder in _cgroups(self._root, "cpu"):
            with suppress(OSError, ValueError, LookupError):
                facts = dict(line.split() for line in (folder / "cpu.stat").read_text().splitlines())
                told["throttled"] = _throttled_s(facts)
                break
        return told


def _throttled_s(facts: dict[str, str]) -> float:
    """Of cgroup v2, then v1."""
    return int(facts["throttled_usec"]) / 1e6 if "throttled_usec" in facts else int(facts["throttled_time"]) / 1e9


@dataclass(frozen=True)
class Machine:
    """cpus: processors whose time this process may use, with a cgroup's quota a fraction; affinity: that it may run on

    others_cpus: processors that other processes kept busy while we looked
    waiting: share of the last ten seconds in which some process waited for a processor (pressure stall information)
    memory_bytes: of the machine, or of the cgroup if that is less      free_bytes: that can be had without swapping
    """

    processor: str
    cpus: float
    affinity: int
    quota: float | None
    threads_per_core: int | None
    mhz: float | None
    others_cpus: float | None
    waiting: float | None
    memory_bytes: int
    free_bytes: int
    shm_bytes: int | None
    disk: Disk
    gpus: tuple[Gpu, ...]
    unknown: dict[str, str]


def look(path: Path, *, root: Path = Path("/"), watch_s: float = WATCH_S) -> Machine:
    """At this machine, and the disk that ``path`` lies on, which must be there.

    root: of /proc and /sys      watch_s: how long to look at who uses the processors
    """
    unknown: dict[str, str] = {}

    def ask(what: str, how: Callable[[], T], otherwise: str = "") -> T | None:
        try:
            return how()
        except (OSError, ValueError, LookupError) as error:
            unknown[what] = otherwise or f"{type(error).__name__}: {error}"
        return None

    total = ask("memory", lambda: _meminfo(root)["MemTotal"], "no /proc/meminfo") or 0
    free = ask("free memory", lambda: _meminfo(root)["MemAvailable"], "no /proc/meminfo") or 0
    limit = memory_limit(root)
    return Machine(
        processor=ask("processor", lambda: _cpuinfo(root)["model name"]) or platform.processor() or platform.machine(),
        cpus=processors(root),
        affinity=affinity(),
        quota=cpu_quota(root),
        threads_per_core=ask("threads a core", lambda: _threads_per_core(root)),
        mhz=ask("clock of the processors", lambda: float(_cpuinfo(root)["cpu MHz"])),
        others_cpus=ask("load by others", lambda: _others(root, watch_s), "no /proc/stat"),
        waiting=ask("pressure", lambda: _waiting(root), "the kernel keeps no pressure stall information"),
        memory_bytes=min(total, limit[0]) if limit else total,
        free_bytes=min(free, limit[0] - limit[1]) if limit else free,
        shm_bytes=ask("shared memory", lambda: shutil.disk_usage(root / "dev/shm").total, "no /dev/shm"),
        disk=disk_of(path, root),
        gpus=tuple(ask("GPUs", lambda: list(gpus())) or ()),
        unknown=unknown,
    )


def processors(root: Path = Path("/")) -> float:
    """That this process may use: those it may run on, or less where a cgroup allows less of their time."""
    return min(float(affinity()), cpu_quota(root) or math.inf)


def affinity() -> int:
    """How many processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Processors whose time a cgroup (v2, then v1) lets us use; None without a quota."""
    for folder in _cgroups(root, "cpu"):
        try:
            quota, period = (folder / "cpu.max").read_text().split()
        except (OSError, ValueError):
            try:
                quota, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
            except OSError:
                continue
        if quota not in ("max", "-1"):
            return int(quota) / int(period)
    return None


def memory_limit(root: Path = Path("/")) -> tuple[int, int] | None:
    """(limit, in use) in bytes of our cgroup (v2, then v1), without files that were only read; None without a limit."""
    for folder in _cgroups(root, "memory"):
        for names in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            try:
                limit, used = (int((folder / name).read_text()) for name in names)
            except (OSError, ValueError):  # not there, or "max"
                continue
            if limit < 2**60:  # what v1 says where there is none
                return limit, used - _reclaimable(folder)
    return None


def _reclaimable(folder: Path) -> int:
    """Bytes of files that the kernel keeps for a cgroup, and gives up when memory is wanted."""
    try:
        facts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return int(facts.get("total_inactive_file") or facts.get("inactive_file", 0))


def disk_of(path: Path, root: Path = Path("/")) -> Disk:
    """What a path lies on, by the longest mount point that it is under."""
    resolved = path.resolve()
    kinds = {Path("/"): "unknown"}
    try:
        for line in (root / "proc/self/mountinfo").read_text().splitlines():
            ours, _, theirs = line.partition(" - ")
            mounted = ours.split()[4].encode().decode("unicode_escape")  # spaces are \040 there
            kinds[Path(mounted)] = theirs.split()[0]
    except (OSError, IndexError):
        pass
    kind = next(kinds[above] for above in (resolved, *resolved.parents) if above in kinds)
    return Disk(str(resolved), kind, kind in NETWORKS, shutil.disk_usage(resolved).free)


def gpus() -> Iterator[Gpu]:
    """By ``nvidia-smi``; OSError with what it says if it is not there, fails or does not answer."""
    names = {
        "name": "name",
        "driver": "driver_version",
        "memory_bytes": "memory.total",
        "used_bytes": "memory.used",
        "mhz": "clocks.sm",
        "max_mhz": "clocks.max.sm",
        "watts": "power.draw",
        "limit_watts": "power.limit",
        "celsius": "temperature.gpu",
        "pcie": "pcie.link.gen.current",
        "max_pcie": "pcie.link.gen.max",
        "lanes": "pcie.link.width.current",
        "max_lanes": "pcie.link.width.max",
        "throttled": "clocks_throttle_reasons.active",
    }
    smi = shutil.which("nvidia-smi")
    if smi is None:
        raise FileNotFoundError("no nvidia-smi: no NVIDIA driver is installed")
    command = [smi, f"--query-gpu={','.join(names.values())}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SMI_S, check=True)
    except subprocess.TimeoutExpired:
        raise OSError(f"nvidia-smi does not answer for {SMI_S:g} s") from None
    except subprocess.CalledProcessError as error:
        raise OSError(f"nvidia-smi: {(error.stdout or error.stderr).strip()[:200]}") from None
    for row in csv.reader(done.stdout.splitlines(), skipinitialspace=True):
        yield _gpu(dict(zip(names, row, strict=True)))


def _gpu(told: dict[str, str]) -> Gpu:
    facts: dict[str, Any] = {name: text for name, text in told.items() if text.strip() not in MISSING}
    bits = int(facts.pop("throttled", "0"), 16)
    for one in fields(Gpu):
        if one.name in facts and one.name not in ("name", "driver"):
            value = float(facts[one.name])
            facts[one.name] = int(value * 2**20) if one.name.endswith("bytes") else value  # it says MiB
    return Gpu(throttled=tuple(name for bit, name in THROTTLES.items() if bits & bit), **facts)


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of our cgroup and those above it, innermost first, of v2 and then of v1."""
    top = root / "sys/fs/cgroup"
    for base, own in ((top, ""), (top / controller, controller)):
        try:
            lines = (root / "proc/self/cgroup").read_text().splitlines()
            name = next(path for _, names, path in (line.split(":", 2) for line in lines) if own in names.split(","))
        except (OSError, StopIteration, ValueError):
            name = "/"
        inner = Path(name.lstrip("/"))
        yield from (base / each for each in (inner, *inner.parents))


def _meminfo(root: Path) -> dict[str, int]:
    lines = (root / "proc/meminfo").read_text().splitlines()
    return {name: 1024 * int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}


def _cpuinfo(root: Path) -> dict[str, str]:
    """Of the first processor."""
    first = (root / "proc/cpuinfo").read_text().split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _threads_per_core(root: Path) -> int:
    siblings = (root / "sys/devices/system/cpu/cpu0/topology/thread_siblings_list").read_text().strip()
    ends = (part.split("-") for part in siblings.split(","))
    return sum(int(end[-1]) - int(end[0]) + 1 for end in ends)


def _waiting(root: Path) -> float:
    some = (root / "proc/pressure/cpu").read_text().splitlines()[0]
    return float(some.split()[1].partition("=")[2]) / 100


def _others(root: Path, watch_s: float) -> float:
    """Processors that others kept busy, of all there are."""
    usage = Usage(root=root)
    time.sleep(watch_s)
    return usage.take()["others"]


def _busy_s(root: Path) -> tuple[float, float]:
    """Seconds that all processors together have been busy since the machine started; and those of them in which other
    machines had them (steal time, proc_stat(5)).
    """
    with (root / "proc/stat").open() as file:
        fields = [int(field) for field in file.readline().split()[1:9]]
    user, nice, system, _, _, irq, softirq, steal = fields
    ticks = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq + steal) / ticks, steal / ticks
