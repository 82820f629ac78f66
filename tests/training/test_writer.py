"""Checkpoints are written while training goes on; one that cannot be written does not end a run that can go on."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest
from small_runs import NUM_STEPS, differing, happened, saved, train

from eighteen.base import rundir
from eighteen.base.errors import EighteenError
from eighteen.training import checkpoint
from eighteen.training.writer import Saved, Writer

SAVED = Saved(Path("step-000001"), step=1, num_bytes=18, seconds=0.1, is_best=False)


def test_it_tells_of_a_write_only_when_that_has_ended():
    told, gate = [], threading.Event()

    def write() -> Saved:
        gate.wait()
        return SAVED

    writer = Writer(told.append)
    writer.start(write)
    writer.poll()
    assert told == []
    gate.set()
    writer.wait()
    writer.poll()
    assert told == [SAVED]


def test_one_write_waits_for_the_one_before_it():
    told = []
    writer = Writer(told.append)
    for number in range(3):
        writer.start(lambda number=number: Saved(Path(), number, 0, 0.0, False))
    writer.wait()
    assert [one.step for one in told] == [0, 1, 2]


def test_an_oserror_is_told_and_a_bug_is_raised():
    told = []
    writer = Writer(told.append)
    full = OSError(errno.ENOSPC, "No space left on device")

    def fail(error: Exception) -> Saved:
        raise error

    writer.start(lambda: fail(full))
    writer.wait()
    assert told == [full]
    writer.start(lambda: fail(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        writer.wait()


def failing(monkeypatch: pytest.MonkeyPatch, *, at: set[int]) -> None:
    """The disk is full for the checkpoints of these steps."""
    save = checkpoint.save

    def save_or_fail(folder, *, tensors, state):
        if state["step"] in at:
            raise OSError(errno.ENOSPC, "No space left on device", str(folder))
        return save(folder, tensors=tensors, state=state)

    monkeypatch.setattr(checkpoint, "save", save_or_fail)


def test_a_checkpoint_that_cannot_be_written_is_a_warning_and_the_best_before_it_stays(data, tmp_path, monkeypatch):
    whole = train(data, tmp_path / "whole").run
    steps = [event["step"] for event in happened(whole, "checkpoint")]
    *before, last_best = [event["step"] for event in happened(whole, "checkpoint") if event["best"]]
    failing(monkeypatch, at={last_best})
    run = train(data, tmp_path / "disturbed").run
    assert [event["step"] for event in happened(run, "checkpoint")] == [step for step in steps if step != last_best]
    (warning,) = [event["text"] for event in happened(run, "warning") if "checkpoint" in event["text"]]
    assert "ENOSPC (no space left on device)" in warning
    assert differing(saved(run), saved(whole)) == []
    assert checkpoint.newest(rundir.open(run)).state["best_checkpoint"] == checkpoint.name(before[-1])
    assert checkpoint.best(rundir.open(run)).step == before[-1]


def test_a_run_whose_last_checkpoint_cannot_be_written_does_not_end_well(data, tmp_path, monkeypatch):
    failing(monkeypatch, at={NUM_STEPS})
    with pytest.raises(EighteenError, match=r"(?i)no space left"):
        train(data, tmp_path)
    run = next((tmp_path / "runs").iterdir())
    assert happened(run, "end")[-1]["exit_code"] != 0
    assert checkpoint.newest(rundir.open(run)).step < NUM_STEPS


def test_training_goes_on_while_a_checkpoint_is_written(data, tmp_path, monkeypatch):
    save, seen = checkpoint.save, []
    stepped = threading.Event()

    def save_slowly(folder, *, tensors, state):
        if state["step"] == 4:
            seen.append(stepped.wait(timeout=20))  # a later step has been told of while this one is written
        return save(folder, tensors=tensors, state=state)

    monkeypatch.setattr(checkpoint, "save", save_slowly)
    train(data, tmp_path, on_event=lambda event: stepped.set() if event.get("step", 0) > 4 else None)
    assert seen == [True]
