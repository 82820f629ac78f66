"""What a run costs and uses, told as it goes on; and runs that end at their cost."""

from __future__ import annotations

from functools import partial

import pytest
from small_runs import NUM_STEPS, differing, happened, model, recipe, saved, train

import eighteen
from eighteen.base import events, rundir
from eighteen.base import recipe as recipes
from eighteen.base.clock import Clock
from eighteen.base.energy import Energy
from eighteen.base.errors import BudgetSpent, Stopped, UsageError
from eighteen.training import checkpoint, pace
from eighteen.training import train as trainer

PRICED = {"epochs": 6, "cost": "$2", "price_usd_h": 3.6}  # 2,000 s


@pytest.fixture
def clock(monkeypatch):
    """The seconds that every clock shows, as a list of one; a checkpoint takes none."""
    shown = [0.0]
    monkeypatch.setattr(Clock, "seconds", property(lambda self: shown[0]))
    monkeypatch.setattr(pace, "save_seconds", lambda this, state: 0.0)
    return shown


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The counter of a processor, in microjoules, that runs in this process are measured by."""
    folder = tmp_path / "machine/sys/class/powercap/intel-rapl:0"
    folder.mkdir(parents=True)
    for name, text in (("name", "package-0"), ("max_energy_range_uj", "262000000"), ("energy_uj", "5000000")):
        (folder / name).write_text(text)
    monkeypatch.setattr(trainer, "Energy", partial(Energy, root=tmp_path / "machine"))
    return folder / "energy_uj"


def only(folder):
    (run,) = (folder / "runs").iterdir()
    return run


def set_at(step, clock, seconds):
    """An ``on_event`` that puts the clock forward when this step is told of."""

    def on_event(event):
        if event["event"] == "step" and event["step"] == step:
            clock[0] = seconds

    return on_event


def test_a_run_at_its_cost_saves_ends_with_6_and_says_how_to_go_on(data, tmp_path, clock):
    with pytest.raises(BudgetSpent) as spent:
        train(data, tmp_path, on_event=set_at(6, clock, 1999.9), **PRICED)
    run = only(tmp_path)
    top1 = happened(run, "eval")[-1]["top1"]
    assert str(spent.value) == (
        f"BudgetSpent: train {NUM_STEPS} steps: got step 10 with top1 {top1:.2%} for $2.00, "
        f"need more than the $2.00 that it may cost.\n  Try: eighteen train --resume {run} --cost '$4.00'"
    )
    (end,) = happened(run, "end")
    assert (end["reason"], end["exit_code"], end["step"]) == (
        "cost",
        6,
        10,
    )  # told after 7, asked with 8, known after 9
    assert end["cost_usd"] == pytest.approx(1.9999)
    assert checkpoint.newest(rundir.open(run)).step == 10


def test_with_more_money_it_ends_as_one_that_never_stopped(data, tmp_path, clock):
    undisturbed = train(data, tmp_path / "whole", model("normed"))
    with pytest.raises(BudgetSpent):
        train(data, tmp_path, model("normed"), on_event=set_at(6, clock, 1999.9), **PRICED)
    run = only(tmp_path)
    result = eighteen.resume(run, cost="$3")
    assert (result.run, result.step) == (run, NUM_STEPS)
    assert not differing(saved(undisturbed.run), saved(run))
    assert recipes.load(str(run / "recipe.toml")).budget.cost_usd == 3
    assert result.cost_usd == pytest.approx(1.9999)
    with pytest.raises(UsageError, match=r"one that ended at step 24: done"):
        eighteen.resume(run, cost="$4")


def test_without_more_money_nothing_is_trained_or_written(data, tmp_path, clock):
    with pytest.raises(BudgetSpent):
        train(data, tmp_path, on_event=set_at(6, clock, 1999.9), **PRICED)
    run = only(tmp_path)
    before = (run / "events.jsonl").read_text(), checkpoint.committed(rundir.open(run))
    for again in (lambda: train(data, tmp_path, **PRICED), lambda: eighteen.resume(run)):
        with pytest.raises(BudgetSpent, match=r"resume .*: got step 10 for \$2.00, need more than the \$2.00"):
            again()
    assert (only(tmp_path) / "events.jsonl", checkpoint.committed(rundir.open(run))) == (
        run / "events.jsonl",
        before[1],
    )
    assert (run / "events.jsonl").read_text() == before[0]


def test_a_run_that_was_killed_past_its_cost_is_not_gone_on_with(data, tmp_path):
    with pytest.raises(Stopped):
        train(data, tmp_path, on_event=lambda event: eighteen.STOP, **PRICED)
    run = only(tmp_path)
    Clock(before_s=2000.0).keep(rundir.open(run).clock)
    with pytest.raises(BudgetSpent, match=r"got step \d+ for \$2.00"):
        train(data, tmp_path, **PRICED)
    assert eighteen.resume(run, cost="$1000").step == NUM_STEPS


def test_an_evaluation_that_would_cost_too_much_is_not_begun(data, tmp_path, clock, monkeypatch):
    """The epoch's first evaluation took 100 s; with 50 s left at the end of the second it does not fit."""
    validate = trainer.validate

    def slow(*args):
        found = validate(*args)
        monkeypatch.setattr(pace.time, "monotonic", lambda now=pace.time.monotonic: now() + 100)
        return found

    monkeypatch.setattr(trainer, "validate", slow)
    clock[0] = 1950.0
    with pytest.raises(BudgetSpent):
        train(data, tmp_path, **PRICED)
    run = only(tmp_path)
    assert [one["epoch"] for one in happened(run, "eval")] == [1]
    assert [one["top1"] is None for one in happened(run, "epoch")] == [False, True]
    assert happened(run, "end")[0]["step"] == 8


