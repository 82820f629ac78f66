"""A run from its first event to its last: what it tells, when it ends, and what it leaves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from small_runs import NUM_STEPS, NUM_TRAIN, differing, happened, make_job, model, pictures, recipe, saved, train
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

import eighteen
from eighteen.base import events, rundir
from eighteen.base import recipe as recipes
from eighteen.base.errors import Diverged
from eighteen.base.hardware import num_cpus
from eighteen.base.schedule import schedule
from eighteen.training import auto, checkpoint
from eighteen.training.auto import Facts

FLAT = "optim.lr=[[0, 0.0], [6, 0.0]]"  # learns nothing


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """Two phases, checkpoints and evaluations after each epoch."""
    phases = "phases=[{epochs=2, size=12, batch=13, min_scale=0.5}, {epochs=4, size=16, batch=26, min_scale=0.5}]"
    return train(data, tmp_path_factory.mktemp("run"), phases).run


def test_it_learns(tmp_path):
    """Which colour is brightest; chance is one in three."""
    rng, labels = np.random.default_rng(0), np.arange(144) % 3
    images = rng.integers(0, 150, (144, 16, 16, 3), np.uint8)
    images[np.arange(144), :, :, labels] += 60
    data = eighteen.pack((images, labels), tmp_path / "colours.e18", val=0.25, procs=1)
    result = train(data, tmp_path)
    assert result.top1 is not None
    assert result.top1 > 0.9
    assert eighteen.evaluate(result.run, data).top1 == result.best_top1


def test_events_come_in_order_and_name_every_step_once(run):
    beside = ("warning", "reached")
    kinds = [event["event"] for event in events.read(run / "events.jsonl") if event["event"] not in beside]
    assert kinds[:3] == ["start", "phase", "step"]
    assert kinds[-2:] == ["checkpoint", "end"]  # and before it perhaps one that took long to write
    assert [kind for kind in kinds if kind != "checkpoint"][-3:] == ["eval", "epoch", "end"]
    assert [event["step"] for event in happened(run, "step")] == list(range(16 + 16))
    assert [(event["phase"], event["size"], event["batch"], event["step"]) for event in happened(run, "phase")] == [
        (0, 12, 13, 0),
        (1, 16, 26, 16),
    ]
    assert [event["epoch"] for event in happened(run, "epoch")] == [1, 2, 3, 4, 5, 6]


def test_rates_and_samples_are_those_of_the_schedule(run):
    plan = schedule(recipes.load(str(run / "recipe.toml")), NUM_TRAIN)
    for event in happened(run, "step"):
        step = plan.at(event["step"])
        assert (event["lr"], event["samples"]) == (step.lr, step.first + step.batch)
    assert happened(run, "step")[0]["lr"] == 0.05 / 2  # half the batch that the rates are written for


def test_shares_of_time_sum_to_one_with_evaluations_and_checkpoints_in_between(run):
    for event in happened(run, "step"):
        assert sum(event["waits"].values()) == pytest.approx(1, abs=1e-6)
        assert all(0 <= share <= 1 for share in event["waits"].values())
        assert 0 < event["images_per_s"] < 1e6
        assert event["eta_s"] >= 0
    assert happened(run, "step")[-1]["eta_s"] == pytest.approx(0, abs=1e-6)


def test_steps_tell_who_used_the_processors_and_how_many_threads_decode(data, tmp_path, run):
    one = happened(train(data, tmp_path, "data.threads=1", "data.prefetch=1").run, "step")
    assert {event["threads"] for event in one} == {1}
    assert {event["threads"] for event in happened(run, "step")} == {num_cpus()}
    assert all(event["cpus"]["own"] > 0 for event in one)


def test_tensorboard_has_the_events_over_samples(run):
    (file,) = (run / "tensorboard").iterdir()
    points = {
        (value.tag, record.step): value.tensor.float_val[0]
        for record in EventFileLoader(str(file)).Load()
        for value in record.summary.value
    }
    for event in happened(run, "step"):
        assert points["train/loss", event["samples"]] == pytest.approx(event["loss"])
    for event in happened(run, "eval"):
        assert points["val/top1", event["samples"]] == pytest.approx(event["top1"])


def test_its_recipe_trains_again_to_the_same_weights(data, run, tmp_path):
    again = eighteen.train(data, recipe=str(run / "recipe.toml"), runs_dir=tmp_path)
    assert (again.run / "recipe.toml").read_bytes() == (run / "recipe.toml").read_bytes()
    assert differing(saved(again.run), saved(run)) == []


def test_another_seed_is_another_run(data, run, tmp_path):
    other = eighteen.train(data, recipe=str(run / "recipe.toml"), changes=["train.seed=1"], runs_dir=tmp_path)
    assert set(differing(saved(other.run), saved(run))) == set(saved(run))


def test_a_run_without_validation_keeps_its_newest_weights(tmp_path):
    data = eighteen.pack(pictures(NUM_TRAIN, seed=1), tmp_path / "train.e18", val=0, procs=1)
    result = train(data, tmp_path)
    assert (result.top1, result.best_top1) == (None, None)
    assert checkpoint.best(rundir.open(result.run)).step == NUM_STEPS
    assert (result.run / "log.txt").read_text().count("\tnan") == 2 * 6


def test_a_picture_of_more_epochs_than_steps_still_ends(data, tmp_path):
    result = train(data, tmp_path, "phases.0.batch=1000")
    assert result.step == 1
    assert [event["epoch"] for event in happened(result.run, "eval")] == [6]


def test_three_losses_in_a_row_that_are_not_finite_end_the_run(data, tmp_path):
    with pytest.raises(Diverged, match=r"train step 11: got 3 losses in a row that are not finite, need a") as diverged:
        train(data, tmp_path, model("faulty"), "model.args.nan_at=[2, 3, 9, 10, 11, 12]")
    assert diverged.value.exit_code == 5
    run = next((tmp_path / "runs").iterdir())
    assert f"the last good checkpoint is {run / 'checkpoints' / 'step-000008'}" in diverged.value.hint
    assert [(event["step"], event["streak"]) for event in happened(run, "skip")] == [
        (2, 1),
        (3, 2),
        (9, 1),
        (10, 2),
        (11, 3),
    ]
    end = happened(run, "end")[0]
    assert (end["reason"], end["exit_code"]) == ("Diverged", 5)
    assert checkpoint.newest(rundir.open(run)).step == 8


def test_a_run_that_diverges_at_once_names_no_checkpoint(data, tmp_path):
    """Three are enough, even if the fourth, which ends an epoch, is finite again."""
    with pytest.raises(Diverged, match="train step 2: got 3 losses in a row") as diverged:
        train(data, tmp_path, model("faulty"), "model.args.nan_at=[0, 1, 2]")
    assert "there is no checkpoint yet" in diverged.value.hint


def test_skipped_steps_are_counted_and_left_out_of_the_mean_loss(data, tmp_path):
    run = train(data, tmp_path, model("faulty"), "model.args.nan_at=[1, 5]", "train.log_every=4").run
    assert [event["skipped"] for event in happened(run, "step")] == [0, 1, 2, 2, 2, 2, 2]
    assert all(math.isfinite(event["loss"]) for event in happened(run, "step"))


def test_patience_ends_a_run_that_gains_nothing(data, tmp_path):
    result = train(data, tmp_path, FLAT, "train.patience=2")
    assert [event["best"] for event in happened(result.run, "eval")] == [True, False, False]
    end = happened(result.run, "end")[0]
    assert (end["reason"], end["step"], end["exit_code"]) == ("patience", 12, 0)
    assert checkpoint.best(rundir.open(result.run)).step == 4


def test_evaluations_can_be_rarer_and_the_last_epoch_always_has_one(data, tmp_path):
    run = train(data, tmp_path, "eval.every=4").run
    assert [event["epoch"] for event in happened(run, "eval")] == [4, 6]


@pytest.fixture(scope="module")
def lopsided(tmp_path_factory):
    """4 classes of 90, 30, 30 and 10 pictures."""
    images, labels = pictures(4 * 90, seed=5)
    kept = np.concatenate([np.flatnonzero(labels == label)[:count] for label, count in enumerate((90, 30, 30, 10))])
    path = tmp_path_factory.mktemp("lopsided") / "lopsided.e18"
    return eighteen.pack({"train": (images[kept], labels[kept]), "val": pictures(8, seed=6)}, path, procs=1)


def test_class_weights_are_the_inverse_of_the_classes_shares(lopsided, tmp_path):
    weights = make_job(lopsided, tmp_path, "data.balance='weights'").class_weights
    assert weights is not None
    assert weights.tolist() == pytest.approx([160 / (4 * count) for count in (90, 30, 30, 10)])
    assert make_job(lopsided, tmp_path).class_weights is None


def test_balanced_sampling_draws_the_classes_evenly(lopsided, tmp_path):
    this = make_job(lopsided, tmp_path, "data.balance='sampling'")
    samples, _ = this.order.at(0, 160)
    assert np.bincount(lopsided.splits["train"].labels[samples]).tolist() == [40, 40, 40, 40]
    assert train(lopsided, tmp_path, "data.balance='sampling'").step == schedule(this.recipe, 160).num_steps


@pytest.mark.parametrize(
    ("facts", "chosen", "why"),
    [
        (Facts(60_000, 28, True, False, False), "tiny", "60,000 pictures of about 28 px, all of one size"),
        (Facts(50_000, 32, True, True, True), "tiny", "all of one size"),
        (Facts(3_000, 200, False, False, False), "small", "3,000 pictures of about 200 px, no GPU"),
        (Facts(3_000, 200, False, True, False), "small", "a GPU"),
        (Facts(1_281_167, 400, False, True, False), "fast", "1,281,167 pictures of about 400 px, a GPU"),
        (Facts(1_281_167, 400, False, False, False), "small", "no GPU"),
        (Facts(3_000, 200, False, True, True), "finetune", "there are weights to start from"),
    ],
)
def test_the_recipe_is_chosen_for_the_data_and_the_machine(facts, chosen, why):
    choice = auto.choose(facts)
    assert choice.recipe == chosen
    assert why in choice.why


def test_few_pictures_get_more_epochs():
    assert auto.enough_epochs(recipe(), 100_000) is None
    more = auto.enough_epochs(recipe(), NUM_TRAIN)
    assert more is not None
    assert more * NUM_TRAIN / 26 >= auto.MIN_STEPS


@pytest.mark.parametrize(("num_samples", "batch"), [(60_000, None), (4_100, None), (4_000, 256), (300, 32), (20, 16)])
def test_few_pictures_get_smaller_batches(num_samples, batch):
    large = recipes.load("tiny", side=32)
    assert large.phases[0].batch == 500
    assert auto.small_batch(large, num_samples) == batch
