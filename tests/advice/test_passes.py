"""Passes over a small dataset: what is gone through, in which order, and what comes of it."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from eighteen.advice import passes
from eighteen.advice.feeding import TASKS, Pass, Setting, Task
from eighteen.base.errors import DataError, MachineError
from eighteen.data import dataset as datasets
from eighteen.data import native
from eighteen.data.pack import pack

SMALL = (Task("crop 32", 32, True), Task("val 32", 32, False))


@pytest.fixture(scope="module")
def path(pictures, tmp_path_factory):
    """120 train JPEGs of 72 to 128 pixels, also as a rendition of 48."""
    path = tmp_path_factory.mktemp("packed") / "jpegs.e18"
    pack(pictures, path, val=0.0, renditions=[48], procs=1)
    return path


@pytest.fixture(scope="module")
def split(path):
    return datasets.open(path).splits["train"]


def test_each_task_is_measured_on_each_rendition_with_each_number_of_threads(path, monkeypatch):
    monkeypatch.setattr(passes, "TASKS", SMALL)
    told = []
    found = passes.bench(
        path, threads=[1, 2], num_pictures=50, batch=20, num_repeats=2, on_progress=lambda *now: told.append(now)
    )
    settings = [(row.setting.task.name, row.setting.rendition, row.setting.num_threads) for row in found.rows]
    assert settings == [(t, r, n) for r in ("full", "48") for t in ("crop 32", "val 32") for n in (1, 2)]
    assert found.num_pictures == 60, "whole batches"
    assert told == [(done, 24, 0) for done in range(1, 25)], "two rounds of 8, after one that does not count"
    for row in found.rows:
        assert row.cpu_ms.low > 0
        assert row.speedup is not None
        assert (sum(row.shares.values()) == pytest.approx(1)) == row.setting.task.is_random
        assert (row.grown_bytes is None) == (sys.platform != "linux")
    full, small = (next(row.read_bytes for row in found.rows if row.setting.rendition == r) for r in ("full", "48"))
    assert full > small > 0


@pytest.mark.parametrize(("count", "first"), [(40, [0, 3, 6]), (120, [0, 1, 2]), (300, [0, 1, 2])])
def test_pictures_are_spread_over_the_split_and_repeated_where_it_has_fewer(split, count, first):
    chosen = passes.some(split, count)
    assert chosen.num_samples == len(chosen.labels) == len(chosen.renditions["48"].index) == count
    whole, index = split.renditions["full"].index, chosen.renditions["full"].index
    assert index["offset"][:3].tolist() == whole["offset"][first].tolist()
    assert len(np.unique(index["offset"])) == min(count, 120)


@pytest.mark.native
@pytest.mark.parametrize("task", SMALL, ids=lambda task: task.name)
def test_the_bare_decoder_makes_the_pixels_of_the_loader(split, task, monkeypatch):
    made = []
    fill = native.NativeDecoder.fill

    def keep(self, rendition, samples, wanted, out):
        made.append((samples, out))
        return fill(self, rendition, samples, wanted, out)

    monkeypatch.setattr(native.NativeDecoder, "fill", keep)
    for bare in (False, True):
        assert passes.make_pass(split, Setting(task, "full", 1, bare), batch=120).num_pictures == 120
    (ids, loader), (samples, alone) = made
    assert samples.tolist() == list(range(120))
    assert np.array_equal(loader, alone[ids])


def test_settings_take_turns_in_an_order_drawn_anew():
    settings, done = [Setting(TASKS[0], "full", threads) for threads in range(1, 9)], []

    def one_pass(setting):
        done.append(setting)
        return Pass(1, float(len(done)), 1.0, {}, None)

    measured = passes.in_turns(settings, one_pass, num_repeats=3)
    turns = [done[first : first + 8] for first in range(0, 32, 8)]
    assert all(set(turn) == set(settings) for turn in turns)
    assert len({tuple(turn) for turn in turns}) == 4
    assert all(
        [8 * n < one.wall_s <= 8 * n + 8 for n, one in enumerate(measured[s], 1)] == [True] * 3 for s in settings
    )


def test_what_cannot_be_measured_is_refused(tmp_path, path, monkeypatch):
    with pytest.raises(DataError, match="got nothing there"):
        passes.bench(tmp_path / "nowhere.e18", threads=[1])
    monkeypatch.setattr(native, "library", lambda: None)
    with pytest.raises(MachineError, match="got no native decoder, need it built"):
        passes.bench(path, threads=[1], with_bare=True)
