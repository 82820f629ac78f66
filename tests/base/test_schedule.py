import pytest

from eighteen.base import recipe as recipes
from eighteen.base.errors import RecipeError
from eighteen.base.recipe import Drops, Optim, parse
from eighteen.base.schedule import learning_rate, schedule


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
