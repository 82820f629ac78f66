from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eighteen.base import recipe as recipes
from eighteen.base.errors import RecipeError
from eighteen.base.recipe import Drops, Optim, parse, stretched
from eighteen.base.schedule import learning_rate, schedule, value_at


def recipe(*phases: tuple[float, int | tuple[int, int], int], curve: str = "linear", lr=None, optim_batch: int = 10):
    epochs = sum(phase[0] for phase in phases)
    return parse(
        {
            "name": "test",
            "model": {"name": "resnet18"},
            "optim": {"batch": optim_batch, "curve": curve, "lr": lr or [[0, 1.0], [epochs, 0.0]]},
            "phases": [{"epochs": e, "size": size, "batch": batch} for e, size, batch in phases],
            "eval": {"size": 32},
        }
    )


def test_phases_follow_each_other_with_their_sizes_and_batches():
    plan = schedule(recipe((2, 16, 10), (1, 32, 20)), num_samples=100)
    assert plan.num_steps == 20 + 5
    assert [(plan.at(n).phase, plan.at(n).size, plan.at(n).batch, plan.at(n).first) for n in (0, 19, 20, 24)] == [
        (0, 16, 10, 0),
        (0, 16, 10, 190),
        (1, 32, 20, 200),
        (1, 32, 20, 280),
    ]
    with pytest.raises(IndexError):
        plan.at(25)


@pytest.mark.parametrize(
    ("phases", "num_samples", "ends"),
    [
        ([(3, 16, 10)], 100, [1, 2, 3]),
        ([(3, 16, 7)], 100, [1, 2, 3]),  # batches straddle epochs
        ([(2.5, 16, 10)], 100, [1, 2, 3]),  # half an epoch is the third
        ([(4, 16, 64)], 30, [2, 4]),  # 120 samples in 2 steps, two epochs each
        ([(1, 16, 10), (1, 32, 30)], 100, [1, 2]),
    ],
)
def test_every_epoch_ends_once_and_the_last_step_ends_the_last(phases, num_samples, ends):
    plan = schedule(recipe(*phases), num_samples)
    steps = [plan.at(number) for number in range(plan.num_steps)]
    ending = [epoch for step in steps if (epoch := plan.ends_epoch(step))]
    assert ending == ends


def test_stream_of_samples_has_no_gap():
    plan = schedule(recipe((1.3, 16, 7), (2, 16, 9), (0.01, 16, 50)), num_samples=40)
    expected = 0
    for number in range(plan.num_steps):
        assert plan.at(number).first == plan.samples_before(number) == expected
        expected += plan.at(number).batch
    assert plan.samples_before(plan.num_steps) == expected


def test_learning_rate_scales_with_the_batch():
    small, large = (schedule(recipe((1, 16, batch)), 100).at(0).lr for batch in (10, 50))
    assert (small, large) == (1.0, 5.0)


@pytest.mark.parametrize(
    ("curve", "epoch", "lr"),
    [
        ("linear", 0, 0.0),
        ("linear", 1, 0.5),
        ("linear", 2, 1.0),
        ("linear", 6, 0.5),
        ("linear", 10, 0.0),
        ("linear", 11, 0.0),
        ("cosine", 4, 0.853553),
        ("cosine", 6, 0.5),
        ("step", 1.99, 0.0),
        ("step", 2, 1.0),
        ("step", 9.99, 1.0),
        ("step", 10, 0.0),
    ],
)
def test_learning_rate_goes_through_its_points(curve, epoch, lr):
    optim = Optim(batch=1, lr=[(0, 0.0), (2, 1.0), (10, 0.0)], curve=curve)
    assert learning_rate(optim, epoch) == pytest.approx(lr, abs=1e-6)


def test_learning_rate_drops_by_a_tenth_every_50_epochs():
    optim = Optim(batch=1, lr=Drops(start=0.1, factor=0.1, every=50))
    assert [learning_rate(optim, epoch) for epoch in (0, 49.9, 50, 100)] == pytest.approx([0.1, 0.1, 0.01, 0.001])


