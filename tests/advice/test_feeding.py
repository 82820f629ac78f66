"""What passes of the loader amount to: tables of passes and rows."""

from __future__ import annotations

import pytest

from eighteen.advice.feeding import TASKS, Pass, Setting, Spread, rows, shares, thread_counts

STAGES = {"read_s": 1.0, "decode_s": 3.0}


def passes(*times, stages=STAGES, grown_bytes=None):
    """Of 100 pictures: (seconds of wall, of CPU) each."""
    return [Pass(100, wall_s, cpu_s, stages, grown_bytes) for wall_s, cpu_s in times]


@pytest.mark.parametrize(
    ("num_cpus", "counts"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 4, 8]), (12, [1, 2, 4, 8, 12])]
)
def test_thread_counts_double_up_to_all_processors(num_cpus, counts):
    assert thread_counts(num_cpus) == counts


def test_a_row_has_the_median_and_the_range_of_its_passes():
    setting = Setting(TASKS[0], "full", 1)
    (row,) = rows({setting: passes((2, 0.2), (1, 0.1), (4, 0.4))}, read_bytes={"full": 1000.0})
    assert row.cpu_ms == Spread(2.0, 1.0, 4.0)
    assert row.images_per_s == Spread(50.0, 25.0, 100.0)
    assert row.read_bytes == 1000.0
    assert row.over_bare is None
    assert row.grown_bytes is None


def test_ratios_are_taken_round_by_round():
    one, two = (Setting(TASKS[0], "full", threads) for threads in (1, 2))
    bare = Setting(TASKS[0], "full", 1, bare=True)
    measured = {one: passes((1, 1), (10, 11)), two: passes((0.5, 1), (5, 11)), bare: passes((1, 0.8), (1, 10))}
    alone, both, without = rows(measured, read_bytes={"full": 1.0})
    assert alone.speedup == Spread(1.0, 1.0, 1.0)
    assert both.speedup == Spread(2.0, 2.0, 2.0), "although the machine became 10 times slower between the rounds"
    assert alone.over_bare is not None
    assert (alone.over_bare.low, alone.over_bare.high) == (1.1, 1.25)
    assert both.over_bare is None, "two threads were not measured bare"
    assert (without.over_bare, without.read_bytes) == (None, 0.0)


def test_shares_add_up_to_one_and_an_evaluation_has_none():
    assert shares(passes((1, 1), (1, 1))) == {"read_s": 0.25, "decode_s": 0.75}
    assert shares(passes((1, 1), stages={})) == {}


def test_memory_is_that_of_the_hungriest_pass():
    setting = Setting(TASKS[0], "full", 1)
    measured = {setting: passes((1, 1), grown_bytes=5) + passes((1, 1), grown_bytes=9) + passes((1, 1))}
    assert rows(measured, read_bytes={"full": 1.0})[0].grown_bytes == 9
