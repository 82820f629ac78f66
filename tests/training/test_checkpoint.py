"""Checkpoints: what is written comes back bit for bit, and nothing else does."""

from __future__ import annotations

import errno
import json
from functools import partial

import pytest
import torch
from small_runs import differing

from eighteen.base import rundir
from eighteen.base.errors import DataError
from eighteen.base.rundir import RunDir
from eighteen.training import checkpoint

STATE = {"step": 12, "best_checkpoint": None}


@pytest.fixture
def run(tmp_path) -> RunDir:
    folder = RunDir(tmp_path / "run")
    folder.checkpoints.mkdir(parents=True)
    return folder


def save(run: RunDir, step: int, best: str | None = None, **tensors):
    state = {"step": step, "best_checkpoint": best}
    return checkpoint.save(run.checkpoints, tensors=tensors or {"model": {"w": torch.full((2,), step)}}, state=state)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)


def test_tensors_and_state_come_back_bit_for_bit(run):
    weights = {
        "conv.weight": torch.rand(4, 3, 3, 3).contiguous(memory_format=torch.channels_last),
        "part": torch.rand(6, 6)[::2, 1:3],
        "half": torch.rand(3).bfloat16(),
        "count": torch.tensor(7),
    }
    path = save(run, 12, model=weights, ema=weights, optimizer={})
    opened = checkpoint.open(path)
    assert path.name == "step-000012"
    assert opened.step == 12
    assert differing(opened.tensors("model"), weights) == []
    assert opened.tensors("optimizer") == {}
    assert {name: value.dtype for name, value in opened.tensors("ema").items()}["half"] == torch.bfloat16


def test_the_weights_to_use_are_the_moving_average_where_there_is_one(run):
    model, ema = {"w": torch.zeros(2)}, {"w": torch.ones(2)}
    assert differing(checkpoint.open(save(run, 1, model=model)).weights(), model) == []
    assert differing(checkpoint.open(save(run, 2, model=model, ema=ema)).weights(), ema) == []


@pytest.mark.parametrize("file", ["model.safetensors", "state.json"])
def test_a_flipped_bit_is_found_and_the_file_named(run, file):
    path = save(run, 12)
    flip_a_bit(path / file)
    with pytest.raises(DataError, match=rf"open the checkpoint .*step-000012: got {file} differs from its digest"):
        checkpoint.open(path)


def test_a_missing_file_and_a_missing_mark_are_found(run):
    path = save(run, 12)
    (path / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"model.safetensors is not there"):
        checkpoint.open(path)
    (path / "commit.json").unlink()
    with pytest.raises(DataError, match=r"no commit.json: it was never finished"):
        checkpoint.open(path)


def test_the_newest_is_by_number_and_the_one_before_stands_in_for_a_damaged_one(run):
    for step in (2, 999_999, 1_000_000):
        save(run, step)
    assert checkpoint.newest(run).step == 1_000_000
    flip_a_bit(run.checkpoints / "step-1000000" / "model.safetensors")
    assert checkpoint.newest(run).step == 999_999


def test_without_a_readable_checkpoint_every_damaged_one_is_named(run):
    with pytest.raises(DataError, match=r"open the run .*: got no finished checkpoint, need a checkpoint"):
        checkpoint.newest(run)
    for step in (1, 2):
        flip_a_bit(save(run, step) / "model.safetensors")
    with pytest.raises(DataError, match=r"got model.safetensors differs from its digest; model.safetensors differs"):
        checkpoint.newest(run)


def test_the_best_is_the_one_that_the_newest_names(run):
    save(run, 1)
    assert checkpoint.best(run).step == 1
    save(run, 2, best="step-000001")
    assert checkpoint.best(run).step == 1
    save(run, 3, best="step-000007")  # it is gone
    assert checkpoint.best(run).step == 3


def test_pruning_keeps_the_last_two_and_the_best(run):
    for step in range(1, 7):
        save(run, step)
    checkpoint.prune(run, keep="step-000002")
    assert [path.name for path in checkpoint.committed(run)] == ["step-000002", "step-000005", "step-000006"]
    assert len(list(run.checkpoints.iterdir())) == 3


def test_a_full_disk_leaves_the_checkpoints_before_it_and_nothing_else(run, monkeypatch):
    save(run, 1)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_json", full)
    with pytest.raises(OSError, match="No space left"):
        save(run, 2)
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-000001"]


def test_what_a_killed_process_left_is_no_checkpoint_and_goes_with_the_next(run):
    (run.checkpoints / ".step-000002.tmp").mkdir()
    assert checkpoint.committed(run) == []
    save(run, 3)
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-000003"]


def test_a_step_saved_again_replaces_the_old_one(run):
    save(run, 1)
    path = save(run, 1, model={"w": torch.ones(5)})
    assert checkpoint.open(path).tensors("model")["w"].shape == (5,)


@pytest.mark.parametrize("kind", [partial(torch.optim.SGD, momentum=0.9), torch.optim.AdamW])
def test_the_optimisers_state_comes_back_under_the_names_of_the_weights(kind):
    def trained() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(1)
        model = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        return model, kind(model.parameters(), lr=0.1, fused=True)

    (model, optimizer), (other, fresh) = trained(), trained()
    for _ in range(2):
        model(torch.ones(1, 3, 8, 8)).sum().backward()
        optimizer.step()
    saved = checkpoint.optimizer_tensors(model, optimizer)
    assert {name.rpartition(".")[0] for name in saved} == {"weight", "bias"}
    checkpoint.load_optimizer(other, fresh, saved)
    assert differing(checkpoint.optimizer_tensors(other, fresh), saved) == []


def test_state_and_marks_are_plain_json(run):
    path = save(run, 12)
    marks = json.loads((path / "commit.json").read_text())
    assert sorted(marks) == ["model.safetensors", "state.json"]
    assert marks["state.json"]["bytes"] == (path / "state.json").stat().st_size
    assert json.loads((path / "state.json").read_text()) == STATE


def test_a_folder_without_a_recipe_is_no_run(tmp_path):
    with pytest.raises(DataError, match=r"got no recipe.toml there"):
        rundir.open(tmp_path)