@pytest.mark.parametrize("number", [0, 1, 19, 20, 24, 25])
def test_pixels_that_are_left_are_those_of_the_steps_that_are_left(number):
    plan = schedule(recipe((2, 16, 10), (1, 32, 20)), num_samples=100)
    left = [plan.at(n) for n in range(number, plan.num_steps)]
    assert plan.pixels_from(number) == sum(step.batch * step.size**2 for step in left)


def test_a_ramp_of_sizes_spends_the_same_time_at_each_of_them():
    plan = schedule(recipe((2, 96, 10), (6, (128, 192), 10), (1, (64, 48), 10)), num_samples=100)
    sizes = [plan.at(number).size for number in range(plan.num_steps)]
    assert [(size, sizes.count(size)) for size in dict.fromkeys(sizes)] == [
        (96, 20),
        (128, 20),
        (160, 20),
        (192, 20),
        (64, 5),
        (48, 5),
    ]
    assert sizes == sorted(sizes[:80]) + sizes[80:]


def test_momentum_and_smoothing_go_through_their_points_with_the_rate():
    tree = recipe((10, 16, 10), lr=[[0, 0.0], [5, 1.0], [10, 0.0]]).model_dump(mode="json")
    tree["optim"] |= {"momentum": [[0, 0.95], [5, 0.85], [10, 0.95]], "label_smoothing": [[0, 0.2], [10, 0.0]]}
    plan = schedule(parse(tree), num_samples=100)
    for number, lr, momentum, smoothing in ((0, 0, 0.95, 0.2), (25, 0.5, 0.9, 0.15), (50, 1, 0.85, 0.1)):
        step = plan.at(number)
        assert (step.lr, step.momentum, step.label_smoothing) == pytest.approx((lr, momentum, smoothing))
    short = schedule(recipes.stretched(parse(tree), 5), num_samples=100)
    assert short.at(25).momentum == pytest.approx(0.85)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("phases.0.size=[100, 160]", "multiples of 8, not 100"),
        ("phases.0.size=[96, 96]", "two sizes that differ"),
        ("phases.0.max_scale=0.1", "a min_scale that is not above max_scale"),
        ("phases.0.strength=1.5", "less than or equal to 1"),
        ("optim.momentum=[[0, 0.9], [7, 0.8]]", "optim.momentum ends at epoch 7 but the phases end at 18"),
        ("optim.label_smoothing=[[0, 1.5], [18, 0]]", "label_smoothing needs values from 0 to 1"),
        ("eval.size=200", "a size that is a multiple of 32 for rect, not 200"),
    ],
)
def test_phases_that_cannot_be_are_refused(change, message):
    with pytest.raises(RecipeError, match=message):
        recipes.load("fast", changes=[change])


PLANS = st.lists(
    st.tuples(st.floats(0.2, 4), st.sampled_from([16, 32, 48]), st.sampled_from([7, 10, 30])), min_size=1, max_size=4
)
FACTORS = st.floats(0, 20)
PLACES = st.floats(0, 0.999)


def steps_of(plan):
    return [plan.at(number) for number in range(plan.num_steps)]


@given(PLANS, PLACES, FACTORS)
def test_a_revision_changes_nothing_before_it_and_nobody_misses_a_sample(phases, place, factor):
    plan = schedule(recipe(*phases), 100)
    number = int(place * plan.num_steps)
    revised = plan.revised(number, factor)
    assert steps_of(revised)[:number] == steps_of(plan)[:number]
    expected = 0
    for step in steps_of(revised):
        assert step.first == revised.samples_before(step.number) == expected
        expected = step.after
    numbers = [step.phase for step in steps_of(revised)]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(len(phases)))  # each phase has a step, before or after


@given(PLANS, PLACES, FACTORS, PLACES, FACTORS)
def test_rates_end_where_they_should_however_often_a_plan_is_revised(phases, place, factor, place2, factor2):
    plan = schedule(recipe(*phases), 100)
    once = plan.revised(int(place * plan.num_steps), factor)
    number = int(place * plan.num_steps)
    twice = once.revised(number + int(place2 * (once.num_steps - number)), factor2)
    for revised in (once, twice):
        planned = [revised.planned(number) for number in range(revised.num_steps + 1)]
        assert planned == sorted(planned)
        assert planned[0] == 0
        assert planned[-1] == plan.epochs
        last = revised.stretches[-1]
        assert revised.planned(revised.num_steps - 1) + last.planned_per_step == pytest.approx(plan.epochs)
        rates = [step.lr / step.batch for step in steps_of(revised)]
        assert all(a >= b - 1e-12 for a, b in pairwise(rates))
        assert learning_rate(revised.optim, revised.planned(revised.num_steps)) == 0.0


