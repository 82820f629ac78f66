"""Runs of a few steps: what they are made from, what their events amount to, and one that is run."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from eighteen.advice.trial import STEPS, found, shortened, trial
from eighteen.base import recipe as recipes
from eighteen.base.errors import MachineError
from eighteen.base.schedule import schedule
from eighteen.data import dataset as datasets
from eighteen.data.pack import pack

CHANGES = ["model.args.widths=[8,16]", "phases.0.size=32", "phases.1.size=48", "phases.2.size=32", "eval.size=32"]


def told(step_s=0.5, first_s=2.0):
    """Two phases of 4 steps: each is told of when the next is done, the last at once."""
    waits = {"data": 0.2, "communication": 0.1}
    events = [{"event": "start", "time_s": 102.0}]
    for phase, size in enumerate((32, 48)):
        batch = 16 >> phase
        events.append({"event": "phase", "phase": phase, "size": size, "batch": batch})
        for seconds in (first_s + step_s, step_s, step_s, 0.001):
            rate = {"images_per_s": batch / seconds, "batch": batch, "waits": waits, "memory_bytes": 10**6}
            events.append({"event": "step", "phase": phase, **rate})
        events.append({"event": "checkpoint", "seconds": 0.3, "bytes": 1000})
    events.append({"event": "eval", "size": 32, "seconds": 1.5, "num_samples": 12})
    return [*events, {"event": "end", "time_s": 119.75}]


def test_parts_of_a_trial_add_up_to_what_it_took():
    parts = list(found(told(), wall_s=20.0, ended=120.0, ranks=2))
    by_kind = {(one.about["of"], one.about.get("size")): one for one in parts}
    assert by_kind["step", 32].seconds.median == 0.5
    assert by_kind["step", 48].amount == 8
    assert by_kind["step", 32].about["data"] == 0.2
    assert by_kind["evaluate", 32].rate == 8
    assert by_kind["end", None].seconds.median == pytest.approx(0.25)
    assert by_kind["phase", None].seconds.median == pytest.approx(1.501)
    assert by_kind["save", None].amount == 1000
    known = 8 * 0.5 + 1.501 + 1.5 + 0.25
    assert by_kind["start", None].seconds.median == pytest.approx(20.0 - known)
    assert all(one.kind == "run" and one.about["ranks"] == 2 for one in parts)


@pytest.mark.parametrize("name", ["small", "tiny", "fast", "imagenet18-16", "finetune", "estimator-oct"])
def test_a_trial_takes_a_few_steps_at_each_size_with_two_batches(name):
    recipe = recipes.load(name, side=32)
    short = shortened(recipe, 50_000, ranks=2)
    plan = schedule(short, 50_000)
    sizes = {row.sizes[0] for row in recipe.flat_phases}
    assert {row.sizes[0] for row in short.flat_phases} == sizes
    assert {count for _, count in plan.steps_from(0)} == {STEPS}
    for size in sizes:
        batches = sorted({row.batch for row in short.flat_phases if row.sizes[0] == size})
        assert batches[0] <= batches[-1] // 2 + 1
    assert (short.model, short.augment) == (recipe.model, recipe.augment)


def test_a_trial_is_run_and_says_what_each_part_takes(pictures, tmp_path):
    pack(pictures, tmp_path / "p.e18", procs=1)
    recipe = recipes.load("small", batch=8, changes=CHANGES)
    parts = list(trial(recipe, datasets.open(tmp_path / "p.e18"), ranks=1, on_cpu=True, runs_dir=tmp_path))
    steps = {(one.about["size"], one.amount): one for one in parts if one.about["of"] == "step"}
    assert set(steps) == {(size, batch) for size in (32, 48) for batch in (4, 8)}
    assert all(one.seconds.low > 0 and one.count == STEPS - 2 for one in steps.values())
    start = next(one for one in parts if one.about["of"] == "start")
    assert start.seconds.median > 0.5, "Python and torch alone take longer"
    assert [path.name for path in tmp_path.iterdir()] == ["p.e18"], "nothing of it stays"


def test_a_trial_that_fails_says_what_the_run_said(pictures, tmp_path):
    pack(pictures, tmp_path / "p.e18", procs=1)
    data = datasets.open(tmp_path / "p.e18")
    recipe = recipes.load("small", batch=8, changes=[*CHANGES, "data.rendition='99'"])
    with pytest.raises(MachineError, match=r"try a few steps: got .*99"):
        list(trial(recipe, data, ranks=1, on_cpu=True, runs_dir=tmp_path))


def test_who_is_terminated_leaves_no_trial_and_no_folder(pictures, tmp_path):
    """A plan that is ended by SIGTERM, as a job of a cluster is, ends the training that it has begun."""
    pack(pictures, tmp_path / "p.e18", procs=1)
    words = [sys.executable, "-m", "eighteen", "bench", "p.e18", "--recipe", "small", "--part-seconds", "0.05"]
    changes = [word for change in (*CHANGES, "phases.0.batch=8") for word in ("--set", change)]
    with subprocess.Popen([*words, *changes], cwd=tmp_path, stderr=subprocess.PIPE) as process:
        try:
            while not (found := [*tmp_path.glob(".eighteen-*/.eighteen-*/*/lock")]):
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.1)
                assert process.returncode is None, process.stderr and process.stderr.read()
            process.terminate()
            assert process.wait(60) == 128 + signal.SIGTERM
        finally:
            process.kill()
    assert not [path for path in tmp_path.iterdir() if path.name != "p.e18"]
    assert not processes_with(str(found[0].parents[1]))


def processes_with(word):
    said = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            said.append(path.read_bytes().decode(errors="replace"))
    return [one for one in said if word in one]
