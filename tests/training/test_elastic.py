"""Any number of ranks, changed at any step: together they always take the batches that one rank would have taken."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import recipe

from eighteen.base.order import Order
from eighteen.base.schedule import schedule
from eighteen.base.world import World
from eighteen.data.crops import train_boxes

WORLDS = st.lists(
    st.tuples(st.integers(1, 9), st.integers(0, 20)), min_size=1, max_size=6
)  # (ranks, steps until a stop)


@given(num_samples=st.integers(1, 300), batch=st.integers(1, 128), worlds=WORLDS, balanced=st.booleans())
@settings(max_examples=500, deadline=None, derandomize=True)
def test_global_batches_are_those_of_one_rank(num_samples, batch, worlds, balanced):
    """What each rank of each world takes, put together step by step, is the order itself: no loss and no repeat."""
    changes = (f"phases.0.batch={batch}", "phases.0.epochs=3", "optim.lr=[[0, 0.1], [3, 0.0]]")
    plan = schedule(recipe(*changes), num_samples)
    order = Order(18, num_samples, np.arange(num_samples) % 3 if balanced else None)
    taken, step = [], 0
    for size, num_steps in [*worlds, (1, plan.num_steps)]:  # the last goes on to the end
        for number in range(step, min(step + num_steps, plan.num_steps)):
            now = plan.at(number)
            for rank in range(size):
                mine = World(rank, size).slice(now.batch)
                samples, visits = order.at(now.first + mine.start, mine.stop - mine.start)
                taken += zip(samples.tolist(), visits.tolist(), strict=True)
            step = number + 1
    samples, visits = order.at(0, plan.samples_before(plan.num_steps))
    assert taken == list(zip(samples.tolist(), visits.tolist(), strict=True))
    if not balanced:
        whole = len(taken) // num_samples  # epochs that are over
        assert len(set(taken)) == len(taken)
        assert set(taken) >= {(sample, visit) for sample in range(num_samples) for visit in range(whole)}


@given(cut=st.integers(0, 40), seed=st.integers(0, 2**32))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_crops_do_not_depend_on_who_draws_them(cut, seed):
    samples, visits, sides = np.arange(40), np.arange(40) % 3, np.full(40, 100)
    drawn = {"seed": seed, "min_scale": 0.3, "min_ratio": 0.7, "max_ratio": 1.4}

    def boxes(some: slice) -> np.ndarray:
        return train_boxes(sides[some], sides[some], visits=visits[some], samples=samples[some], **drawn)

    parts = [boxes(slice(0, cut)), boxes(slice(cut, 40))]
    assert np.array_equal(np.concatenate(parts), boxes(slice(0, 40)))
