"""Exact runs: the same bits on 1, 2 and 4 ranks, and when their number changes in the middle."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from small_nets import PACE_S
from small_runs import NUM_STEPS, differing, distance, happened, make_job, model, recipe, saved, train
from test_worlds import PROGRAM

import eighteen
from eighteen.base import rundir
from eighteen.base.errors import RecipeError, Stopped
from eighteen.base.world import World
from eighteen.training import checkpoint

EXACT = ("train.exact=true", "train.virtual_workers=4")
SMOOTH = (model("smooth"), "optim.batch=32", "phases.0.batch=32")
NUM_SMOOTH_STEPS = 20  # 6 epochs of 104 pictures in batches of 32
RUNS = {
    "sgd": (model("paced"), *EXACT, "augment.mixup=0.4", "optim.clip=0.1"),  # batch norm and dropout
    "adamw": (model("normed"), *EXACT, "optim.name='adamw'", "optim.lr=[[0, 0.002], [6, 0.0]]", "optim.ema=0.9"),
    "muon": (
        *(model("normed"), *EXACT, "optim.name='muon'", "optim.momentum=[[0, 0.6], [6, 0.9]]"),
        *("optim.ema=0.9", "optim.ema_from=2", "optim.recalibrate=70", "eval.batch=16"),
    ),
    "ghost": (*SMOOTH, "train.ghost_batch=8"),
    "as-ghost": (*SMOOTH, *EXACT),
}


@pytest.fixture(scope="module")
def worlds(data, tmp_path_factory) -> dict[int, dict[str, Path]]:
    """World size -> name -> a finished run."""
    folder, weights = tmp_path_factory.mktemp("worlds"), train(data, tmp_path_factory.mktemp("one"))
    evaluated = checkpoint.newest(rundir.open(weights.run)).path
    runs: dict[int, dict[str, Path]] = {1: {}, 2: {}, 4: {}}
    for size, of_size in runs.items():
        for name, changes in RUNS.items():
            of_size[name] = rundir.create(
                folder / f"{size}", name, recipe=recipe(*changes), command="", environment={}
            ).path
    arguments = [str(path) for path in (data.path, data.path, evaluated, folder)]
    done = subprocess.run([sys.executable, str(PROGRAM), *arguments, "1,2,4"], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    return runs


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", ["sgd", "adamw", "muon"])
def test_weights_statistics_and_optimiser_are_the_same_bits_on_any_world(worlds, size, name):
    alone, ranks = worlds[1][name], worlds[size][name]
    assert happened(ranks, "start")[0]["world"] == size
    for part in ("model", "optimizer", *(["ema"] if name != "sgd" else [])):
        assert differing(saved(ranks, part), saved(alone, part)) == []
    assert [event["top1"] for event in happened(ranks, "eval")] == [event["top1"] for event in happened(alone, "eval")]


def test_two_ranks_then_one_then_four_end_with_the_same_bits(data, worlds, tmp_path, monkeypatch):
    monkeypatch.setenv(PACE_S, "0.05")  # of each part of a step, or it would be over before anybody can stop it

    def stop_at(step: int) -> Callable[[dict], object]:
        return lambda event: eighteen.STOP if event["event"] == "step" and event["step"] >= step else None

    with pytest.raises(Stopped):
        train(data, tmp_path, *RUNS["sgd"], procs=2, on_event=stop_at(3))
    run = next((tmp_path / "runs").iterdir())
    with pytest.raises(Stopped):
        eighteen.resume(run, on_event=stop_at(checkpoint.newest(rundir.open(run)).step + 2))
    eighteen.resume(run, procs=4)
    assert [event["world"] for event in happened(run, "start")] == [2, 1, 4]
    assert happened(run, "end")[-1]["step"] == NUM_STEPS
    for part in ("model", "optimizer"):
        assert differing(saved(run, part), saved(worlds[1]["sgd"], part)) == []


@pytest.mark.parametrize("size", [2, 4])
def test_with_ghost_batches_batch_norm_does_not_depend_on_the_world(worlds, size):
    """32 pictures in ghosts of 8: four parts, on one rank or on four."""
    ours, alone = saved(worlds[size]["ghost"]), saved(worlds[1]["ghost"])
    assert distance(ours, alone) < 1e-5
    assert ours["body.1.num_batches_tracked"] == alone["body.1.num_batches_tracked"] == NUM_SMOOTH_STEPS


def test_virtual_workers_give_what_ghost_batches_give(worlds):
    """Both take batch statistics over the same four parts of a batch; only the order of additions differs."""
    assert distance(saved(worlds[2]["as-ghost"]), saved(worlds[1]["ghost"])) < 1e-5


@pytest.mark.parametrize(
    ("changes", "size", "message"),
    [
        (("train.virtual_workers=8",), 3, "train.virtual_workers: got 8, need a multiple of the number of ranks, 3"),
        (("train.virtual_workers=16",), 1, r"phases\[0\].batch: got 26, need at least 2 for each of the 16 virtual"),
    ],
)
def test_what_virtual_workers_cannot_share_is_refused(data, tmp_path, changes, size, message):
    with pytest.raises(RecipeError, match=message):
        make_job(data, tmp_path, "train.exact=true", *changes, world=World(0, size))


def test_virtual_workers_are_a_power_of_two():
    with pytest.raises(RecipeError, match="6 is not a power of two"):
        recipe("train.exact=true", "train.virtual_workers=6")
