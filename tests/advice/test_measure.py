"""Each part of a training, measured on small pictures."""

from __future__ import annotations

import json
import os

import pytest
from rich.console import Console

from eighteen import cli
from eighteen.advice import measure as measuring
from eighteen.base import recipe as recipes
from eighteen.base.errors import MachineError
from eighteen.base.world import World
from eighteen.data import dataset as datasets
from eighteen.data.pack import pack
from eighteen.results import parts as shown

CHANGES = ["model.args.widths=[8,16]", "phases.0.size=32", "phases.1.size=48", "phases.2.size=32", "eval.size=32"]


@pytest.fixture(scope="module")
def packed(pictures, tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "jpegs.e18"
    pack(pictures, path, val=0.0, procs=1)
    return path


@pytest.fixture(scope="module")
def found(packed, tmp_path_factory):
    recipe, runs = recipes.load("small", batch=8, changes=CHANGES), tmp_path_factory.mktemp("runs")
    parts = measuring.measure(recipe, datasets.open(packed), World(), runs_dir=runs, part_s=0.01)
    assert [*runs.iterdir()] == []
    return parts


def test_every_part_is_measured_or_said_not_to_be(found):
    kinds = {one.kind for one in found.parts} | {*found.unmeasured}
    assert kinds == {"disk", "decode", "copy", "step", "evaluate", "checkpoint", "all-reduce"}
    decoded = {(one.about["rendition"], one.about["threads"]) for one in found.parts if one.kind == "decode"}
    assert {("full", 1), ("kept", 1)} <= decoded
    assert all(0 < one.seconds.low <= one.seconds.median <= one.seconds.high for one in found.parts)
    assert all(one.count >= 1 and one.amount > 0 for one in found.parts)
    assert found.num_weights > 0


def test_steps_are_measured_at_every_size_whole_and_in_parts(found):
    for size in (32, 48):
        whole = found.find("step", size=size, of="all")
        three = [found.find("step", size=size, of=name) for name in ("forward", "backward", "optimizer")]
        assert whole is not None
        assert sum(one.seconds.low for one in three if one) < whole.seconds.high
        assert whole.amount == 8
        assert found.find("decode", size=size, threads=1) is not None


def test_without_a_gpu_nothing_is_copied_and_it_says_why(found):
    if found.device == "cpu":
        assert found.unmeasured["copy"] == "the CPU is the device"


def test_a_part_that_fails_is_said_and_the_others_go_on(packed, tmp_path, monkeypatch):
    def fails(*_args, **_more):
        raise MachineError("reduce", got="ranks that do not meet", need="ranks", hint="")

    monkeypatch.setattr(measuring, "_all_reduce", fails)
    recipe = recipes.load("small", batch=8, changes=CHANGES)
    parts = measuring.measure(recipe, datasets.open(packed), World(), runs_dir=tmp_path, part_s=0.01)
    assert parts.unmeasured["all-reduce"] == "ranks that do not meet"
    assert parts.find("checkpoint") is not None


def test_what_the_kernel_keeps_is_not_taken_for_the_disk(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(measuring.BLOCK))
    with path.open("rb") as file:
        file.read()
        assert not measuring._is_cold(file.fileno(), 0)


def test_the_table_names_every_part_and_what_is_not_known(found):
    console = Console(width=100)
    with console.capture() as said:
        console.print(shown.show(found))
    text = said.get()
    for one in found.parts:
        assert one.kind in text
    assert "checkpoint" in text
    assert all(f"{what}: not measured, " in text for what in found.unmeasured)


def test_the_command_writes_all_figures(packed, tmp_path, capsys):
    words = ["bench", str(packed), "--recipe", "small", "--batch", "8", "--runs-dir", str(tmp_path)]
    changes = [word for change in CHANGES for word in ("--set", change)]
    words += ["--no-trials", "--part-seconds", "0.01"]
    assert cli.main([*words, *changes, "--json", str(tmp_path / "b.json")]) == 0
    read = json.loads((tmp_path / "b.json").read_text())
    assert read["v"] == 1
    assert {"machine", "parts", "unmeasured", "environment"} <= {*read}
    assert "wrote" in capsys.readouterr().out


def test_no_time_is_refused(packed, capsys):
    assert cli.main(["bench", str(packed), "--part-seconds", "0"]) == 2
    assert "seconds above 0" in capsys.readouterr().err


@pytest.mark.parametrize(("value", "text"), [(2.5, "2.5 s"), (0.0123, "12.3 ms"), (4.56e-5, "45.6 us"), (0.0, "0 us")])
def test_seconds_have_three_digits(value, text):
    assert shown.seconds(value) == text
