"""Runs that end on time, at a score, or with less than was asked for."""

from __future__ import annotations

import dataclasses
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_runs import NUM_TRAIN, differing, happened, make_job, model, pictures, recipe, saved, train

import eighteen
from eighteen.base import clock, events, rundir
from eighteen.base import recipe as recipes
from eighteen.base.budget import Revision, in_force
from eighteen.base.errors import BudgetSpent, Stopped, UsageError
from eighteen.base.schedule import schedule
from eighteen.data.dataset import Dataset
from eighteen.training import calibration, checkpoint, pace, state
from eighteen.training import train as trainer
from eighteen.training.step import train_step

SLOW = (model("troubled"), "model.args.slow_s=0.02")  # sleeps, so that a busy machine matters less


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of speeds of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "eighteen" / "speeds.json"


@pytest.fixture(autouse=True, scope="module")
def loaded(data, tmp_path_factory):
    """All libraries are loaded, which takes seconds of a run's time."""
    train(data, tmp_path_factory.mktemp("loaded"))


def ended(run: Path):
    (end,) = happened(run, "end")
    return end


def test_a_run_ends_on_time_with_its_rates_at_their_end(data, tmp_path):
    began = time.monotonic()
    result = train(data, tmp_path, *SLOW, time=5)
    assert time.monotonic() - began == pytest.approx(5, rel=0.15)
    kept = checkpoint.newest(rundir.open(result.run)).state
    plan = in_force(schedule(recipe(*SLOW), NUM_TRAIN), [Revision(**one) for one in kept["revisions"]])
    assert result.step == plan.num_steps == kept["step"]
    assert len(kept["revisions"]) == len(happened(result.run, "budget")) >= 4
    for step in happened(result.run, "step")[-5:]:
        assert step["lr"] == plan.at(step["step"]).lr
    assert plan.at(plan.num_steps - 1).lr < 0.01
    assert ended(result.run)["reason"] == "done"
    assert ended(result.run)["clock_s"] == pytest.approx(5, rel=0.15)


@pytest.mark.parametrize("wrong", [20.0, 0.02])
def test_a_measurement_that_was_far_off_does_no_harm(data, tmp_path, cache, wrong):
    this = make_job(data, tmp_path, *SLOW, "budget.seconds=4")
    calibration.calibrate(this, state.start(this))
    kept = json.loads(cache.read_text())
    for found in kept.values():
        found.update({name: wrong * value for name, value in found.items() if name.startswith("Phase")})
    cache.write_text(json.dumps(kept))
    run = train(data, tmp_path, *SLOW, time=4).run
    assert ended(run)["clock_s"] == pytest.approx(4, rel=0.15)


def test_the_time_stands_in_the_run_s_recipe(data, tmp_path):
    run = train(data, tmp_path, *SLOW, time="3s", until="top1=0.01", price_usd_h=3.6).run
    budget = recipes.load(str(run / "recipe.toml")).budget
    assert budget.model_dump() == {"seconds": 3, "until": {"top1": 0.01}, "price_usd_h": 3.6, "cost_usd": None}


def test_a_run_ends_with_the_first_evaluation_that_is_good_enough(data, tmp_path):
    result = train(data, tmp_path, until="top1=0.01")
    end = ended(result.run)
    assert (end["reason"], end["exit_code"]) == ("until", 0)
    assert len(happened(result.run, "eval")) == 1
    assert checkpoint.newest(rundir.open(result.run)).state["is_reached"] is True
    assert train(data, tmp_path, until="top1=0.01").run != result.run  # it has come to its end
    with pytest.raises(UsageError, match="one that ended at step 4: until"):
        eighteen.resume(result.run)


def test_a_run_that_does_not_get_there_saves_and_says_so(data, tmp_path):
    with pytest.raises(BudgetSpent, match=r"BudgetSpent: train until top1 100.00%: got top1 .*, need that, before"):
        train(data, tmp_path, "eval.every=9", "optim.lr=[[0, 0.0], [6, 0.0]]", until="top1=1.0")
    (run,) = (tmp_path / "runs").iterdir()
    assert (ended(run)["reason"], ended(run)["exit_code"]) == ("BudgetSpent", 6)
    assert checkpoint.newest(rundir.open(run)).step == ended(run)["step"] == 24


def test_each_threshold_is_told_with_time_and_cost(data, tmp_path):
    run = train(data, tmp_path, price_usd_h=36.0).run
    reached, best = happened(run, "reached"), max(one["top1"] for one in happened(run, "eval"))
    assert [one["top1"] for one in reached] == [
        one for one in (*(n / 10 for n in range(1, 10)),) if one <= best
    ] or best > 0.9
    for one in reached:
        assert one["cost_usd"] == pytest.approx(one["seconds"] / 100)
    assert [one["top1"] for one in ended(run)["reached"]] == [one["top1"] for one in reached]
    assert "  reached " in (run / "log.txt").read_text()


