import numpy as np
import pytest

from eighteen.base.order import MOST_SORTED, Cursor, Order, _scattered, random_bits, uniform


def test_every_epoch_has_each_sample_once():
    samples, visits = Order(seed=1, num_samples=10).at(0, 30)
    for epoch in range(3):
        assert sorted(samples[10 * epoch : 10 * epoch + 10]) == list(range(10))
        assert set(visits[10 * epoch : 10 * epoch + 10]) == {epoch}


def test_epochs_and_seeds_have_different_orders():
    def first(seed: int, epoch: int) -> list[int]:
        return Order(seed, 50).at(50 * epoch, 50)[0].tolist()

    assert len({tuple(first(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


@pytest.mark.parametrize("labels", [None, np.repeat([0, 1, 2], [50, 5, 500])])
def test_any_window_of_the_stream_is_the_same_as_the_whole(labels):
    order = Order(seed=3, num_samples=555, labels=labels)
    whole = order.at(0, 2000)
    for first, count in [(0, 1), (554, 3), (700, 1300), (1999, 1)]:
        window = order.at(first, count)
        for part, all_ in zip(window, whole, strict=True):
            assert part.tolist() == all_[first : first + count].tolist()


def test_order_is_what_it_was_when_it_was_defined():
    """A promise to every run that will be resumed: these numbers may never change."""
    assert Order(1, 10).at(0, 12)[0].tolist() == [4, 8, 1, 2, 0, 7, 3, 9, 6, 5, 5, 1]
    assert random_bits(18, 0, 7, 3).tolist() == [7317486196410804320]


def test_order_of_more_samples_than_are_sorted_is_what_it_was_when_it_was_defined():
    assert Order(1, 10**9).at(10**9 - 2, 4)[0].tolist() == [728770297, 769770884, 244733706, 619808576]


@pytest.mark.parametrize("length", [2, 3, 17, 1000, 1024, 1025])
def test_places_that_are_computed_are_a_permutation(length):
    assert sorted(_scattered(5, 2, length, np.arange(length))) == list(range(length))


def test_order_of_more_samples_than_are_sorted_has_each_once_in_no_visible_order():
    num_samples = MOST_SORTED + 1
    samples, visits = Order(3, num_samples).at(0, num_samples)
    assert (np.bincount(samples, minlength=num_samples) == 1).all()
    assert not visits.any()
    shares = samples / num_samples
    assert abs(np.corrcoef(np.arange(num_samples), samples)[0, 1]) < 0.003
    assert abs(np.corrcoef(samples[1:], samples[:-1])[0, 1]) < 0.003
    assert np.abs(np.histogram(shares[: num_samples // 8], bins=64)[0] / (num_samples / 512) - 1).max() < 0.05
    assert (samples[:1000] != Order(3, num_samples).at(num_samples, 1000)[0]).mean() > 0.99


STARTS = np.array([0, 10, 30, 60, 61, 100])


def test_first_epoch_by_shards_goes_through_two_shards_at_a_time_and_the_others_are_as_always():
    order, shuffled = Order(3, 100, starts=STARTS), Order(3, 100)
    samples, visits = order.at(0, 300)
    assert samples[100:].tolist() == shuffled.at(100, 200)[0].tolist()
    assert visits.tolist() == shuffled.at(0, 300)[1].tolist()
    windows = [order.shards[first : first + 2] for first in range(0, 5, 2)]
    first = 0
    for window in windows:
        members = {sample for shard in window for sample in range(STARTS[shard], STARTS[shard + 1])}
        assert {*samples[first : first + len(members)].tolist()} == members
        assert len(members) < 2 or samples[first : first + len(members)].tolist() != sorted(members)
        first += len(members)
    assert first == 100
    for place, count in [(0, 1), (39, 3), (95, 10), (60, 200)]:
        assert order.at(place, count)[0].tolist() == samples[place : place + count].tolist()
    assert order.shards.tolist() != Order(4, 100, starts=STARTS).shards.tolist()


def test_order_by_shards_is_what_it_was_when_it_was_defined():
    order = Order(3, 100, starts=STARTS)
    assert order.shards.tolist() == [1, 4, 0, 2, 3]
    assert order.at(0, 6)[0].tolist() == [21, 66, 89, 87, 63, 93]


def test_balanced_order_shows_each_class_equally_and_repeats_no_sample_within_a_visit():
    labels = np.repeat([0, 1, 2], [50, 5, 500])
    samples, visits = Order(seed=0, num_samples=555, labels=labels).at(0, 600)
    assert np.bincount(labels[samples]).tolist() == [200, 200, 200]
    assert len(set(zip(samples.tolist(), visits.tolist(), strict=True))) == 600
    assert np.bincount(samples)[50:55].tolist() == [40] * 5


def test_uniform_is_uniform_and_streams_are_independent():
    samples = np.arange(20_000)
    first, second = uniform(1, 0, samples, 0), uniform(1, 0, samples, 1)
    assert 0 <= first.min() < first.max() < 1
    assert abs(first.mean() - 0.5) < 0.01
    assert abs(first.std() - 12**-0.5) < 0.01
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 0.03


@pytest.mark.parametrize("labels", [None, np.repeat([0, 1, 2], [50, 5, 500])])
def test_no_random_choice_about_a_sample_follows_from_its_place(labels):
    """It once did: whatever came in the first half of an epoch was mirrored, and nothing else."""
    places = np.arange(5550)
    samples, visits = Order(seed=3, num_samples=555, labels=labels).at(0, len(places))
    for stream in [*range(20), *range(1000, 1008)]:
        choices = uniform(3, visits, samples, stream)
        assert abs(np.corrcoef(places % 555, choices)[0, 1]) < 0.06, stream


def test_cursor_says_where_a_stream_position_lies():
    assert Order(seed=5, num_samples=10).cursor(23) == Cursor(epoch=2, position=3, seed=5)
