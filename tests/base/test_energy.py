"""What a machine's counters of energy say, read from a made-up /sys tree and a stand-in for NVIDIA's library."""

from __future__ import annotations

import ctypes
import time

import pytest

from eighteen.base.energy import NVML, Energy


@pytest.fixture
def tree(tmp_path):
    """Two packages, the cores of the first, and a platform with both."""
    for domain, name in (("0", "package-0"), ("0:0", "core"), ("1", "package-1"), ("2", "psys")):
        write(tmp_path, domain, name=name, energy_uj=250_000_000, max_energy_range_uj=262_000_000)
    return tmp_path


def write(tree, domain, **facts):
    folder = tree / f"sys/class/powercap/intel-rapl:{domain}"
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in facts.items():
        (folder / name).write_text(f"{value}\n")


class Library:
    """NVML as far as we call it: counters in millijoules by UUID, and the codes that its functions return."""

    def __init__(self, **counters):
        self.counters, self.code = counters, 0
        self.handles = list(counters)

        def text(code):
            return f"error {code}".encode()

        self.nvmlErrorString = text

    def nvmlInit_v2(self):
        return 0

    def nvmlDeviceGetHandleByUUID(self, uuid, handle):
        if uuid.decode() not in self.counters:
            return 6
        handle._obj.value = 1 + self.handles.index(uuid.decode())
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, handle, millijoules):
        millijoules._obj.value = self.counters[self.handles[handle.value - 1]]
        return self.code


@pytest.fixture
def library(monkeypatch):
    found = Library(**{"GPU-a": 5_000, "GPU-b": 7_000, "GPU-c": 1})
    monkeypatch.setattr(ctypes, "CDLL", {NVML: found}.__getitem__)
    return found


def test_packages_count_and_what_is_a_part_of_them_or_has_them_as_parts_does_not(tree):
    energy = Energy(root=tree)
    for domain, more in (("0", 1_500_000), ("0:0", 1_000_000), ("1", 500_000), ("2", 4_000_000)):
        write(tree, domain, energy_uj=250_000_000 + more)
    assert energy.joules == pytest.approx(2.0)
    assert energy.how == {"cpu": "by RAPL"}


def test_a_counter_that_began_anew_goes_on(tree):
    energy = Energy(root=tree)
    for now, joules in ((261_000_000, 11), (1_000_000, 13), (261_000_000, 273), (0, 274)):
        write(tree, "0", energy_uj=now)
        assert energy.joules == pytest.approx(joules)


def test_a_machine_without_counters_says_so(tmp_path):
    energy = Energy(root=tmp_path)
    assert energy.joules is None
    assert energy.how == {"cpu": "not measured: no RAPL in /sys/class/powercap"}


@pytest.mark.parametrize("broken", ["folder", "text"])
def test_a_counter_that_cannot_be_read_is_said(tree, broken):
    counter = tree / "sys/class/powercap/intel-rapl:1/energy_uj"
    counter.unlink()
    counter.mkdir() if broken == "folder" else counter.write_text("<not counted>\n")
    energy = Energy(root=tree)
    assert energy.joules is None
    assert energy.how["cpu"].startswith("not measured: ")


def test_a_counter_that_goes_away_leaves_nothing_measured(tree):
    energy = Energy(root=tree)
    assert energy.joules == 0.0
    (tree / "sys/class/powercap/intel-rapl:0/energy_uj").unlink()
    assert energy.joules is None


def test_the_gpus_of_a_run_count_beside_the_processors(tree, library):
    energy = Energy(["GPU-a", "GPU-b"], root=tree)
    library.counters.update({"GPU-a": 8_000, "GPU-b": 7_500, "GPU-c": 10**9})
    write(tree, "0", energy_uj=251_000_000)
    assert energy.joules == pytest.approx(3.0 + 0.5 + 1.0)
    assert energy.how == {"gpu": "by NVML", "cpu": "by RAPL"}
    library.code = 15  # lost
    assert energy.joules is None


def test_gpus_count_where_processors_cannot_be_read(tmp_path, library):
    energy = Energy(["GPU-a"], root=tmp_path)
    library.counters["GPU-a"] = 6_000
    assert energy.joules == pytest.approx(1.0)
    assert energy.how["cpu"].startswith("not measured")


def test_processors_do_not_count_alone_where_gpus_compute(tree, library):
    energy = Energy(["GPU-a", "GPU-gone"], root=tree)
    assert energy.joules is None
    assert energy.how == {"gpu": "not measured: NVML: error 6"}


def test_without_a_driver_the_reason_names_its_library(tree, monkeypatch):
    monkeypatch.setattr("eighteen.base.energy.NVML", "libnvidia-ml.so.none")
    energy = Energy(["GPU-a"], root=tree)
    assert energy.how["gpu"].startswith("not measured: libnvidia-ml.so.none: cannot open")


@pytest.mark.gpu
def test_a_gpu_that_works_uses_energy():
    import torch

    from eighteen.base.world import World
    from eighteen.training.dist import gpus_of

    energy = Energy(gpus_of(World(), torch.device("cuda")))
    assert energy.how["gpu"] == "by NVML"
    ends = time.monotonic() + 1
    while time.monotonic() < ends:
        torch.randn(2048, 2048, device="cuda").mm(torch.randn(2048, 2048, device="cuda")).sum().item()
    assert (energy.joules or 0.0) > 10  # the counter moves every 100 ms or so, and no GPU takes less than 10 W
