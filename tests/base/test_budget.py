"""Words of time and money, and how many steps fit into it."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eighteen.base.budget import (
    EVAL_SHARE,
    MOST_EPOCHS,
    Costs,
    Revision,
    ask,
    dollars,
    due,
    duration,
    goal,
    gone,
    in_force,
    is_reached,
    least,
    newly_reached,
    seconds,
    solve,
    usd,
)
from eighteen.base.errors import UsageError
from eighteen.base.recipe import Budget, parse
from eighteen.base.schedule import Schedule, schedule

PHASES = ((2, 16, 10), (1, 32, 20), (1, 48, 20))


def plan_of(*phases: tuple[float, int, int], num_samples: int = 1000) -> Schedule:
    epochs = sum(phase[0] for phase in phases)
    tree = {
        "name": "test",
        "model": {"name": "none"},
        "optim": {"batch": 10, "lr": [[0, 1.0], [epochs, 0.0]]},
        "phases": [{"epochs": e, "size": size, "batch": batch} for e, size, batch in phases],
        "eval": {"size": 32},
    }
    return schedule(parse(tree), num_samples)


def costs(steps: tuple[float, ...], evaluation: float = 0.0, end: float = 0.0) -> Costs:
    return Costs(steps, (evaluation,) * len(steps), end)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("18m", 1080),
        ("90s", 90),
        ("1h30m", 5400),
        ("2h", 7200),
        ("1.5h", 5400),
        ("1h 2m 3s", 3723),
        (45, 45),
        (0.5, 0.5),
    ],
)
def test_times_are_read(text, value):
    assert seconds(text) == value


@pytest.mark.parametrize(
    "text", ["", "  ", "18", "m", "18x", "-5m", "30m1h", "0s", "1e3s", 0, -3, float("inf"), float("nan")]
)
def test_what_is_no_time_is_refused(text):
    with pytest.raises(UsageError, match=r"UsageError: --time: got .*, need a time above 0 .*\n  Try: --time 18m"):
        seconds(text)


@pytest.mark.parametrize(("text", "value"), [("$2", 2), ("2.50", 2.5), ("3 USD", 3), ("2$", 2), (7, 7)])
def test_costs_are_read(text, value):
    assert dollars(text) == value


@pytest.mark.parametrize("text", ["", "two", "$", "-1", "0", "nan", "inf", "2 EUR"])
def test_what_is_no_cost_is_refused(text):
    with pytest.raises(UsageError, match=r"--cost: got .*, need dollars above 0"):
        dollars(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [("top1=0.93", {"top1": 0.93}), ("top5=99%", {"top5": 0.99}), ("top1=.9, top5=1", {"top1": 0.9, "top5": 1.0})],
)
def test_goals_are_read(text, found):
    assert goal(text) == found


@pytest.mark.parametrize("text", ["", "0.93", "top1", "top1=", "top1=93", "top3=0.5", "top1=0", "top1=nan", "loss=1"])
def test_what_is_no_goal_is_refused(text):
    with pytest.raises(UsageError, match=r"--until: got .*, need top1=SHARE or top5=SHARE"):
        goal(text)


def test_a_cost_becomes_a_time():
    asked = ask(Budget(), cost="$2", price_usd_h=3.6)
    assert asked == Budget(seconds=2000, price_usd_h=3.6)
    assert ask(Budget(price_usd_h=3.6), cost=1).seconds == 1000


def test_a_cost_beside_epochs_is_a_limit():
    asked = ask(Budget(), cost="$2", price_usd_h=3.6, epochs=90)
    assert asked == Budget(cost_usd=2, price_usd_h=3.6)
    assert asked.most_s == 2000
    assert Budget(price_usd_h=3.6).most_s == math.inf
    assert ask(asked, cost="$1") == Budget(seconds=1000, price_usd_h=3.6), "as many epochs as fit instead"


@pytest.mark.parametrize(("cost", "text"), [(2.5, "$2.50"), (0.0999999, "$0.10"), (0.0123, "$0.012"), (0, "$0.00")])
def test_dollars_are_written(cost, text):
    assert usd(cost) == text


def test_a_run_that_took_what_it_may_says_how_to_go_on():
    options = {"tried": "train 90 steps", "reached": "step 40"}
    limit = gone(Path("runs/x"), Budget(cost_usd=5, price_usd_h=3.6), 4990, **options)
    assert str(limit) == (
        "BudgetSpent: train 90 steps: got step 40 for $4.99, need more than the $5.00 that it may cost.\n"
        "  Try: eighteen train --resume runs/x --cost '$10.00'"
    )
    assert limit.exit_code == 6
    time = gone(Path("runs/x"), Budget(seconds=60), 61, **options)
    assert "got step 40 in 61 s, need more than the 60 s that it may take.\n  Try: --init runs/x" in str(time)
    assert "more than the $0.06 that" in str(gone(Path("x"), Budget(seconds=60, price_usd_h=3.6), 61, **options))


def test_what_is_asked_for_replaces_what_the_recipe_has():
    own = Budget(seconds=60, until={"top1": 0.5}, price_usd_h=1)
    assert ask(own) == own
    assert ask(own, time="2m", until="top5=0.9") == Budget(seconds=120, until={"top5": 0.9}, price_usd_h=1)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"cost": "$2"}, r"--cost \$2: got no --price-usd-h, need the price"),
        ({"cost": "$2", "time": "1m", "price_usd_h": 1}, "both --time and --cost"),
        ({"time": "1m", "epochs": 3}, "both --epochs and --time"),
        ({"price_usd_h": -1}, "--price-usd-h: got -1, need dollars an hour above 0"),
        ({"price_usd_h": float("nan")}, "--price-usd-h: got nan"),
    ],
)
def test_what_contradicts_itself_is_refused(asked, message):
    with pytest.raises(UsageError, match=message):
        ask(Budget(), **asked)


def test_a_recipe_with_a_time_refuses_epochs():
    with pytest.raises(UsageError, match=r"both --epochs and budget.seconds in the recipe"):
        ask(Budget(seconds=60), epochs=3)


def test_a_goal_is_reached_when_all_of_it_is():
    assert is_reached({"top1": 0.5}, top1=0.5, top5=None)
    assert not is_reached({"top1": 0.5, "top5": 0.9}, top1=0.6, top5=0.8)
    assert not is_reached({"top1": 0.5}, top1=None, top5=None)
    assert not is_reached({}, top1=1.0, top5=1.0)


def test_each_step_of_the_ladder_is_reached_once():
    assert newly_reached(0.0, 0.05) == []
    assert newly_reached(0.0, 0.35) == [0.1, 0.2, 0.3]
    assert newly_reached(0.35, 0.93) == [0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.91, 0.92, 0.93]
    assert newly_reached(0.93, 0.93) == newly_reached(0.95, 0.4) == []


def test_the_duration_adds_up_steps_evaluations_and_the_end():
    plan = plan_of(*PHASES)  # 200 + 50 + 50 steps, four epochs
    assert duration(plan, 0, Costs((1, 2, 3), (10, 20, 30), 5), every=1) == 200 + 100 + 150 + 10 + 10 + 20 + 30 + 5
    assert duration(plan, 0, Costs((1, 2, 3), (10, 20, 30), 5), every=2) == 200 + 100 + 150 + 10 + 30 + 5
    assert duration(plan, 225, Costs((1, 2, 3), (10, 20, 30), 5), every=1) == 50 + 150 + 20 + 30 + 5
    assert duration(plan, 299, Costs((1, 2, 3), (10, 20, 30), 5), every=1) == 3 + 30 + 5


positive = st.floats(1e-3, 10)


@given(
    st.tuples(positive, positive, positive),
    st.floats(0, 20),
    st.floats(0, 5),
    st.floats(0.01, 1e5),
    st.floats(0, 0.999),
    st.integers(1, 3),
)
def test_the_solution_fits_and_wastes_no_more_than_a_step_and_an_evaluation(steps, evaluation, end, left, place, every):
    plan, known = plan_of(*PHASES), costs(steps, evaluation, end)
    step = int(place * plan.num_steps)
    found = solve(plan, step, left, known, every=every)
    revised = plan.revised(step, found.factor)
    taken = duration(revised, step, known, every=found.every)
    fewest = duration(plan.revised(step, 0.0), step, known, every=found.every)
    assert taken <= max(left + steps[-1] / 2, fewest) + 1e-6
    if fewest <= left and revised.end < MOST_EPOCHS * revised.num_samples:
        whole_steps = sum(steps)  # each phase may get one step less
        assert taken >= left - whole_steps - evaluation * (1 + EVAL_SHARE) - EVAL_SHARE * left
    assert found.every % every == 0


def test_little_that_is_left_of_a_recipe_can_fill_much_time():
    plan, known = plan_of(*PHASES), costs((1.0, 1.0, 0.015625))
    step = int(0.9921875 * plan.num_steps)
    found = solve(plan, step, 13656.0, known, every=1)
    assert duration(plan.revised(step, found.factor), step, known, every=1) == pytest.approx(13656.0, abs=0.1)


@given(st.floats(0.01, 20), st.floats(10, 1e4))
def test_evaluations_before_the_last_take_their_share_at_most(evaluation, left):
    plan, known = plan_of(*PHASES), costs((0.1, 0.1, 0.1), evaluation)
    found = solve(plan, 0, left, known, every=1)
    revised = plan.revised(0, found.factor)
    train_and_last = duration(revised, 0, known, every=10**9)
    assert duration(revised, 0, known, every=found.every) - train_and_last <= EVAL_SHARE * left + 1e-6


def test_cheap_evaluations_are_as_often_as_the_recipe_says():
    assert solve(plan_of(*PHASES), 0, 100, costs((0.1, 0.1, 0.1), 0.5), every=1).every == 1


def test_without_time_there_is_one_step_of_each_phase_left():
    plan = plan_of(*PHASES)
    for left in (0.0, -5.0):
        revised = plan.revised(100, solve(plan, 100, left, costs((1, 1, 1)), every=1).factor)
        assert revised.num_steps == 103
        assert [revised.at(number).phase for number in (99, 100, 101, 102)] == [0, 0, 1, 2]


def test_the_least_is_one_epoch_with_its_evaluation():
    assert least(plan_of(*PHASES), costs((1, 1, 1), 7, 3), every=1) == pytest.approx(50 + 12.5 + 12.5 + 7 + 3, abs=1)


def test_steps_that_cost_nothing_have_an_end():
    assert solve(plan_of(*PHASES), 0, 1e9, costs((0, 0, 0)), every=1).factor < 1e6


def test_revisions_apply_one_after_the_other():
    plan = plan_of(*PHASES)
    revisions = [Revision(0, 0.5, 1), Revision(50, 2.0, 2)]
    assert in_force(plan, revisions) == plan.revised(0, 0.5).revised(50, 2.0)
    assert in_force(plan, []) is plan


def test_the_epoch_that_is_due_goes_by_what_steps_of_each_phase_take():
    plan = plan_of((2, 16, 10), (1, 32, 20), num_samples=100)
    known = Costs((1.0, 4.0), (0.0, 0.0), 0.0)  # 20 steps of 1 s, 5 of 4 s
    assert [due(plan, share, known) for share in (0, 0.25, 0.5, 0.75, 1, 1.5)] == pytest.approx([0, 1, 2, 2.5, 3, 3])
    assert due(plan.revised(3, 7.0), 0.25, known) == pytest.approx(1)


def test_what_was_measured_on_a_busy_machine_is_scaled_as_it_was_seen():
    measured = Costs((1.0, 2.0), (4.0, 8.0), 0.5, 30.0)
    assert measured.reserve == 8 + 30 + 0.5
    assert measured.scaled(0.5, 0.25) == Costs((0.5, 1.0), (1.0, 2.0), 0.5, 7.5)
