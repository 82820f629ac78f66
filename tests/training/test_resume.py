"""Stopping and going on: nothing is lost, nothing is seen twice, and the end is the same bit for bit."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
from small_process import Process
from small_runs import NUM_STEPS, differing, happened, model, pictures, saved, train

import eighteen
from eighteen.base import rundir
from eighteen.base.errors import DataError, Stopped, UsageError
from eighteen.training import checkpoint
from eighteen.training.stopping import StopSignals

HARD = (model("normed"), "optim.ema=0.9", "augment.mixup=0.2", "augment.erase=0.5")  # all that has a state
ADAM = ("optim.name='adamw'", "optim.lr=[[0, 0.002], [6, 0.0]]")


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    return train(data, tmp_path_factory.mktemp("undisturbed"), *HARD).run


def stop_at(step, *, how):
    """What a run calls with each event: stops it when it tells of this step."""

    def on_event(event):
        if event["event"] == "step" and event["step"] == step:
            return how()
        return None

    return on_event


def ctrl_c():
    signal.raise_signal(signal.SIGINT)


def stopped_run(data, folder, *changes, step=9, how=ctrl_c) -> Path:
    with pytest.raises(Stopped):
        train(data, folder, *changes, on_event=stop_at(step, how=how))
    return next((folder / "runs").iterdir())


def assert_same_end(run, other):
    for part in ("model", "ema", "optimizer"):
        if (checkpoint.newest(rundir.open(run)).path / f"{part}.safetensors").exists():
            assert differing(saved(run, part), saved(other, part)) == []
    scores = [
        [(event["epoch"], event["top1"], event["loss"]) for event in happened(one, "eval")] for one in (run, other)
    ]
    assert scores[0] == scores[1]


@pytest.mark.parametrize("how", [ctrl_c, lambda: eighteen.STOP], ids=["Ctrl-C", "STOP"])
def test_a_run_that_was_stopped_goes_on_to_the_same_end(data, tmp_path, undisturbed, how):
    run = stopped_run(data, tmp_path, *HARD, how=how)
    assert happened(run, "end")[-1]["reason"] == "stopped"
    assert json.loads((run / "status.json").read_text())["exit_code"] == 75
    state = checkpoint.newest(rundir.open(run)).state
    assert 9 < state["step"] <= 12
    assert state["cursor"] == {"epoch": state["step"] // 4, "position": 26 * (state["step"] % 4), "seed": 0}
    result = eighteen.resume(run)
    assert result.step == NUM_STEPS
    assert result.seconds > happened(run, "end")[0]["seconds"]
    assert [event["step"] for event in happened(run, "step")] == list(range(NUM_STEPS))
    assert_same_end(run, undisturbed)


def test_adamw_goes_on_to_the_same_end(data, tmp_path):
    whole = train(data, tmp_path / "whole", *HARD, *ADAM).run
    run = stopped_run(data, tmp_path, *HARD, *ADAM)
    eighteen.resume(run)
    assert_same_end(run, whole)


def test_a_damaged_newest_checkpoint_is_told_and_the_one_before_it_used(data, tmp_path, undisturbed):
    run = stopped_run(data, tmp_path, *HARD)
    newest, before = (path for path in reversed(checkpoint.committed(rundir.open(run))))
    weights = newest / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    eighteen.resume(run)
    assert [event["checkpoint"] for event in happened(run, "resume")] == [before.name]
    assert happened(run, "warning")[0]["text"] == f"{newest.name} is damaged: going on from {before.name}"
    assert_same_end_from(run, undisturbed)


def assert_same_end_from(run, other):
    for part in ("model", "ema", "optimizer"):
        assert differing(saved(run, part), saved(other, part)) == []


def test_a_run_without_a_checkpoint_goes_on_from_its_beginning(data, tmp_path, undisturbed):
    run = stopped_run(data, tmp_path, *HARD)
    for path in checkpoint.committed(rundir.open(run)):
        (path / "commit.json").unlink()
    eighteen.resume(run)
    assert [(event["step"], event["checkpoint"]) for event in happened(run, "resume")] == [(0, None)]
    assert_same_end_from(run, undisturbed)


def test_a_run_whose_checkpoints_are_all_damaged_does_not_go_on(data, tmp_path):
    run = stopped_run(data, tmp_path)
    for path in checkpoint.committed(rundir.open(run)):
        (path / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"open the run .*: got model.safetensors is not there; model"):
        eighteen.resume(run)


@pytest.mark.parametrize(
    "changes", [(), ("optim.lr=[[0, 0.0], [6, 0.0]]", "train.patience=2")], ids=["done", "patience"]
)
def test_a_finished_run_does_not_go_on(data, tmp_path, changes):
    run = train(data, tmp_path, *changes).run
    before = (run / "events.jsonl").read_bytes()
    reason = happened(run, "end")[0]["reason"]
    with pytest.raises(UsageError, match=rf"resume .*: got one that ended at step \d+: {reason}.*\n.*eighteen eval"):
        eighteen.resume(run)
    assert (run / "events.jsonl").read_bytes() == before


def test_a_run_does_not_go_on_with_other_classes(data, tmp_path):
    run = stopped_run(data, tmp_path)
    images, labels = pictures(60, seed=1)
    eighteen.pack((images, labels % 3), tmp_path / "three.e18", procs=1)
    with pytest.raises(UsageError, match=r"got a dataset of 3 other classes, need the dataset it was trained on"):
        eighteen.resume(run, data=tmp_path / "three.e18")


def test_a_run_goes_on_with_a_dataset_that_has_moved(data, tmp_path):
    first, moved = (tmp_path / f"{name}.e18" for name in ("first", "moved"))
    shutil.copytree(data.path, first)
    run = stopped_run(eighteen.open(first), tmp_path)
    first.rename(moved)
    with pytest.raises(DataError, match=r"open .*first.e18: got nothing there"):
        eighteen.resume(run)
    assert eighteen.resume(run, data=moved).step == NUM_STEPS


def test_checkpoints_by_phase_keep_the_best_evaluation_too(data, tmp_path):
    run = train(data, tmp_path, "train.checkpoint='phase'").run
    best = [event for event in happened(run, "eval") if event["best"]][-1]
    state = checkpoint.best(rundir.open(run)).state
    assert state["best_top1"] == best["top1"]
    assert state["step"] == best["step"] + 1


def test_checkpoints_can_come_by_the_clock(data, tmp_path):
    run = train(data, tmp_path, "train.checkpoint='phase'", "train.checkpoint_minutes=1e-9").run
    assert len(happened(run, "checkpoint")) >= NUM_STEPS // 2  # all ranks learn of it one step later


def test_the_second_signal_is_handled_as_before(capfd):
    caught = []
    before = signal.signal(signal.SIGTERM, lambda *_: caught.append("ours"))
    try:
        with StopSignals() as signals:
            assert not signals.requested
            signal.raise_signal(signal.SIGTERM)
            assert signals.requested
            assert caught == []
            signal.raise_signal(signal.SIGTERM)
            assert caught == ["ours"]
    finally:
        signal.signal(signal.SIGTERM, before)
    assert capfd.readouterr().err.count("Saving and stopping") == 1


def test_ctrl_c_on_the_command_line_saves_and_ctrl_c_twice_does_not(data, tmp_path, undisturbed):
    (tmp_path / "once").mkdir()
    (tmp_path / "twice").mkdir()
    changes = (model("gated"), *HARD[1:])
    once, twice = (Process(data, tmp_path / name, *changes) for name in ("once", "twice"))
    for process in (once, twice):
        process.wait_for("at the gate")
        process.send(signal.SIGINT)
        process.wait_for("Saving and stopping")
    twice.send(signal.SIGINT)
    once.open_gate()
    assert (once.end(), twice.end()) == (75, 130)
    assert "Traceback" not in once.told + twice.told

    run = next((tmp_path / "once" / "runs").iterdir())
    assert once.told.endswith(f"  Try: eighteen train --resume {run.relative_to(tmp_path / 'once')}\n")
    eighteen.resume(run)
    same = {name.removeprefix("net."): value for name, value in saved(run).items()}
    assert differing(same, saved(undisturbed)) == []

    run = next((tmp_path / "twice" / "runs").iterdir())
    assert happened(run, "end")[0]["exit_code"] == 130
    assert checkpoint.newest(rundir.open(run)).step == 4
