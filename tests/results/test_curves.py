import pytest

from eighteen.results.curves import MOST_POINTS, figures

ACCURACY, LOSS, SPEED, TIME, RATE, MEMORY = range(6)


def event(kind, **facts):
    return {"v": 1, "event": kind, "time_s": 1_790_000_000.0, **facts}


def step(number, **facts):
    return event("step", step=number, epoch=number / 100, **facts)


def curve(figure, name):
    """The last curve of this name: a smooth one lies over what it smooths."""
    return [trace for trace in figure["data"] if trace["name"] == name][-1]


def test_six_figures_over_epochs():
    waits = {"data": 0.25, "compute": 0.5, "communication": 0.15, "other": 0.1}
    facts = {"loss": 2.0, "top1": 0.5, "top5": 0.75, "images_per_s": 99.0, "waits": waits, "lr": 0.1}
    shown = figures(
        [
            event("phase", epoch=0.0, size=96, batch=64),
            step(100, memory_bytes=2**31, **facts),
            event("eval", step=100, epoch=1, split="val", loss=1.5, top1=0.625, top5=0.875),
        ]
    )
    values = {trace["name"]: trace["y"] for figure in shown for trace in figure["data"]}
    assert values == {
        "train top-1": [50.0],
        "val top-1": [62.5],
        "val top-5": [87.5],
        "train": [2.0],
        "val": [1.5],
        "images/s": [99.0],
        "data": [25.0],
        "compute": [50.0],
        "communication": [15.0],
        "other": [10.0],
        "learning rate": [0.1],
        "memory": [2.0],
    }
    assert all(trace["x"] == [1.0] for figure in shown for trace in figure["data"])


def test_a_long_run_has_no_more_points_than_can_be_seen_and_they_are_means():
    values = [float(number % 1000) for number in range(10_000)]
    found = curve(figures([step(number, images_per_s=value) for number, value in enumerate(values)])[SPEED], "images/s")
    every = -(-len(values) // MOST_POINTS)
    assert len(found["x"]) == len(found["y"]) == -(-len(values) // every) <= MOST_POINTS
    assert found["y"][3] == pytest.approx(sum(values[3 * every : 4 * every]) / every, rel=1e-4)
    assert found["y"][-1] == pytest.approx(sum(values[-(len(values) % every) :]) / (len(values) % every), rel=1e-4)


def test_a_smooth_curve_is_not_pulled_to_zero_and_follows():
    losses = [4.0] * 5 + [1.0] * 60
    smooth = curve(figures([step(number, loss=loss) for number, loss in enumerate(losses)])[LOSS], "train")["y"]
    assert smooth[:5] == [4.0] * 5
    assert smooth[5] == pytest.approx((0.2 * 1.0 + (1 - 0.8**5) * 0.8 * 4.0) / (1 - 0.8**6), rel=1e-4)
    assert smooth[-1] == pytest.approx(1.0, abs=0.01)


def test_an_evaluation_stands_where_its_step_does():
    """That after an epoch that was cut short is of epoch 2 by its event, when 1.5 are trained."""
    told = [step(100), step(149), event("eval", step=150, epoch=2, split="val", top1=0.5)]
    assert curve(figures(told)[ACCURACY], "val top-1")["x"] == [1.49]
    assert curve(figures(told[2:])[ACCURACY], "val top-1")["x"] == [2.0]


def test_a_change_of_size_or_batch_is_a_line_that_says_so():
    phases = [(0, 96, 64), (1, 128, 64), (2, 128, 1024), (3, 128, 1024)]
    told = [event("phase", epoch=epoch, size=size, batch=batch) for epoch, size, batch in phases]
    for figure in figures(told):
        labels = [(label["x"], label["text"]) for label in figure["layout"]["annotations"]]
        assert labels == [(0, "96 px"), (1, "128 px"), (2, "batch 1,024")]
        assert [line["x0"] for line in figure["layout"]["shapes"]] == [0, 1, 2]


def test_what_was_not_told_has_no_curve():
    assert [figure["data"] for figure in figures([])] == [[]] * 6
    told = [step(1, loss=None, waits=None), step(2, loss=1.0), event("start"), event("eval", step=2, epoch=1)]
    shown = figures(told)
    assert curve(shown[LOSS], "train")["y"] == [1.0]
    assert [bool(figure["data"]) for figure in shown] == [False, True, False, False, False, False]


def test_what_training_pictures_score_is_no_validation():
    told = [step(1), event("eval", step=1, epoch=1, split="train", top1=0.9)]
    assert figures(told)[ACCURACY]["data"] == []
