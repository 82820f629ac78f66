"""Asking a run to stop or to save, at any moment and in any way: nothing is trained twice, nothing is left out."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest
from small_process import Process
from small_runs import NUM_STEPS, differing, happened, model, saved, train

import eighteen
from eighteen import cli
from eighteen.base import rundir
from eighteen.base.errors import DataError, Stopped, UsageError
from eighteen.training import checkpoint, requests, room

# 2 epochs; the second has another size, and batches that are no part of an epoch
PHASES = "phases=[{epochs=1, size=12, batch=26, min_scale=0.5}, {epochs=1, size=16, batch=20, min_scale=0.5}]"
TWO = (PHASES, "optim.lr=[[0, 0.05], [2, 0.0]]", model("normed"), "augment.mixup=0.2", "train.checkpoint='phase'")
STEPS = range(9)


class Trace(NamedTuple):
    """steps: (number, [(sample, visit), ...]) as they were trained      before: number -> what happens before it"""

    steps: list[tuple[int, list[tuple[int, int]]]]
    before: dict[int, Callable[[], object]]


@contextmanager
def traced() -> Iterator[Trace]:
    train_step, trace = room.train_step, Trace([], {})

    def traced_step(job, state, batch, now, **options):
        trace.before.pop(now.number, lambda: None)()
        trace.steps.append((now.number, list(zip(batch.ids.tolist(), batch.visits.tolist(), strict=True))))
        return train_step(job, state, batch, now, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "train_step", traced_step)
        yield trace


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    """The steps of a run that nobody stopped, and where it lies."""
    with traced() as trace:
        run = train(data, tmp_path_factory.mktemp("undisturbed"), *TWO).run
    assert [number for number, _ in trace.steps] == list(STEPS)
    return trace.steps, run


def terminate():
    signal.raise_signal(signal.SIGTERM)


def die():
    raise KeyboardInterrupt


def at_start(event):
    return eighteen.STOP if event["event"] == "start" else None


@pytest.mark.parametrize("step", STEPS)
def test_a_run_stopped_at_any_step_goes_on_with_the_next_sample(data, tmp_path, undisturbed, step):
    with traced() as trace:
        trace.before[step] = terminate
        if step < 6:  # later it is done before all ranks could agree to stop
            with pytest.raises(Stopped):
                train(data, tmp_path, *TWO)
        train(data, tmp_path, *TWO)
    (run,) = (tmp_path / "runs").iterdir()
    assert trace.steps == undisturbed[0]
    assert differing(saved(run), saved(undisturbed[1])) == []


def test_a_run_stopped_again_and_again_right_after_it_went_on_leaves_nothing_out(data, tmp_path, undisturbed):
    stops = 0
    with traced() as trace:
        while len(trace.steps) < len(STEPS):
            try:
                train(data, tmp_path, *TWO, on_event=at_start)
            except Stopped:
                stops += 1
    (run,) = (tmp_path / "runs").iterdir()
    assert stops >= 4, "twice in each epoch"
    assert trace.steps == undisturbed[0]
    assert differing(saved(run), saved(undisturbed[1])) == []


@pytest.mark.parametrize("step", STEPS)
def test_a_run_killed_at_any_step_repeats_the_same_from_its_last_checkpoint(data, tmp_path, undisturbed, step):
    """Also before there is one."""
    with traced() as trace:
        trace.before[step] = die
        with pytest.raises(KeyboardInterrupt):
            train(data, tmp_path, *TWO)
        train(data, tmp_path, *TWO)
    (run,) = (tmp_path / "runs").iterdir()
    last = 4 if step >= 4 else 0  # the phase's end
    assert [number for number, _ in trace.steps] == [*range(step), *range(last, len(STEPS))]
    assert dict(trace.steps) == dict(undisturbed[0])
    assert [(event["step"], event["epoch"]) for event in happened(run, "resume")] == [(last, last / 4)]
    assert differing(saved(run), saved(undisturbed[1])) == []


def test_sigusr1_saves_and_goes_on_each_time(data, tmp_path):
    def on_event(event):
        if event["event"] == "step" and event["step"] in (5, 14):
            signal.raise_signal(signal.SIGUSR1)

    before = signal.getsignal(signal.SIGUSR1)
    run = train(data, tmp_path, "train.checkpoint='phase'", "eval.every=100", on_event=on_event).run
    steps = [event["step"] for event in happened(run, "checkpoint")]
    assert 5 < steps[0] <= 9
    assert 14 < steps[1] <= 18
    assert steps[2:] == [NUM_STEPS]
    assert happened(run, "end")[0]["reason"] == "done"
    assert signal.getsignal(signal.SIGUSR1) is before


def ask_at(step, folder, **how):
    """What asks the only run in a folder by its own folder."""

    def on_event(event):
        if event["event"] == "step" and event["step"] == step:
            (run,) = (folder / "runs").iterdir()
            assert eighteen.stop(run, **how) is None

    return on_event


def test_a_run_can_be_asked_to_end_with_its_epoch_or_now(data, tmp_path, monkeypatch):
    monkeypatch.setattr(requests, "LOOK_S", 0)
    with pytest.raises(Stopped) as stopped:
        train(data, tmp_path, on_event=ask_at(5, tmp_path))
    (run,) = (tmp_path / "runs").iterdir()
    assert stopped.value.exit_code == 75
    end = happened(run, "end")[-1]
    assert (end["step"], end["reason"], end["top1"]) == (8, "stopped", happened(run, "eval")[-1]["top1"])
    assert happened(run, "eval")[-1]["step"] == 7
    assert checkpoint.newest(rundir.open(run)).step == 8
    assert not (run / "stop.json").exists()

    with pytest.raises(Stopped):
        eighteen.resume(run, on_event=ask_at(9, tmp_path, now=True))
    assert 9 < happened(run, "end")[-1]["step"] <= 13
    assert not (run / "stop.json").exists()

    assert eighteen.resume(run, on_event=ask_at(21, tmp_path)).step == NUM_STEPS
    assert happened(run, "end")[-1]["reason"] == "done"


def test_a_request_to_a_run_that_has_died_since_is_not_heeded_by_the_next(data, tmp_path):
    with pytest.raises(Stopped):
        train(data, tmp_path, on_event=at_start)
    (run,) = (tmp_path / "runs").iterdir()
    (run / "stop.json").write_text('{"v": 1, "when": "step"}')
    assert eighteen.resume(run).step == NUM_STEPS


def test_only_a_run_that_trains_can_be_asked_to_stop(data, tmp_path):
    with pytest.raises(DataError, match=r"open the run .*: got no recipe.toml there, need .*\n  Try: "):
        eighteen.stop(tmp_path)
    with pytest.raises(Stopped):
        train(data, tmp_path, on_event=at_start)
    (run,) = (tmp_path / "runs").iterdir()
    with pytest.raises(
        UsageError, match=r"stop .*: got one that ended at step 2: stopped, need a run that trains.*\n.*--resume"
    ):
        eighteen.stop(run)
    eighteen.resume(run)
    with pytest.raises(
        UsageError, match=r"got one that ended at step 24: done, need a run that trains.\n  Try: eighteen eval"
    ):
        eighteen.stop(run)
    assert not (run / "stop.json").exists()


LONG = ("phases.0.epochs=6000", "optim.lr=[[0, 0.05], [6000, 0.0]]", "eval.every=6000", "train.checkpoint='phase'")


@pytest.mark.parametrize("ranks", [(), pytest.param(("--procs", "2"), marks=pytest.mark.soak)], ids=["alone", "ranks"])
def test_a_run_in_another_process_is_guarded_saved_and_stopped(data, tmp_path, capfd, ranks):
    process = Process(data, tmp_path, model("grouped"), *LONG, options=ranks)
    process.wait_for("step ")
    (run,) = (tmp_path / "runs").iterdir()

    assert cli.main(["train", "--resume", str(run)]) == 2
    said = capfd.readouterr().err
    assert f"got one that process {process.process.pid} on " in said
    assert "need a run at rest" in said

    process.send(signal.SIGUSR1)
    process.wait_for("checkpoint step-")
    assert cli.main(["stop", str(run), "--now"]) == 0
    said = capfd.readouterr()
    last = happened(run, "end")[0]["step"]
    ended = f"{run} ended at step {last:,}: stopped; eighteen train --resume {run} goes on\n"
    assert said.out == f"asked {run} to save and stop at its next step\n{ended}"
    assert f"checkpoint step-{last:06d}" in said.err
    assert process.end() == 75
    assert len(happened(run, "checkpoint")) == 2
    assert cli.main(["stop", str(run)]) == 2


@pytest.mark.parametrize("attempt", [0, *(pytest.param(number, marks=pytest.mark.soak) for number in range(1, 6))])
def test_a_process_killed_by_a_second_signal_while_it_saves_leaves_what_goes_on(data, tmp_path, attempt):
    changes = (model("heavy_gated"), "train.checkpoint='phase'", "eval.every=6")  # few checkpoints: each is 64 MB
    process = Process(data, tmp_path, *changes)
    process.wait_for("at the gate")
    process.send(signal.SIGTERM)
    process.wait_for("Saving and stopping")
    (run,) = (tmp_path / "runs").iterdir()
    process.open_gate()
    is_saving = lambda: any(name.startswith(".step-") for name in os.listdir(run / "checkpoints"))  # noqa: E731
    while not is_saving():
        assert process.process.poll() is None, "it was too quick for us"
    process.send(signal.SIGTERM)
    assert process.end() == -signal.SIGTERM
    assert "Traceback" not in process.told

    result = eighteen.train(data, recipe=str(tmp_path / "gated.toml"), runs_dir=tmp_path / "runs")
    assert (result.run, result.step) == (run, NUM_STEPS)
    whole = train(data, tmp_path / "whole", *changes).run
    assert differing(saved(run), saved(whole)) == []
