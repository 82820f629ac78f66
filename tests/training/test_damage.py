"""Damaged checkpoints: whatever bits rot, none is loaded in silence, the file is named, the one before it is used."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from eighteen.base.errors import DataError
from eighteen.base.rundir import RunDir
from eighteen.training import checkpoint

PAGE = 4096


@pytest.fixture
def run(tmp_path) -> RunDir:
    """Two checkpoints as a run leaves them, some pages large."""
    run = RunDir(tmp_path / "run")
    for step in (1, 2):
        rng = torch.Generator().manual_seed(step)
        part = {f"layer{number}.weight": torch.rand(500, generator=rng) for number in range(4)}
        tensors = {"model": part, "ema": part, "optimizer": part}
        state = {"step": step, "best_checkpoint": None, "card": {"classes": ["cat", "dog"], "size": 64}}
        checkpoint.save(run.checkpoints, tensors=tensors, state=state)
    return run


def assert_found(run: RunDir, file: Path, damaged: bytes) -> None:
    """The damage is named and the checkpoint before it taken; the file is mended again."""
    whole = file.read_bytes()
    assert damaged != whole
    file.write_bytes(damaged)
    with pytest.raises(DataError, match=r"open the checkpoint .*step-000002: got (\S+) ") as found:
        checkpoint.open(file.parent)
    named = str(found.value.got).split()[0]
    # one in the mark itself shows as a file that differs from what the mark says, or is not there under that name
    assert named == file.name or file.name == checkpoint.COMMIT, (named, file.name)
    assert checkpoint.newest(run).step == 1
    file.write_bytes(whole)


def files(run: RunDir) -> list[Path]:
    found = sorted(checkpoint.newest(run).path.iterdir())
    assert [file.name for file in found] == [
        "commit.json",
        "ema.safetensors",
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    ]
    return found


@pytest.mark.parametrize("num_flips", [250, pytest.param(1000, marks=pytest.mark.soak)])
def test_no_flipped_bit_is_silent(run, num_flips):
    """As many in each file, at seeded places."""
    rng, each = random.Random(18), num_flips // 5
    for file in files(run):
        whole = file.read_bytes()
        for place in rng.sample(range(8 * len(whole)), each):
            damaged = bytearray(whole)
            damaged[place // 8] ^= 1 << place % 8
            assert_found(run, file, bytes(damaged))
    assert checkpoint.newest(run).step == 2


def test_no_cut_is_silent(run):
    for file in files(run):
        whole = file.read_bytes()
        for length in range(0, len(whole), 512):
            assert_found(run, file, whole[:length])
        assert_found(run, file, whole[:-1])
        assert_found(run, file, whole + b"\0")
    assert checkpoint.newest(run).step == 2


def test_no_zeroed_page_is_silent(run):
    for file in files(run):
        whole = file.read_bytes()
        for first in range(0, len(whole), PAGE):
            page = whole[first : first + PAGE]
            assert_found(run, file, whole[:first] + bytes(len(page)) + whole[first + PAGE :])
    assert checkpoint.newest(run).step == 2


@pytest.mark.soak
def test_no_bit_of_the_commit_mark_is_silent(run):
    mark = files(run)[0]
    whole = mark.read_bytes()
    for place in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        assert_found(run, mark, bytes(damaged))


@pytest.mark.parametrize(
    "mark", ["{}", "[]", "null", "3", '{"model.safetensors": 1}', '{"state.json": null}', "\0" * 99]
)
def test_a_commit_mark_that_says_nothing_is_no_mark(run, mark):
    file = checkpoint.newest(run).path / checkpoint.COMMIT
    assert_found(run, file, mark.encode())
