"""The energy that this machine uses, by counters that its GPUs (NVML) and its processors (RAPL) keep themselves.

In: the GPUs that a run uses, and /sys. Out: joules, or why there are none. Reading is a call of a library or of a file;
no process is started, and nothing is waited for.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

NVML = "libnvidia-ml.so.1"  # part of NVIDIA's driver


class Energy:
    """Joules from now on, of all who use these GPUs and processors.

    gpus: of a run, by NVML's UUID; none if it computes on processors      root: of /sys
    how: source (gpu, cpu) -> what it is measured by, or why it is not
    """

    def __init__(self, gpus: Sequence[str] = (), root: Path = Path("/")) -> None:
        self.how: dict[str, str] = {}
        self._counters: list[_Counter] = []
        if gpus:
            self._find("gpu", "NVML", partial(_boards, gpus))
        if self._counters or not gpus:  # what the processors alone use would be taken for all
            self._find("cpu", "RAPL", partial(_packages, root))

    def _find(self, source: str, by: str, find: Callable[[], list[_Counter]]) -> None:
        try:
            self._counters += find()
            self.how[source] = f"by {by}"
        except (OSError, ValueError) as error:
            self.how[source] = f"not measured: {error}"

    @property
    def joules(self) -> float | None:
        """Of what is measured; None if nothing is, or if a counter does not answer any more."""
        try:
            return sum(counter.joules for counter in self._counters) if self._counters else None
        except (OSError, ValueError):
            return None


class _Counter:
    """How far a counter has gone since this was made.

    read: its joules      range_j: after which it begins anew, e.g. 262 kJ, some 20 minutes of a busy processor: it has
    to be read more often
    """

    def __init__(self, read: Callable[[], float], range_j: float) -> None:
        self._read, self._range_j = read, range_j
        self._before, self._used = read(), 0.0

    @property
    def joules(self) -> float:
        now = self._read()
        self._used += (now - self._before) % self._range_j
        self._before = now
        return self._used


def _packages(root: Path) -> list[_Counter]:
    """The processors, as /sys/class/powercap has them: cores are a part of their package, a platform is more than it.

    OSError if there are none, as in most virtual machines, or if only root may read them (CVE-2020-8694).
    """
    names = sorted((root / "sys/class/powercap").glob("intel-rapl:*/name"))  # on AMD too
    folders = [name.parent for name in names if name.read_text().startswith("package")]
    if not folders:
        raise FileNotFoundError("no RAPL in /sys/class/powercap")
    return [_Counter(partial(_joules, one / "energy_uj"), _joules(one / "max_energy_range_uj")) for one in folders]


def _joules(path: Path) -> float:
    return int(path.read_text()) / 1e6


def _boards(uuids: Sequence[str]) -> list[_Counter]:
    """GPUs, with their memory. OSError without a driver, or for one older than Volta or a part of one (MIG)."""
    nvml = ctypes.CDLL(NVML)
    nvml.nvmlErrorString.restype = ctypes.c_char_p

    def ask(function: Callable[..., int], *arguments: Any) -> None:
        if code := function(*arguments):
            raise OSError(f"NVML: {nvml.nvmlErrorString(code).decode()}")

    def read(board: ctypes.c_void_p) -> float:
        millijoules = ctypes.c_ulonglong()
        ask(nvml.nvmlDeviceGetTotalEnergyConsumption, board, ctypes.byref(millijoules))
        return millijoules.value / 1e3

    ask(nvml.nvmlInit_v2)
    boards = [ctypes.c_void_p() for _ in uuids]
    for uuid, board in zip(uuids, boards, strict=True):
        ask(nvml.nvmlDeviceGetHandleByUUID, uuid.encode(), ctypes.byref(board))
    return [_Counter(partial(read, board), 2**64 / 1e3) for board in boards]
