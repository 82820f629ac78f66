"""Runs over damaged datasets: what they leave out, list and say, and when they end."""

from __future__ import annotations

import csv
import shutil

import pytest
from small_runs import NUM_TRAIN, differing, happened, saved, train

import eighteen
from eighteen.base.errors import DataError, Stopped
from eighteen.cli import main

TOLERANT = "data.tolerate=0.05"


@pytest.fixture(scope="module")
def damaged(data, tmp_path_factory):
    """Two bad samples of 104 in train, one of 40 in val."""
    path = shutil.copytree(data.path, tmp_path_factory.mktemp("damaged") / "quarters.e18")
    for split, samples in {"train": (17, 60), "val": (5,)}.items():
        rendition = data.splits[split].renditions["full"]
        with (path / rendition.shards[0]).open("r+b") as file:
            for sample in samples:
                file.seek(int(rendition.index["offset"][sample]))
                file.write(b"damaged")
    return eighteen.open(path)


@pytest.fixture(scope="module")
def run(damaged, tmp_path_factory):
    return train(damaged, tmp_path_factory.mktemp("run"), TOLERANT).run


def listed(run):
    with (run / "bad.csv").open(newline="") as file:
        return [(row["split"], int(row["sample"])) for row in csv.DictReader(file)]


def told(run):
    return [event["text"] for event in happened(run, "warning") if "listed in bad.csv" in event["text"]]


def test_they_are_listed_and_told_once_and_not_counted(run):
    assert sorted(listed(run)) == [("train", 17), ("train", 60), ("val", 5)]
    assert len(told(run)) == 3
    assert all("quarters.e18" in text and "do not match their checksum" in text for text in told(run))
    assert {event["num_samples"] for event in happened(run, "eval")} == {39}


@pytest.mark.parametrize("change", ["data.bad=stop", "data.tolerate=0.01", "data.tolerate=0.0001"])
def test_one_too_many_ends_the_run_and_is_named(damaged, tmp_path, change):
    with pytest.raises(DataError, match=r"read sample (17|60) of train/full\.raw\.npy in ") as caught:
        train(damaged, tmp_path, change)
    assert caught.value.exit_code == 3
    (run,) = (tmp_path / "runs").iterdir()
    assert happened(run, "end")[0]["exit_code"] == 3


def test_a_run_that_goes_on_ends_with_the_same_weights_and_lists_nothing_twice(damaged, run, tmp_path):
    def stop(event):
        return eighteen.STOP if event["event"] == "step" and event["step"] == 9 else None

    with pytest.raises(Stopped):
        train(damaged, tmp_path, TOLERANT, on_event=stop)
    (again,) = (tmp_path / "runs").iterdir()
    eighteen.resume(again)
    assert differing(saved(again), saved(run)) == []
    assert sorted(listed(again)) == sorted(listed(run))
    assert len(told(again)) == 3


@pytest.mark.soak  # two processes import torch
def test_two_ranks_list_them_in_one_table(damaged, tmp_path):
    run = train(damaged, tmp_path, TOLERANT, "phases.0.epochs=1", "optim.lr=[[0, 0.1], [1, 0.0]]", procs=2).run
    assert sorted(listed(run)) == [("train", 17), ("train", 60), ("val", 5)]
    assert len(told(run)) == 3
    assert NUM_TRAIN % 26 == 0


def test_an_evaluation_leaves_them_out_as_its_recipe_says(damaged, run, capfd):
    assert main(["eval", str(run), str(damaged.path)]) == 0
    output = capfd.readouterr()
    assert "warning: read sample 5 of val/full.raw.npy in" in output.err
    assert (run / "eval" / "quarters-val" / "bad.csv").read_text().count("\n") == 2
    assert eighteen.evaluate(run, damaged).num_samples == 39
    assert main(["eval", str(run), str(damaged.path), "--size", "96", "--tta", "crops"]) == 0
    output = capfd.readouterr()
    assert output.err.count("warning") == 1
    assert "val, 39 pictures of 96 px" in output.out
    assert "with TTA (crops)" in output.out


def test_an_evaluation_with_too_many_fails(damaged, run, tmp_path, capfd):
    copy = shutil.copytree(run, tmp_path / "run")
    recipe = (copy / "recipe.toml").read_text()
    (copy / "recipe.toml").write_text(recipe.replace("tolerate = 0.05", "tolerate = 0.001"))
    assert main(["eval", str(copy), str(damaged.path)]) == 3
    error = capfd.readouterr().err
    assert error.startswith("DataError: read sample 5 of val/full.raw.npy in ")
    assert "bad sample 1 of val, where data.tolerate lets 0 be so" in error
