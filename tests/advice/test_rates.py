"""Seconds at any size, batch and number of ranks, from what was measured or published."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from eighteen.advice import parts as measurements
from eighteen.advice.devices import devices
from eighteen.advice.planning import gpu_named
from eighteen.advice.rates import PUBLISHED, Line, Work, at_size, efficiency, measured, published, roof_s
from eighteen.base.errors import DataError


def test_a_step_is_a_line_over_its_pictures_at_each_size(machine_parts):
    rates = measured(machine_parts, basis="measured here")
    assert rates.step(1, 64).of(16) == pytest.approx(0.162)
    assert rates.step(1, 128).of(16) == pytest.approx(0.642)
    assert rates.step(2, 64).of(16) == pytest.approx(0.162)
    assert rates.step(1, 64).data == 0.1
    assert rates.evals[2][64] == pytest.approx(0.0015)
    assert rates.latency_s == 1e-3
    assert rates.bus_bytes_per_s == pytest.approx(4e8)
    assert rates.backward == pytest.approx(0.5)
    assert (rates.decode[64], rates.kept[64]) == (0.002, 0.0005)


def test_between_sizes_a_step_grows_with_the_pixels_and_is_less_sure():
    lines = {64: Line(0.1, 1.0, spread=0.02), 128: Line(0.3, 4.0, spread=0.02)}
    between = at_size(lines, 96)
    assert between.fixed == pytest.approx(0.2)
    assert between.picture == pytest.approx(1.0 + 3.0 * (96**2 - 64**2) / (128**2 - 64**2))
    assert between.spread > 0.1
    assert at_size({64: Line(0.1, 1.0)}, 128).picture == pytest.approx(4.0)


def test_ranks_that_were_not_tried_go_by_fewer(machine_parts):
    rates = measured(machine_parts, basis="")
    assert [rates.ranks(count) for count in (1, 2, 3, 8)] == [1, 2, 2, 2]


def test_without_a_trial_nothing_is_planned_and_it_says_why(machine_parts):
    lacking = [one for one in machine_parts.parts if one.kind != "run"]
    with pytest.raises(ValueError, match="no trial"):
        measured(replace(machine_parts, parts=lacking), basis="")
    with pytest.raises(ValueError, match="ranks that do not meet"):
        measured(replace(machine_parts, parts=lacking, unmeasured={"run": "ranks that do not meet"}), basis="")


@pytest.mark.parametrize("gpu", ["V100", "A100-80GB"])
def test_resnet50_takes_what_is_published_of_it(gpu, machine_parts):
    device, work = devices()[gpu], Work(24.3e9, 355e6)
    rates = published(measured(machine_parts, basis=""), device, {224: work})
    assert 1 / rates.step(1, 224).picture == pytest.approx(device.resnet50_images_s)
    assert rates.sure == PUBLISHED
    assert 0.4 < efficiency(device) < 0.5


def test_a_gpu_is_scaled_from_one_that_was_measured_by_the_ratio_of_their_figures(machine_parts):
    table, known = devices(), measured(machine_parts, basis="")
    arithmetic = {64: Work(1e12, 1.0), 128: Work(4e12, 1.0)}
    scaled = published(known, table["A100"], arithmetic, like=table["H100"])
    assert scaled.step(1, 64).picture == pytest.approx(0.01 * 989 / 312)
    assert scaled.basis == "scaled from H100 by published figures"
    assert roof_s(table["A100"], Work(1.0, 1e9)) == pytest.approx(1e9 / 1555e9)


@pytest.mark.parametrize(
    ("told", "gpu"),
    [
        ("NVIDIA A100-SXM4-40GB", "A100"),
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("Tesla V100-SXM2-16GB", "V100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("cpu", None),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_a_gpu_is_known_by_what_its_driver_calls_it(told, gpu):
    assert gpu_named(told, devices()) == gpu


def test_parts_come_back_from_their_file_as_they_were(machine_parts, tmp_path):
    path = tmp_path / "machine.json"
    path.write_text(json.dumps(measurements.figures(machine_parts)))
    read = measurements.read(path)
    assert measured(read, basis="") == measured(machine_parts, basis="")
    assert read.machine == machine_parts.machine


@pytest.mark.parametrize(
    "text", ["", "{}", '{"environment": {}, "v": 2}', '{"environment": {}, "v": 1, "parts": 3}', "[1]"]
)
def test_a_file_that_is_no_measurement_is_said(text, tmp_path):
    path = tmp_path / "machine.json"
    path.write_text(text)
    with pytest.raises(DataError, match="need the figures of a machine"):
        measurements.read(path)


def test_an_all_reduce_carries_twice_the_bytes_over_each_link_of_a_ring(machine_parts):
    rates = measured(machine_parts, basis="")
    assert rates.all_reduce_s(4e6, 1) == 0
    assert rates.all_reduce_s(4e6, 2) == pytest.approx(1e-3 + 4e6 / 4e8)
    assert replace(rates, bus_bytes_per_s=math.inf).all_reduce_s(4e6, 8) == pytest.approx(1e-3)
