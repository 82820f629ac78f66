"""The command, with figures of a machine that were measured before, and with a machine that is measured."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from eighteen import cli
from eighteen.advice import measure, planning
from eighteen.advice import parts as measurements
from eighteen.advice.rates import Work
from eighteen.base import recipe as recipes
from eighteen.base.machine import Gpu
from eighteen.data.pack import pack


@pytest.fixture(scope="module")
def packed(pictures, tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "p.e18"
    pack(pictures, path, procs=1)
    return path


@pytest.fixture
def figures(machine_parts, tmp_path):
    path = tmp_path / "machine.json"
    path.write_text(json.dumps(measurements.figures(machine_parts)))
    return path


def planned(capsys, tmp_path, *words):
    """What the command said, and its JSON."""
    path = tmp_path / "plans.json"
    assert cli.main(["plan", *map(str, words), "--json", str(path)]) == 0, capsys.readouterr().err
    return capsys.readouterr(), json.loads(path.read_text())


def test_a_dataset_is_planned_here_and_on_every_offer(capsys, tmp_path, packed, figures):
    words = (packed, "--recipe", "small", "--measured", figures, "--plot", tmp_path / "plans.svg", "--machines", "1,2")
    said, found = planned(capsys, tmp_path, *words)
    assert "this machine, 1 process" in said.out
    assert "measured" in said.out
    assert "wrote" in said.out
    assert (tmp_path / "plans.svg").read_text().startswith("<svg")
    assert {one["basis"] for one in found["plans"]} == {"measured here", "published figures alone"}
    assert found["num_samples"] == 108
    assert {one["machines"] for one in found["plans"]} == {1, 2}
    assert all(one["seconds"]["low"] <= one["seconds"]["expected"] <= one["seconds"]["high"] for one in found["plans"])


def test_a_billion_pictures_are_planned_without_a_dataset(capsys, tmp_path, figures):
    said, found = planned(
        capsys, tmp_path, "--samples", "1e9", "--recipe", "small", "--epochs", "1", "--measured", figures
    )
    assert found["num_samples"] == 10**9
    assert min(one["seconds"]["expected"] for one in found["plans"]) > 3600
    assert min(one["disk_bytes"] for one in found["plans"]) > 1e14
    assert "1,000,000,000 pictures" in said.out


def test_a_gpu_measured_elsewhere_is_used_for_its_offers_and_scaled_for_others(capsys, tmp_path, packed, machine_parts):
    gpu = Gpu("NVIDIA A100-SXM4-80GB", "570", memory_bytes=80 * 2**30, limit_watts=400.0)
    machine = replace(machine_parts.machine, gpus=(gpu, gpu), unknown={})
    path = tmp_path / "a100.json"
    path.write_text(json.dumps(measurements.figures(replace(machine_parts, device=gpu.name, machine=machine))))
    _, found = planned(capsys, tmp_path, packed, "--recipe", "small", "--measured", path, "--machines", "1")
    bases = {one["where"].split()[1]: one["basis"] for one in found["plans"]}
    assert bases["p4de.24xlarge"] == "measured on NVIDIA A100-SXM4-80GB"
    assert bases["p3.2xlarge"] == bases["p4d.24xlarge"] == "scaled from A100-80GB by published figures"
    (two,) = [one for one in found["plans"] if one["where"] == "NVIDIA A100-SXM4-80GB, 2 GPUs"]
    assert two["kwh"]["expected"] == pytest.approx(two["seconds"]["expected"] * 800 / 3.6e6)


def test_time_and_price_leave_out_what_does_not_keep_to_them(capsys, tmp_path, packed, figures):
    words = (packed, "--recipe", "small", "--measured", figures)
    _, every = planned(capsys, tmp_path, *words)
    _, few = planned(capsys, tmp_path, *words, "--cost", "$0.05", "--time", "1h")
    assert 0 < len(few["plans"]) < len(every["plans"])
    assert all(one["usd"] is None or one["usd"]["expected"] <= 0.05 for one in few["plans"])
    said, none = planned(capsys, tmp_path, *words, "--time", "1s")
    assert none["plans"] == []
    assert "none of" in said.err
    assert "the fastest is" in said.err


def test_a_table_of_ones_own_replaces_the_prices(capsys, tmp_path, packed, figures):
    prices = tmp_path / "prices.csv"
    prices.write_text(
        "cloud,instance,region,gpus,gpu,cpus,memory_gib,usd_h,source,date\n"
        "ours,box,cellar,1,A100,16,64,0.5,https://ours,2020-01-01\n"
    )
    said, found = planned(capsys, tmp_path, packed, "--recipe", "small", "--measured", figures, "--prices", prices)
    assert {one["where"] for one in found["plans"] if one["usd"]} == {"ours box cellar"}
    assert "price of 2020-01-01" in said.out


def test_figures_of_another_model_are_refused(capsys, tmp_path, packed, machine_parts):
    path = tmp_path / "other.json"
    path.write_text(json.dumps(measurements.figures(replace(machine_parts, model="resnet50"))))
    assert cli.main(["plan", str(packed), "--recipe", "small", "--measured", str(path)]) == 3
    assert "--measured: got what was measured with resnet50" in capsys.readouterr().err


def test_without_a_gpu_driver_it_says_so_and_what_is_still_known(capsys, tmp_path, packed, machine_parts):
    path, unknown = tmp_path / "machine.json", {"GPUs": "no nvidia-smi: no NVIDIA driver is installed"}
    lacking = replace(machine_parts, machine=replace(machine_parts.machine, unknown=unknown, others_cpus=0.5))
    path.write_text(json.dumps(measurements.figures(lacking)))
    said, found = planned(capsys, tmp_path, packed, "--recipe", "small", "--measured", path)
    assert "no GPU here (no nvidia-smi: no NVIDIA driver is installed)" in said.out
    assert any(one["where"].startswith("this machine") for one in found["plans"])
    assert "others kept 0.5 processors busy while" in said.out


def test_processors_are_measured_with_smaller_batches_where_a_step_would_take_long():
    recipe = recipes.load("imagenet18-16")
    work = {size: Work(24.3e9 * (size / 224) ** 2, 1.0) for size in (128, 224, 288)}
    light = planning.lighter(recipe, work)
    flops = [row.batch * work[row.sizes[0]].flops for row in light.flat_phases]
    assert max(flops) <= planning.LARGEST_FLOPS
    assert min(row.batch for row in light.flat_phases) >= planning.LEAST_PICTURES
    assert planning.lighter(recipes.load("small"), {size: Work(1e6, 1.0) for size in (64, 96, 128)}) == recipes.load(
        "small"
    )


def test_this_machine_is_measured_once_and_remembered(capsys, tmp_path, packed, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(planning, "PART_S", 0.01)
    monkeypatch.setattr(measure, "MOST_RANKS", 1)
    changes = ["model.args.widths=[8,16]", "phases.0.size=32", "phases.1.size=48", "phases.2.size=32", "eval.size=32"]
    words = [packed, "--recipe", "small", "--batch", "8", "--runs-dir", tmp_path, "--machines", "1"]
    words += [word for change in changes for word in ("--set", change)]
    said, first = planned(capsys, tmp_path, *words)
    assert "measuring this machine" in said.err
    said, second = planned(capsys, tmp_path, *words, "--epochs", "30")
    assert "measured before" in said.err
    assert second["plans"][0]["basis"] == "measured here"
    assert first["plans"][0]["times"]["start"] == second["plans"][0]["times"]["start"]