def test_money_for_all_of_it_changes_nothing(data, tmp_path):
    free, paid = train(data, tmp_path / "free", model("normed")), train(data, tmp_path, model("normed"), **PRICED)
    assert not differing(saved(free.run), saved(paid.run))
    assert 0 < (paid.cost_usd or 0) < 2
    assert free.cost_usd is None


def test_ranks_end_together_at_their_cost(data, tmp_path):
    """Ten thousand epochs take minutes, and a second costs a dollar."""
    slow = (model("troubled"), "model.args.slow_s=0.02")
    with pytest.raises(BudgetSpent, match=r"train 40,000 steps: got step 2 for \$.*, need more than the \$1.00 that"):
        train(data, tmp_path, *slow, epochs=10_000, cost="$1", price_usd_h=3600, procs=2)
    run = only(tmp_path)
    (first,) = happened(run, "end")
    with pytest.raises(BudgetSpent, match="train 40,000 steps: got step"):
        eighteen.resume(run, cost=first["cost_usd"] + 10, procs=2)
    assert happened(run, "resume")[0]["step"] == first["step"] == 2
    second = happened(run, "end")[-1]
    assert [(end["reason"], end["exit_code"]) for end in (first, second)] == [("cost", 6)] * 2
    assert checkpoint.newest(rundir.open(run)).step == second["step"] > first["step"]
    assert not happened(run, "restart")


def test_a_time_that_was_paid_for_can_be_made_longer(data, tmp_path):
    with pytest.raises(Stopped):
        train(data, tmp_path, cost=2, price_usd_h=3600, on_event=lambda event: eighteen.STOP)
    run = only(tmp_path)
    eighteen.resume(run, cost=4)
    budget = recipes.load(str(run / "recipe.toml")).budget
    assert (budget.seconds, budget.cost_usd) == (4, None)


def test_a_run_without_a_price_gets_no_limit(data, tmp_path):
    with pytest.raises(Stopped):
        train(data, tmp_path, on_event=lambda event: eighteen.STOP)
    with pytest.raises(
        UsageError, match=r"--cost \$8: got no --price-usd-h, need the price of the machines when a run"
    ):
        eighteen.resume(only(tmp_path), cost="$8")


def test_every_step_epoch_threshold_and_end_has_its_energy_and_cost(data, tmp_path, package):
    def on_event(event):  # a joule an event
        package.write_text(str((int(package.read_text()) + 1_000_000) % 262_000_000))

    result = train(data, tmp_path, price_usd_h=3.6, on_event=on_event)
    (start,) = happened(result.run, "start")
    assert start["energy"] == {"cpu": "by RAPL"}
    told = [one for kind in ("step", "eval", "epoch", "end") for one in happened(result.run, kind)]
    for one in told:
        others = sum(1 for other in events.read(result.run / "events.jsonl") if other["time_s"] < one["time_s"])
        assert one["energy_j"] == pytest.approx(others, abs=3)
        assert one["cost_usd"] > 0
    end, reached = happened(result.run, "end")[0], happened(result.run, "reached")
    assert [(one["energy_j"], one["cost_usd"]) for one in end["reached"]] == [
        (one["energy_j"], one["cost_usd"]) for one in reached
    ]
    assert reached
    assert (result.energy_j, result.cost_usd) == pytest.approx((end["energy_j"], end["cost_usd"]), abs=2)
    assert " Wh" in (result.run / "log.txt").read_text().splitlines()[-1]


def test_energy_goes_on_where_a_run_stopped_and_is_in_its_checkpoints(data, tmp_path, package):
    def on_event(event):
        package.write_text(str((int(package.read_text()) + 1_000_000) % 262_000_000))
        return eighteen.STOP if event["event"] == "epoch" and event["epoch"] == 2 else None

    with pytest.raises(Stopped):
        train(data, tmp_path, on_event=on_event)
    run = only(tmp_path)
    before = happened(run, "end")[0]["energy_j"]
    (run / "clock.json").unlink()  # as on another machine
    kept = checkpoint.newest(rundir.open(run)).state["energy_j"]
    assert 0 < kept <= before
    eighteen.resume(run)
    assert happened(run, "end")[-1]["energy_j"] == pytest.approx(kept, abs=1e-6)  # nobody counts on


def test_where_energy_is_not_measured_it_is_null_and_the_start_says_why(data, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "Energy", partial(Energy, root=tmp_path))
    run = train(data, tmp_path).run
    assert happened(run, "start")[0]["energy"] == {"cpu": "not measured: no RAPL in /sys/class/powercap"}
    assert {one["energy_j"] for one in happened(run, "step")} == {None}
    assert "energy cpu not measured: no RAPL" in (run / "log.txt").read_text()


def test_a_limit_stands_in_the_recipe(data, tmp_path):
    run = train(data, tmp_path, **PRICED).run
    assert recipes.load(str(run / "recipe.toml")).budget == recipes.Budget(cost_usd=2, price_usd_h=3.6)
    assert recipe("budget.price_usd_h=1", "budget.cost_usd=5").budget.most_s == 18000