def test_without_a_price_nothing_is_said_of_cost(data, tmp_path):
    run = train(data, tmp_path).run
    assert "cost_usd" not in ended(run)
    assert not happened(run, "budget")


def test_too_short_a_time_is_refused_with_the_least(data, tmp_path):
    with pytest.raises(UsageError, match=r"train in the time given: got 0.5 s, need at least \d+ s for one epoch"):
        train(data, tmp_path, *SLOW, "model.args.slow_s=0.2", time=0.5)
    (run,) = (tmp_path / "runs").iterdir()
    assert ended(run)["reason"] == "UsageError"


def test_the_least_that_is_said_is_enough_though_measuring_took_longer(data, tmp_path, cache, monkeypatch):
    """It is not measured again for a time that is over already."""
    asked, calibrate, slow = [], pace.calibrate, (*SLOW, "model.args.slow_s=0.3")

    def long(*given, **more):
        asked.append(more)
        found = calibrate(*given, **more)
        time.sleep(0.0 if found.is_cached else 4.0)
        return found if found.is_cached else dataclasses.replace(found, seconds=found.seconds + 4.0)

    monkeypatch.setattr(pace, "calibrate", long)
    with pytest.raises(UsageError, match=r"\n  Try: --time \d+s, which costs \$") as said:
        train(data, tmp_path, *slow, time=0.01, price_usd_h=36.0)
    least = re.search(r"--time (\d+)s", str(said.value))
    assert least
    enough = int(least[1]) + 3  # a busy machine may need more than it did just now
    with pytest.raises(UsageError, match=r"got 0\.01 s"):
        train(data, tmp_path, *slow, time=0.01)
    assert [bool(more.get("afresh")) for more in asked] == [False, False]
    cache.unlink()
    with pytest.raises(UsageError, match=r"and measuring took \d+ s, .*\n  Try: the same command again"):
        train(data, tmp_path, *slow, time=enough)
    run = train(data, tmp_path, *slow, time=enough).run
    assert happened(run, "calibrated")[0]["cached"]
    assert ended(run)["reason"] == "done"


def test_a_goal_needs_a_split_to_evaluate(tmp_path):
    alone = eighteen.pack({"train": pictures(64, seed=1)}, tmp_path / "alone.e18", val=0.0, procs=1)
    with pytest.raises(UsageError, match="--until: got a dataset with train, need a split val"):
        train(alone, tmp_path, until="top1=0.5")
    assert train(alone, tmp_path, *SLOW, time=2).step > 0


def test_expensive_evaluations_are_left_out(data, tmp_path):
    run = train(data, tmp_path, *SLOW, model("troubled"), "model.args.slow_s=0.001", time=4).run
    spent = sum(one["seconds"] for one in happened(run, "eval")[:-1])
    assert len(happened(run, "eval")) < len(happened(run, "epoch"))
    assert spent < 0.25 * 4


@pytest.mark.parametrize(
    "changes", [(), ("optim.ema=0.9",), *((f"optim.name='{name}'",) for name in ("adamw", "lars", "muon"))]
)
def test_measuring_changes_nothing(data, tmp_path, changes):
    this = make_job(data, tmp_path, model("normed"), *changes, "budget.seconds=60")
    measured, untouched = state.start(this), state.start(this)
    found = calibration.calibrate(this, measured)
    assert all(seconds > 0 for seconds in (*found.costs.steps, *found.costs.evals, found.costs.end))
    assert not differing(measured.model.state_dict(), untouched.model.state_dict())
    ours, theirs = (checkpoint.optimizer_tensors(one.model, one.optimizer) for one in (measured, untouched))
    assert not differing(ours, theirs)
    if measured.ema and untouched.ema:
        assert not differing(measured.ema.tensors, untouched.ema.tensors)
    assert measured.net.training


def test_a_run_that_was_measured_learns_what_another_does(data, tmp_path):
    """To the bit: the same revisions, laid by hand."""
    long = train(data, tmp_path, model("normed"), time=4)
    kept = checkpoint.newest(rundir.open(long.run)).state["revisions"]
    this = make_job(data, tmp_path, model("normed"))
    now = state.start(this)
    for one in kept:
        now.revise(Revision(**one))
    with trainer.train_loader(this, now) as loader:
        for step, batch in loader:
            train_step(this, now, batch, step, count_hits=False, asks=(False, False, False))
            now.step += 1
    assert not differing(saved(long.run), now.model.state_dict())


