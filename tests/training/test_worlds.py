"""One, two and three ranks: the same samples, the same weights, the same counts; and what becomes of a failing rank."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import small_nets
import torch
from small_runs import NUM_STEPS, distance, happened, make_job, model, pictures, recipe, saved, train

import eighteen
from eighteen.base import events, rundir
from eighteen.base.errors import RecipeError, Stopped, UsageError
from eighteen.base.events import Event
from eighteen.base.world import World
from eighteen.data.dataset import Dataset
from eighteen.training import checkpoint, ranks, state
from eighteen.training.train import train_loader

RUNS = {
    "plain": (),
    "mixup": ("augment.mixup=0.4", "optim.name='adamw'", "optim.lr=[[0, 0.002], [6, 0.0]]", "optim.ema=0.9"),
    "micro": ("train.micro_batch=4", "optim.clip=0.1", "data.balance='weights'"),
    "nan": (model("faulty_grouped"), "model.args.nan_at=[5, 6]", "model.args.rank=RANK", "model.args.witness='SEEN'"),
    "muon": ("optim.name='muon'", "optim.sgd_scale=0.5", "optim.clip=0.1"),
    "lars": ("optim.name='lars'", "optim.trust=0.1"),
    "statistics": (model("normed"), "optim.ema=0.9"),
    "recalibrated": (model("normed"), "optim.ema=0.9", "optim.recalibrate=70", "eval.batch=16"),
}
PROGRAM = Path(__file__).with_name("small_world.py")


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> Dataset:
    """647 pictures to evaluate: no whole number of batches, and no multiple of 2 or 3 batches."""
    path = tmp_path_factory.mktemp("wide") / "wide.e18"
    return eighteen.pack({"train": pictures(8, seed=3), "val": pictures(647, seed=4)}, path, procs=1)


@pytest.fixture(scope="module")
def worlds(data, wide, tmp_path_factory) -> dict[int, dict[str, Path]]:
    """World size -> name -> a finished run. The ranks of each world take all runs one by one."""
    folder, weights = tmp_path_factory.mktemp("worlds"), train(data, tmp_path_factory.mktemp("one"))
    evaluated = checkpoint.newest(rundir.open(weights.run)).path
    runs: dict[int, dict[str, Path]] = {1: {}, 2: {}, 3: {}}
    for size, name in product(runs, RUNS):
        seen = str(folder / f"seen-{size}")
        chosen = recipe(*(change.replace("RANK", str(size - 1)).replace("SEEN", seen) for change in RUNS[name]))
        runs[size][name] = rundir.create(folder / f"{size}", name, recipe=chosen, command="", environment={}).path
    arguments = [str(path) for path in (data.path, wide.path, evaluated, folder)]
    done = subprocess.run([sys.executable, str(PROGRAM), *arguments, "1,2,3"], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    return runs


@pytest.mark.parametrize("size", [2, 3])
def test_each_step_has_the_same_samples(data, tmp_path, size):
    alone = make_job(data, tmp_path)
    ranks = [make_job(data, tmp_path, world=World(rank, size)) for rank in range(size)]
    now = state.start(alone)
    with train_loader(alone, now) as loader:
        whole = list(loader)
    parts = []
    for this in ranks:
        with train_loader(this, now) as loader:
            parts.append(list(loader))
    assert len(whole) == NUM_STEPS
    for number, (step, batch) in enumerate(whole):
        assert all(part[number][0] == step for part in parts)
        assert torch.cat([part[number][1].ids for part in parts]).tolist() == batch.ids.tolist()
        assert torch.equal(torch.cat([part[number][1].images for part in parts]), batch.images)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", ["plain", "mixup", "micro", "nan", "muon", "lars"])
def test_the_weights_after_24_steps_do_not_depend_on_the_world(worlds, size, name):
    alone, ranks = worlds[1][name], worlds[size][name]
    assert happened(ranks, "end")[0]["step"] == NUM_STEPS
    assert happened(ranks, "start")[0]["world"] == size
    assert distance(saved(ranks), saved(alone)) < 1e-5
    if name == "mixup":
        assert distance(saved(ranks, "ema"), saved(alone, "ema")) < 1e-5


@pytest.mark.parametrize("size", [2, 3])
def test_losses_and_hits_do_not_depend_on_the_world(worlds, size):
    alone, ranks = (happened(worlds[one]["plain"], "step") for one in (1, size))
    assert [event["top1"] for event in ranks] == [event["top1"] for event in alone]
    assert [event["loss"] for event in ranks] == pytest.approx([event["loss"] for event in alone], rel=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_nan_on_one_rank_is_a_skipped_step_of_all(worlds, size):
    assert [(event["step"], event["streak"]) for event in happened(worlds[size]["nan"], "skip")] == [(5, 1), (6, 2)]
    assert happened(worlds[size]["nan"], "step")[-1]["skipped"] == 2


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_nan_on_one_rank_leaves_the_weights_of_all_as_they_were_bit_by_bit(worlds, size):
    folder = worlds[size]["nan"].parent.parent
    seen = [(folder / f"seen-{size}-{rank}").read_text().split()[-NUM_STEPS:] for rank in range(size)]
    for digests in seen:
        assert digests == seen[0]
        assert digests[5] == digests[6] == digests[7]
        assert len(set(digests)) == NUM_STEPS - 2, "all other steps changed them"


@pytest.mark.parametrize("size", [2, 3])
def test_one_checkpoint_gives_the_same_counts_on_any_world(worlds, size):
    alone = np.load(worlds[1]["plain"].parent / "counts-0.npz")
    assert alone["confusion"].sum() == alone["scores"][3] == 647
    for rank in range(size):
        found = np.load(worlds[size]["plain"].parent / f"counts-{rank}.npz")
        assert (found["confusion"] == alone["confusion"]).all()
        assert (found["calibration"][:, [0, 2]] == alone["calibration"][:, [0, 2]]).all()
        assert found["scores"][:2].tolist() == alone["scores"][:2].tolist()
        assert found["scores"][2] == pytest.approx(alone["scores"][2], rel=1e-12)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", ["statistics", "recalibrated"])
def test_what_the_ranks_evaluated_together_is_what_the_checkpoint_holds(data, worlds, size, name):
    """Also with batch norm and a moving average, whose statistics differ from rank to rank until they are averaged, or
    are taken anew by all ranks together."""
    run = worlds[size][name]
    told = happened(run, "eval")[-1]
    last = checkpoint.newest(rundir.open(run)).path.name
    found = eighteen.evaluate(run, data, checkpoint=last)
    assert (found.top1, found.num_samples) == (told["top1"], told["num_samples"])
    assert found.loss == pytest.approx(told["loss"], rel=1e-5)


def test_a_run_stopped_on_two_processes_goes_on_on_three_as_if_on_one(data, worlds, tmp_path, monkeypatch, capfd):
    """Ctrl-C before the ranks have even loaded: they save after their first steps."""
    start_rank = ranks.Ranks._start

    def started(self, rank):
        process = start_rank(self, rank)
        if rank == 1:  # the last of two
            signal.raise_signal(signal.SIGINT)
        return process

    monkeypatch.setattr(ranks.Ranks, "_start", started)
    with pytest.raises(Stopped, match=r"got a request to stop.*\n.*eighteen train --resume") as stopped:
        train(data, tmp_path, procs=2)
    monkeypatch.undo()
    assert stopped.value.exit_code == 75
    run = next((tmp_path / "runs").iterdir())
    assert str(run) in stopped.value.hint
    assert 0 < checkpoint.newest(rundir.open(run)).step < 4
    assert "Saving and stopping" in capfd.readouterr().err

    heard: list[Event] = []
    result = eighteen.resume(run, procs=3, on_event=heard.append)
    assert result.step == NUM_STEPS
    assert distance(saved(run), saved(worlds[1]["plain"])) < 1e-5
    assert result.top1 == happened(worlds[1]["plain"], "eval")[-1]["top1"]
    everything = list(events.read(run / "events.jsonl"))
    assert heard == everything[-len(heard) :]
    assert [event["world"] for event in everything if event["event"] == "start"] == [2, 3]
    assert [line.split()[0] for line in (run / "log.txt").read_text().splitlines() if "~~" in line] == [
        "~~epoch",
        *(f"~~{epoch}" for epoch in range(1, 7)),
    ]
    assert json.loads((run / "status.json").read_text())["state"] == "done"
    assert capfd.readouterr().err == ""


def test_a_batch_has_a_pair_for_each_rank(data, tmp_path):
    with pytest.raises(RecipeError, match=r"phases\[0\].batch: got 26, need at least 2 for each of the 14 ranks"):
        train(data, tmp_path, procs=14)
    assert not (tmp_path / "runs").exists()


def test_a_module_cannot_be_sent_to_other_ranks(data, tmp_path):
    with pytest.raises(UsageError, match=r"train a module on several ranks: got 2 ranks.*\n.*package.module:function"):
        train(data, tmp_path, model=small_nets.grouped(4, 3), procs=2)
