"""The doctor at work, on real trainings of small pictures."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import eighteen
from eighteen import cli
from eighteen.advice import examination, labels, likeness, remedy
from eighteen.advice.alone import Alone
from eighteen.advice.evidence import Evidence
from eighteen.advice.finding import Finding, Gain
from eighteen.base import recipe as recipes
from eighteen.data import dataset as datasets
from eighteen.data.pack import pack

SMALL = ["model.args.widths=[8,16]", "phases.0.size=32", "phases.1.size=32", "phases.2.size=32", "eval.size=32"]
FLAGS = [word for change in SMALL for word in ("--set", change)]


@pytest.fixture(scope="module")
def packed(pictures, tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "jpegs.e18"
    pack(pictures, path, val=0.2, procs=1)
    return path


@pytest.fixture(scope="module")
def run(packed, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    return eighteen.train(packed, recipe="small", batch=16, epochs=2, changes=SMALL, runs_dir=runs).run


def test_a_dataset_is_examined_by_a_training_that_leaves_nothing_behind(packed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "findings.json"
    words = ["doctor", str(packed), "--recipe", "small", "--batch", "2", "--seconds", "0.5", "--json", str(out), *FLAGS]
    assert cli.main(words) == 0
    told = json.loads(out.read_text())["findings"]
    assert "small-batch" in [one["code"] for one in told]
    assert all({"code", "what", "why", "evidence", "command", "gain", "fix"} <= {*one} for one in told)
    shown = capsys.readouterr()
    assert "small-batch" in shown.out
    assert "docs/doctor/small-batch.md" in shown.out.replace("\n", "")
    assert "images/s" in shown.err
    assert [*tmp_path.iterdir()] == [out]


def test_the_story_of_a_fix_is_told_to_its_end(packed, capsys):
    words = ["doctor", str(packed), "--recipe", "small", "--batch", "2", "--seconds", "0.5", "--fix", *FLAGS]
    assert cli.main(words) == 0
    story = capsys.readouterr().err.splitlines()
    (line,) = [line for line in story if line.startswith("small-batch: --batch ")]
    assert "foretold" in line
    assert line.endswith(("kept", "taken back"))
    assert story[-1].startswith(f"eighteen train {packed} --batch ") or story[-1] == "nothing was changed"


def test_two_ranks_are_watched_as_well(packed):
    changed = recipes.load("small", batch=16, changes=SMALL)
    seen = examination.watched(changed, datasets.open(packed), ranks=2, on_cpu=True, watch_s=0.2, every=1)
    steps = [one for one in seen if one["event"] == "step"]
    assert len(steps) > examination.LEAST_EVENTS
    assert all(len(one["ranks"]["communication"]) == 2 for one in steps)


def test_a_run_is_examined_by_what_it_told(run, capsys):
    assert cli.main(["doctor", str(run)]) == 0
    assert "labels" in capsys.readouterr().err


def test_what_keeping_pictures_would_bring_is_tried_on_a_few(packed):
    recipe = recipes.load("small", batch=16, changes=[*SMALL, "data.keep=never"])
    lines = list[str]()
    seen = examination.examine(recipe, datasets.open(packed), watch_s=0.2, say=lines.append)
    assert seen.trials.kept_s is not None
    assert 0 < seen.trials.kept_s < 5
    assert any("kept decoded" in line for line in lines)


def test_a_rank_of_two_is_tried_with_its_share_of_the_processors(packed, monkeypatch):
    threads = list[int]()
    monkeypatch.setattr(Alone, "step", lambda self, row, count: threads.append(torch.get_num_threads()))
    monkeypatch.setattr(Alone, "seconds", lambda self, row, counts, until: dict.fromkeys(counts, 0.1))
    recipe, before = recipes.load("small", batch=16, changes=SMALL), torch.get_num_threads()
    found = examination.experiments(recipe, datasets.open(packed), 2, 2, say=lambda line: None)
    assert found.batch == 8
    assert {*threads} == {max(1, before // 2)}
    assert torch.get_num_threads() == before


def test_a_run_without_steps_or_with_fix_is_refused(run, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "recipe.toml").write_bytes((run / "recipe.toml").read_bytes())
    assert cli.main(["doctor", str(tmp_path / "empty")]) == 3
    assert "a run without steps" in capsys.readouterr().err
    assert cli.main(["doctor", str(run), "--fix"]) == 2
    assert "eighteen train photos.e18 --fix" in capsys.readouterr().err
    assert cli.main(["doctor", str(tmp_path / "nothing")]) == 3
    assert cli.main(["doctor", str(run), "--seconds", "0"]) == 2


def test_a_run_whose_dataset_has_gone_is_examined_without_it(run, tmp_path, capsys):
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("recipe.toml", "events.jsonl", "env.json"):
        (copy / name).write_bytes((run / name).read_bytes())
    (copy / "command.txt").write_text("eighteen train\n/nowhere/gone.e18\n")
    assert cli.main(["doctor", str(copy)]) == 0
    assert "the dataset is not looked at" in capsys.readouterr().err


def test_a_run_of_a_module_that_nobody_here_can_build_is_examined_by_its_events(packed, tmp_path, capsys):
    net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 3))
    done = eighteen.train(packed, model=net, recipe="small", epochs=1, changes=SMALL[1:], runs_dir=tmp_path).run
    assert cli.main(["doctor", str(done)]) == 0
    assert "the events alone are looked at" in capsys.readouterr().err


def test_a_fix_that_does_not_help_is_taken_back(packed):
    recipe = recipes.load("small", changes=SMALL)
    slow, fast = recipes.load(recipe, changes=["data.threads=1"]), recipes.load(recipe, changes=["data.threads=2"])
    assert remedy.applied(slow, {"data.threads": 2}) == fast
    assert remedy.applied(recipe, {"train.compile": False}).train.compile is False
    halved = remedy.applied(recipe, {"batch": 32})
    assert [row.batch for row in halved.phases] == [32, 32, 32]
    found = Finding("few-threads", "", "", "", "", Gain(1, 2, 3), {"data.threads": 2})
    assert not remedy.Remedy(found, 100.0, 101.0, recipe, Evidence(None)).is_kept  # type: ignore[arg-type]
    assert remedy.Remedy(found, 100.0, 103.0, recipe, Evidence(None)).is_kept  # type: ignore[arg-type]


def test_photos_that_are_cut_or_compressed_anew_are_found_in_the_other_split(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(40):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize((96, 72), Image.Resampling.BICUBIC)
        for name, change in (("train", lambda one: one), ("val", _others(number))):
            place = tmp_path / "source" / name / "ab"[number % 2] / f"{number}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            change(coarse).save(place, quality=92 if name == "train" else 60)
    found = likeness.between(eighteen.pack(tmp_path / "source", tmp_path / "split.e18", procs=1))
    assert found.looked_at == 40
    assert {theirs.rpartition("/")[2] for theirs, _ in found.alike} == {"0.jpg", "1.jpg", "2.jpg"}
    assert all(theirs.rpartition("/")[2] == ours.rpartition("/")[2] for theirs, ours in found.alike)


def _others(number):
    """The first three stay nearly what they are; the others become other pictures."""
    if number < 3:
        return lambda one: one.crop((1, 1, 95, 71))
    return lambda one: one.transpose(Image.Transpose.FLIP_TOP_BOTTOM)


def test_a_label_is_doubted_where_the_model_is_as_sure_of_another():
    chances = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.99, 0.01], [0.6, 0.4]])
    given, ids = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([7, 5, 3, 1, 9])
    assert labels._doubts(chances, given, ids) == [(1, 1, 0, pytest.approx(0.99))]


def test_a_wrong_label_is_among_those_doubted_after_a_run(tmp_path):
    """Two classes that a net tells apart at once, and one validation picture that lies in the other's folder."""
    for name, count in (("train", 60), ("val", 16)):
        for number in range(count):
            label = number % 2
            place = tmp_path / "source" / name / "ab"[label if (name, number) != ("val", 4) else 1] / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(number).integers(0, 90, (80, 80, 3)) + 160 * label
            Image.fromarray(pixels.astype(np.uint8)).save(place)
    data = eighteen.pack(tmp_path / "source", tmp_path / "wrong.e18", procs=1)
    changes = [*SMALL, "optim.ema=0", "optim.label_smoothing=0.0", "eval.every=15"]
    done = eighteen.train(data, recipe="small", batch=10, epochs=15, changes=changes, runs_dir=tmp_path / "runs").run
    found = labels.doubted(eighteen.base.rundir.open(done), data, recipes.load(str(done / "recipe.toml")).final_eval)
    assert found.looked_at == 16
    assert [one.picture.rpartition("/")[2] for one in found.doubted] == ["4.png"]