def test_speeds_are_kept_between_runs_and_a_broken_file_is_replaced(data, tmp_path, cache):
    this = make_job(data, tmp_path, "budget.seconds=60")
    first = calibration.calibrate(this, state.start(this))
    again = calibration.calibrate(this, state.start(this))
    assert (first.is_cached, again.is_cached) == (False, True)
    assert again.costs == first.costs
    for broken in ("", "[1]", "{", json.dumps(dict.fromkeys(json.loads(cache.read_text()), 5))):
        cache.write_text(broken)
        assert not calibration.calibrate(this, state.start(this)).is_cached
        assert calibration.calibrate(this, state.start(this)).is_cached
    for changed in ("phases.0.size=24", "data.keep='never'", "optim.clip=1.0"):
        other = make_job(data, tmp_path, "budget.seconds=60", changed)
        assert not calibration.calibrate(other, state.start(other)).is_cached


def test_a_cache_that_cannot_be_written_is_done_without(data, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    this = make_job(data, tmp_path, "budget.seconds=60")
    assert not calibration.calibrate(this, state.start(this)).is_cached


def test_a_run_that_was_stopped_goes_on_with_the_rest_of_its_time(data, tmp_path):
    def at_start(event):
        return eighteen.STOP if event["event"] == "start" else None

    with pytest.raises(Stopped):
        train(data, tmp_path, *SLOW, time=6, on_event=at_start)
    (run,) = (tmp_path / "runs").iterdir()
    spent = ended(run)["clock_s"]
    began = time.monotonic()
    result = train(data, tmp_path, *SLOW, time=6)
    assert result.run == run
    assert spent + time.monotonic() - began == pytest.approx(6, rel=0.15)
    kept = checkpoint.newest(rundir.open(run)).state["revisions"]
    assert [one["step"] for one in kept[:2]] == [0, happened(run, "resume")[0]["step"]]


def test_a_run_whose_time_was_up_before_is_not_gone_on_with(data, tmp_path):
    def at_start(event):
        return eighteen.STOP if event["event"] == "start" else None

    with pytest.raises(Stopped):
        train(data, tmp_path, *SLOW, time=30, on_event=at_start)
    (run,) = (tmp_path / "runs").iterdir()
    clock.Clock(before_s=100.0).keep(rundir.open(run).clock)
    before = (run / "events.jsonl").read_text(), checkpoint.committed(rundir.open(run))
    for again in (lambda: train(data, tmp_path, *SLOW, time=30), lambda: eighteen.resume(run)):
        with pytest.raises(BudgetSpent, match=r"resume .*: got step \d+ in 100 s, need more than the 30 s that it may"):
            again()
    assert ((run / "events.jsonl").read_text(), checkpoint.committed(rundir.open(run))) == before


def command(data: Dataset, folder: Path, *options: str, changes=SLOW) -> list[str]:
    (folder / "mine.toml").write_text(recipes.dump(recipe(*changes)))
    return [sys.executable, "-m", "eighteen", "train", str(data.path), "--recipe", str(folder / "mine.toml"), *options]


@pytest.mark.soak
@pytest.mark.parametrize("ranks", [(), ("--procs", "2")], ids=["alone", "ranks"])
def test_a_command_ends_on_time(data, tmp_path, ranks):
    began = time.monotonic()
    subprocess.run(command(data, tmp_path, "--time", "60s", *ranks), cwd=tmp_path, check=True)
    assert time.monotonic() - began == pytest.approx(60, rel=0.04)


@pytest.mark.soak
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_command_goes_on_and_the_sum_is_on_time(data, tmp_path, number):
    words, sum_s = command(data, tmp_path, "--time", "60s"), 0.0
    for patience_s in (20, 15, None):
        began = time.monotonic()
        process = subprocess.Popen(words, cwd=tmp_path)
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            assert process.wait() == (75 if number == signal.SIGTERM else -number)
        sum_s += time.monotonic() - began
    assert process.returncode == 0
    assert sum_s == pytest.approx(60, rel=0.05)
    (run,) = (tmp_path / "runs").iterdir()
    assert len(happened(run, "resume")) == 2
    told = [one for one in events.standing(events.read(run / "events.jsonl")) if one["event"] == "step"]
    assert [one["step"] for one in told] == list(range(told[-1]["num_steps"]))


def test_ranks_agree_on_their_plan(data, tmp_path):
    result = train(data, tmp_path, *SLOW, time=3600, until="top1=0.01", procs=2)
    kept = checkpoint.newest(rundir.open(result.run)).state["revisions"]
    plan = in_force(schedule(recipe(*SLOW), NUM_TRAIN), [Revision(**one) for one in kept])
    assert happened(result.run, "start")[0]["num_steps"] == plan.num_steps > 10_000
    assert ended(result.run)["reason"] == "until"


@pytest.mark.soak
def test_ranks_revise_their_plan_together(data, tmp_path):
    result = train(data, tmp_path, *SLOW, time=40, procs=2)
    kept = checkpoint.newest(rundir.open(result.run)).state["revisions"]
    assert result.step == in_force(schedule(recipe(*SLOW), NUM_TRAIN), [Revision(**one) for one in kept]).num_steps
    assert ended(result.run)["clock_s"] == pytest.approx(40, rel=0.04)
