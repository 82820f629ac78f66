"""The same call again: it goes on with a run that did not come to its end, and starts another where there is none."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import small_nets
import torch
from small_runs import NUM_STEPS, differing, happened, model, pictures, recipe, saved, train

import eighteen
from eighteen.base import events, rundir
from eighteen.base import recipe as recipes
from eighteen.base.errors import Diverged, Stopped
from eighteen.base.lock import held
from eighteen.training import checkpoint


def runs(folder):
    return sorted((folder / "runs").iterdir())


def at_start(event):
    return eighteen.STOP if event["event"] == "start" else None


def stopped(data, folder, *changes, **options):
    """A run that was stopped at its second step."""
    with pytest.raises(Stopped):
        train(data, folder, *changes, on_event=at_start, **options)
    return runs(folder)[-1]


def test_the_same_call_goes_on_with_a_stopped_run_and_says_so(data, tmp_path):
    run, said = stopped(data, tmp_path), []
    result = train(data, tmp_path, say=said.append)
    assert (result.run, result.step) == (run, NUM_STEPS)
    assert said == [f"going on with {run} from step 2 (--new starts another)"]
    assert runs(tmp_path) == [run]


def test_a_run_that_came_to_its_end_is_followed_by_another(data, tmp_path):
    first = train(data, tmp_path).run
    said = []
    second = train(data, tmp_path, say=said.append).run
    assert said == [f"run {second}"]
    assert runs(tmp_path) == [first, second]


def test_a_run_that_diverged_is_not_tried_again(data, tmp_path):
    for _ in range(2):
        with pytest.raises(Diverged):
            train(data, tmp_path, model("faulty"), "model.args.nan_at=[9, 10, 11]")
    assert len(runs(tmp_path)) == 2


@pytest.mark.parametrize("options", [{"new": True}, {"name": "other"}, {"epochs": 7}], ids=["new", "name", "recipe"])
def test_another_call_starts_another_run(data, tmp_path, options):
    run = stopped(data, tmp_path)
    result = train(data, tmp_path, **options)
    assert result.run != run
    assert len(runs(tmp_path)) == 2
    assert happened(result.run, "resume") == []


def test_a_dataset_that_was_packed_anew_starts_another_run(tmp_path):
    for seed in (1, 2):
        data = eighteen.pack({"train": pictures(104, seed=seed)}, tmp_path / "same.e18", procs=1, force=True)
        stopped(data, tmp_path)
    assert len(runs(tmp_path)) == 2


def test_a_run_that_still_trains_is_left_alone(data, tmp_path):
    run = stopped(data, tmp_path)
    with held(rundir.open(run)):
        said = []
        assert train(data, tmp_path, say=said.append).run != run
    assert said[0].startswith(f"not going on with {run}: got one that process ")


def test_a_run_whose_checkpoints_are_all_damaged_is_left_alone(data, tmp_path):
    run, said = stopped(data, tmp_path), []
    for path in checkpoint.committed(rundir.open(run)):
        (path / "model.safetensors").unlink()
    assert train(data, tmp_path, say=said.append).run != run
    assert said[0] == f"not going on with {run}: got model.safetensors is not there"


def test_a_run_killed_between_its_last_checkpoint_and_its_end_only_tells_its_end(data, tmp_path):
    first = train(data, tmp_path)
    log = first.run / "events.jsonl"
    told = log.read_bytes()
    log.write_bytes(told[: told.index(b'{"v": 1, "event": "end"') + 10])
    again = train(data, tmp_path)
    assert again == replace(first, seconds=again.seconds)
    kinds = [event["event"] for event in events.read(log) if event["event"] != "warning"]
    assert kinds[-4:] == ["checkpoint", "resume", "start", "end"]
    assert [event["reason"] for event in happened(first.run, "end")] == ["done"]


def test_what_a_killed_run_told_of_steps_done_again_is_replaced(data, tmp_path):
    """It trained an epoch on after its last checkpoint: log, events and TensorBoard count each epoch once."""
    whole = train(data, tmp_path / "whole", "train.checkpoint='phase'", "eval.every=2").run

    def die(event):
        if event["event"] == "epoch" and event["epoch"] == 5:  # the best was that of an earlier one, which is saved
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path, "train.checkpoint='phase'", "eval.every=2", on_event=die)
    run = train(data, tmp_path, "train.checkpoint='phase'", "eval.every=2").run
    (resume,) = happened(run, "resume")
    assert resume["step"] < 20
    assert len(happened(run, "epoch")) > 6
    for kind in ("step", "epoch", "eval"):
        standing = [event for event in events.standing(events.read(run / "events.jsonl")) if event["event"] == kind]
        assert [(event["step"], event["top1"]) for event in standing] == [
            (event["step"], event["top1"]) for event in happened(whole, kind)
        ]
    epochs = [line.split()[0] for line in (run / "log.txt").read_text().splitlines() if line.startswith("~~")]
    assert epochs == ["~~epoch", *(f"~~{epoch}" for epoch in range(1, 7))]
    assert differing(saved(run), saved(whole)) == []


@pytest.mark.soak
def test_the_same_call_goes_on_with_ranks_of_its_own(data, tmp_path):
    run = stopped(data, tmp_path, procs=2)
    said = []
    assert train(data, tmp_path, procs=2, say=said.append).run == run
    assert said[0].startswith(f"going on with {run} from step ")
    assert [event["world"] for event in happened(run, "start")] == [2, 2]


@pytest.mark.soak
def test_the_same_command_goes_on_under_torchrun(data, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(recipes.dump(recipe()))
    run = stopped(data, tmp_path)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "eighteen", "train", str(data.path), "--recipe", str(file)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"going on with runs/{run.name} from step 2" in done.stderr
    assert done.stdout == f"runs/{run.name}\n"
    assert [event["world"] for event in happened(run, "start")] == [1, 2]


def test_a_module_goes_on_with_the_run_of_its_like(data, tmp_path):
    run = stopped(data, tmp_path, model=small_nets.normed(4, 3))
    assert train(data, tmp_path, model=small_nets.normed(4, 3)).run == run

    run = stopped(data, tmp_path, model=small_nets.normed(4, 3))
    said = []
    wider = torch.nn.Sequential(*list(small_nets.grouped(4, 3))[:2], torch.nn.Linear(16, 4))
    assert train(data, tmp_path, model=wider, say=said.append).run != run
    assert said[0] == f"not going on with {run}: got weights of other names or shapes"
