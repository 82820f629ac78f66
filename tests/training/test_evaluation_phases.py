"""How a run is evaluated: as its phase says, with test-time augmentation at its end, and what counts as best."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from small_runs import happened, make_job, saved, train
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

import eighteen
from eighteen.base import result, rundir
from eighteen.base.errors import Stopped
from eighteen.cli import main
from eighteen.training import calibration, checkpoint, state

PHASES = (
    "phases=[{epochs=4, size=16, batch=26, min_scale=0.5},"
    " {epochs=2, size=16, batch=26, min_scale=0.5, eval_size=96, eval_rect=true}]"
)


@pytest.fixture(scope="module")
def ended(data, tmp_path_factory):
    """Four evaluations at 16 px, which it learns for, and two at 96, which it does not know."""
    return train(data, tmp_path_factory.mktemp("run"), PHASES, "eval.tta=crops", "augment.flip=true")


def test_each_phase_is_evaluated_as_it_says(ended):
    evaluations = happened(ended.run, "eval")
    assert [(event["size"], event["rect"]) for event in evaluations] == [(16, False)] * 4 + [(96, True)] * 2


def test_tta_is_done_at_the_end_alone_and_told_beside_the_plain_scores(ended):
    *before, last = happened(ended.run, "eval")
    assert all((one["tta"], one["top1_tta"], one["top5_tta"]) == ("none", None, None) for one in before)
    (end,) = happened(ended.run, "end")
    for event in (last, end):
        assert (event["tta"], event["top5_tta"]) == ("crops", 1.0)
        assert 0 <= event["top1_tta"] <= 1
        assert event["top1"] == last["top1"]
    assert (ended.tta, ended.top1_tta, ended.top5_tta) == ("crops", last["top1_tta"], 1.0)
    assert replace(result.of(rundir.open(ended.run)), seconds=ended.seconds) == ended
    log = (ended.run / "log.txt").read_text()
    assert log.count("with TTA (crops) top-1") == 2
    assert log.count("without TTA") == 7
    points = {
        value.tag: value.tensor.float_val[0]
        for file in (ended.run / "tensorboard").iterdir()
        for record in EventFileLoader(str(file)).Load()
        for value in record.summary.value
    }
    assert points["val/top1_tta"] == pytest.approx(last["top1_tta"])


def test_the_best_is_that_of_the_last_size_and_shape(ended):
    """Worse ones at another size are better than those before: scores of other pictures do not compare."""
    evaluations = happened(ended.run, "eval")
    assert max(one["top1"] for one in evaluations[:4]) > max(one["top1"] for one in evaluations[4:])
    assert evaluations[4]["best"]
    assert ended.best_top1 == max(one["top1"] for one in evaluations[4:])
    best = next(one for one in evaluations[4:] if one["top1"] == ended.best_top1)
    assert checkpoint.best(rundir.open(ended.run)).step == best["step"] + 1


def test_prediction_and_evaluation_afterwards_are_as_the_last_phase(data, ended):
    card = eighteen.load(ended.run).card
    assert (card.size, card.rect) == (96, True)
    last, newest = happened(ended.run, "eval")[-1], checkpoint.newest(rundir.open(ended.run)).path.name
    found = eighteen.evaluate(ended.run, data, checkpoint=newest)
    for name in ("size", "rect", "top1", "top5", "tta", "top1_tta", "top5_tta", "num_samples"):
        assert getattr(found, name) == last[name]


def test_another_evaluation_can_be_asked_for(data, ended, capsys):
    options = ["--size", "16", "--no-rect", "--crop", "1.0", "--tta", "flip"]
    assert main(["eval", str(ended.run), str(data.path), *options]) == 0
    text = capsys.readouterr().out
    assert "val, 40 pictures of 16 px\n" in text.replace(" \n", "\n")
    assert "without TTA   top-1" in text
    assert "with TTA (flip)   top-1" in text
    summary = json.loads((ended.run / "eval" / f"{data.path.stem}-val" / "summary.json").read_text())
    assert (summary["size"], summary["rect"], summary["tta"]) == (16, False, "flip")
    assert summary["top1_tta"] is not None
    assert main(["eval", str(ended.run), str(data.path), "--size", "100"]) == 2
    assert "need a size that is a multiple of 32 for rect, not 100" in capsys.readouterr().err


def test_predictions_take_tta_only_if_asked(ended, pictures, capsys):
    picture = next(pictures.rglob("*.jpg"))
    said = []
    for options in ([], ["--tta", "none"], ["--tta", "crops"]):
        assert main(["predict", str(ended.run), str(picture), "--format", "jsonl", *options]) == 0
        said.append(json.loads(capsys.readouterr().out)["probability"])
    assert said[0] == said[1] != said[2]
    assert main(["predict", str(ended.run), str(picture), "--tta", "crop"]) == 2
    assert 'did you mean "crops"?' in capsys.readouterr().err


def test_a_run_that_goes_on_knows_of_which_evaluations_its_best_is(data, ended, tmp_path):
    def stop(event):
        return eighteen.STOP if event["event"] == "eval" and event["size"] == 96 else None

    with pytest.raises(Stopped):
        train(data, tmp_path, PHASES, "eval.tta=crops", "augment.flip=true", on_event=stop)
    (run,) = (tmp_path / "runs").iterdir()
    assert checkpoint.newest(rundir.open(run)).state["best_of"] == [96, True]
    again = eighteen.resume(run)
    assert (again.top1, again.best_top1, again.top1_tta) == (ended.top1, ended.best_top1, ended.top1_tta)
    assert [one["best"] for one in happened(run, "eval")] == [one["best"] for one in happened(ended.run, "eval")]


def test_patience_begins_anew_with_other_evaluations(data, tmp_path):
    flat = "optim.lr=[[0, 0.0], [6, 0.0]]"  # learns nothing
    result = train(data, tmp_path, PHASES, flat, "train.patience=4")
    assert [event["best"] for event in happened(result.run, "eval")] == [True, False, False, False, True, False]
    assert happened(result.run, "end")[0]["reason"] == "done"


def test_a_checkpoint_of_a_version_without_best_of_goes_on(data, tmp_path):
    this = make_job(data, tmp_path)
    assert state.start(this).best_of is None
    run = train(data, tmp_path).run
    assert checkpoint.newest(rundir.open(run)).state["best_of"] == [16, False]
    old = checkpoint.newest(rundir.open(run))
    del old.state["best_of"]
    assert state.resume(this, state.start(this), old).best_of == [16, False]
    assert saved(run)


def test_what_the_end_of_a_run_takes_is_measured_with_its_tta_and_other_evaluations_without(
    data, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    this = make_job(data, tmp_path, PHASES, "eval.tta=crops", "augment.flip=true")
    costs = calibration.calibrate(this, state.start(this)).costs
    (found,) = json.loads(calibration.cache().read_text()).values()
    evals = {name: seconds for name, seconds in found.items() if name.startswith("Eval")}
    (tta,) = (seconds for name, seconds in evals.items() if '"tta": "crops"' in name)
    plain = {int(name.partition('"size": ')[2][:2]): s for name, s in evals.items() if '"tta": "none"' in name}
    assert costs.evals == pytest.approx((40 * plain[16], 40 * plain[96]))
    assert costs.end == pytest.approx(found["save"] + calibration.EXIT_S)
    assert costs.more == pytest.approx(max(0.0, 40 * (tta - plain[96])))
