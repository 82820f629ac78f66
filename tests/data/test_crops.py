"""Boxes and flips: within the picture, a function of seed, visit and sample alone, distributed as they should be."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from eighteen.data.crops import MAX_ATTEMPTS, SHIFT, Stream, eval_boxes, moved, train_boxes, train_flips

USUAL = {"min_scale": 0.25, "min_ratio": 3 / 4, "max_ratio": 4 / 3}


def boxes_of(widths, heights, *, seed=0, visit=0, samples=None, **changes):
    samples = np.arange(len(widths)) if samples is None else samples
    visits = np.full(len(samples), visit)
    return train_boxes(widths, heights, seed=seed, visits=visits, samples=samples, **{**USUAL, **changes})


@pytest.mark.parametrize("min_scale", [0.01, 0.25, 1.0])
def test_boxes_lie_within_the_picture(min_scale):
    rng = np.random.default_rng(0)
    widths, heights = rng.integers(1, 700, 5000), rng.integers(1, 700, 5000)
    left, top, width, height = boxes_of(widths, heights, min_scale=min_scale).T
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (width >= 1).all()
    assert (height >= 1).all()
    assert (left + width <= widths).all()
    assert (top + height <= heights).all()


def test_a_box_depends_on_seed_visit_and_sample_alone():
    widths, heights = np.full(100, 500), np.full(100, 375)
    boxes = boxes_of(widths, heights)
    some = np.array([70, 3, 41])
    assert np.array_equal(boxes[some], boxes_of(widths[some], heights[some], samples=some))
    assert not np.array_equal(boxes, boxes_of(widths, heights, visit=1))
    assert not np.array_equal(boxes, boxes_of(widths, heights, seed=1))


def test_area_is_uniform_and_ratio_log_uniform():
    widths = heights = np.full(20_000, 4000)
    _, _, width, height = boxes_of(widths, heights, min_ratio=1.0, max_ratio=1.0, min_scale=0.2).T
    shares = np.sort(width * height / 4000**2)
    assert np.abs(shares - np.linspace(0.2, 1, 20_000)).max() < 0.02
    # Wide pictures, in which every attempt fits.
    _, _, width, height = boxes_of(widths, heights, min_scale=0.1).T
    fits = width * height < 0.7 * 4000**2
    ratios = np.sort(np.log(width / height)[fits])
    assert np.abs(ratios - np.linspace(np.log(3 / 4), np.log(4 / 3), fits.sum())).max() < 0.02


def test_boxes_lie_anywhere():
    left, top, width, height = boxes_of(np.full(20_000, 1000), np.full(20_000, 1000)).T
    free = (width < 900) & (height < 900)
    for place in (left / (1000 - width + 1), top / (1000 - height + 1)):
        assert np.abs(np.sort(place[free]) - np.linspace(0, 1, free.sum())).max() < 0.03


@pytest.mark.parametrize(
    ("width", "height", "box"),
    [
        (1000, 10, (493, 0, 13, 10)),  # the largest central box that is 4:3
        (10, 1000, (0, 493, 10, 13)),
        (1, 1, (0, 0, 1, 1)),
    ],
)
def test_where_no_attempt_fits_the_box_is_central(width, height, box):
    boxes = boxes_of(np.array([width]), np.array([height]), min_scale=0.99)
    assert np.abs(boxes[0] - box).max() <= 1


def test_without_random_crops_the_box_is_the_central_square():
    boxes = boxes_of(np.array([500, 300]), np.array([400, 301]), min_scale=1.0)
    assert boxes.tolist() == [[50, 0, 400, 400], [0, 0.5, 300, 300]]


def test_half_of_the_samples_are_mirrored_others_each_visit():
    samples = np.arange(10_000)
    first, second = (train_flips(seed=0, visits=np.full(10_000, visit), samples=samples) for visit in (0, 1))
    assert abs(first.mean() - 0.5) < 0.02
    assert abs((first == second).mean() - 0.5) < 0.02


@pytest.mark.parametrize(
    ("width", "height", "crop", "ratio", "box"),
    [
        (400, 300, 1.0, 1.0, (50, 0, 300, 300)),
        (300, 400, 0.5, 1.0, (75, 125, 150, 150)),
        (400, 300, 1.0, 2.0, (0, 50, 400, 200)),
        (400, 300, 0.5, 0.5, (162.5, 75, 75, 150)),
    ],
)
def test_evaluation_takes_the_middle(width, height, crop, ratio, box):
    assert eval_boxes(np.array([width]), np.array([height]), crop=crop, ratio=ratio).tolist() == [list(box)]


def test_a_moved_box_goes_its_way_as_far_as_the_picture_does():
    widths, heights = np.array([500, 375, 100, 8]), np.array([375, 500, 100, 8])
    central = eval_boxes(widths, heights, crop=0.875)
    up, down = (moved(central, widths, heights, way) for way in ((-1, -1), (1, 1)))
    assert np.allclose(up[:3, :2], central[:3, :2] - SHIFT * central[:3, 2:])
    assert np.allclose(down[:3, :2], central[:3, :2] + SHIFT * central[:3, 2:])
    whole = eval_boxes(widths, heights)  # has room along the longer side only
    left, top, width, height = moved(whole, widths, heights, (1, 1)).T
    assert left.tolist() == [62.5 + SHIFT * 375, 0, 0, 0]
    assert top.tolist() == [0, 62.5 + SHIFT * 375, 0, 0]
    assert (left + width <= widths).all()
    assert (top + height <= heights).all()


def test_no_two_choices_share_their_numbers():
    names = list(Stream.__members__)
    assert len(names) == len(set(Stream))  # an IntEnum makes equal values aliases
    assert max(stream for stream in Stream if stream is not Stream.CROP) < Stream.CROP
    assert max(Stream) < Stream.CROP + 4 * MAX_ATTEMPTS


def test_alternating_flips_show_each_sample_both_ways_in_any_two_visits_and_half_of_them_mirrored_at_first():
    samples = np.arange(4000)
    visits = [train_flips(seed=3, visits=np.full(4000, visit), samples=samples, flip="alternate") for visit in range(4)]
    assert abs(visits[0].mean() - 0.5) < 0.03
    for before, after in pairwise(visits):
        assert (before != after).all()
    by_chance = train_flips(seed=3, visits=np.zeros(4000, int), samples=samples, flip=True)
    assert (by_chance == visits[0]).all()
    assert not train_flips(seed=3, visits=samples, samples=samples, flip=False).any()


def test_crops_have_no_larger_share_than_asked_for():
    _, _, width, height = boxes_of(np.full(500, 400), np.full(500, 300), min_scale=0.2, max_scale=0.4).T
    share = width * height / (400 * 300)
    assert share.min() > 0.19
    assert 0.38 < share.max() < 0.41