@given(PLANS, PLACES)
def test_a_revision_by_one_changes_the_number_of_steps_by_rounding_alone(phases, place):
    plan = schedule(recipe(*phases), 100)
    assert abs(plan.revised(int(place * plan.num_steps), 1.0).num_steps - plan.num_steps) <= 2 * len(phases)


@given(PLANS, st.floats(0.3, 10))
def test_a_revision_at_the_start_is_the_stretched_recipe(phases, factor):
    plan, by_hand = schedule(recipe(*phases), 100), stretched(recipe(*phases), sum(one[0] for one in phases) * factor)
    ours, theirs = steps_of(plan.revised(0, factor)), steps_of(schedule(by_hand, 100))
    counts, by_hands = (Counter(step.phase for step in steps) for steps in (ours, theirs))
    assert all(abs(counts[phase] - by_hands[phase]) <= 1 for phase in range(len(phases)))  # by halves
    if counts == by_hands:
        for one, other in zip(ours, theirs, strict=True):
            assert (one.phase, one.first) == (other.phase, other.first)
            assert one.lr == pytest.approx(other.lr, abs=1e-9)


def test_phases_that_are_left_keep_their_proportions():
    plan = schedule(recipe((2, 16, 10), (2, 32, 10), (4, 48, 10)), 100).revised(10, 3.0)
    assert [(row.size, count) for row, count in plan.steps_from(0)] == [(16, 10), (16, 30), (32, 60), (48, 120)]


def test_a_revision_in_the_last_phase_and_at_the_very_end():
    plan = schedule(recipe((1, 16, 10), (1, 32, 10)), 100)
    assert plan.revised(15, 2.0).num_steps == 25
    assert plan.revised(19, 0.0).num_steps == 20
    assert plan.revised(19, 5.0).num_steps == 24
    assert plan.revised(10, 0.5).num_steps == 15  # where a phase begins
    with pytest.raises(IndexError):
        plan.revised(5, 0.0).at(7)


@given(PLANS, PLACES, FACTORS, PLACES)
def test_a_revision_may_go_on_from_another_place_of_the_recipe(phases, place, factor, other):
    plan = schedule(recipe(*phases), 100)
    number, planned = int(place * plan.num_steps), other * plan.epochs
    revised = plan.revised(number, factor, planned)
    assert steps_of(revised)[:number] == steps_of(plan)[:number]
    after = steps_of(revised)[number:]
    assert revised.planned(number) == planned
    borders = [end for _, _, _, end in plan.spans]
    assert after[0].phase == next(phase for phase, end in enumerate(borders) if end > planned + 1e-9)
    assert {step.phase for step in after} == set(range(after[0].phase, len(phases)))
    assert revised.planned(revised.num_steps) == plan.epochs
    assert [step.first for step in after] == [revised.samples_before(step.number) for step in after]


def test_momentum_goes_with_the_rate():
    tree = recipe((4, 16, 10)).model_dump(mode="json", exclude_none=True)
    tree["optim"]["momentum"] = [[0, 0.96], [2, 0.9], [4, 0.96]]
    plan = schedule(parse(tree), 100).revised(10, 2.0)
    assert plan.num_steps == 10 + 60
    assert plan.at(30).momentum == pytest.approx(0.9)
    assert value_at(plan.optim.momentum, plan.planned(plan.num_steps), "linear") == pytest.approx(0.96)


def test_visits_are_those_of_the_plan_in_force():
    plan = schedule(recipe((2, 16, 10), (1, 32, 10)), 100)
    assert [plan.visits(phase) for phase in (0, 1)] == [2, 1]
    assert [plan.revised(10, 4.0).visits(phase) for phase in (0, 1)] == [5, 4]
