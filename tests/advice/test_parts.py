"""What figures of parts amount to."""

from __future__ import annotations

import pytest

from eighteen.advice.feeding import Spread
from eighteen.advice.parts import Part, Parts, bus_bytes_per_s, part


def test_a_part_has_the_spread_of_its_times_and_a_rate():
    found = part("step", [0.5, 0.25, 1.0], 32, "pictures", size=64)
    assert found == Part("step", {"size": 64}, Spread(0.5, 0.25, 1.0), 32, "pictures", 3)
    assert found.rate == 64


def test_parts_are_found_by_what_they_are_of():
    some = [part("decode", [1.0], 8, "pictures", size=size, threads=threads) for size in (64, 96) for threads in (1, 2)]
    found = Parts(None, "", "", "", 0, "cpu", "float32", 2, some)  # pyright: ignore[reportArgumentType]
    assert found.find("decode", size=96, threads=2) is some[3]
    assert found.find("decode", size=96) is some[2]
    assert found.find("decode", size=32) is None
    assert found.find("step") is None


@pytest.mark.parametrize(("ranks", "factor"), [(2, 1.0), (4, 1.5), (8, 1.75)])
def test_bus_bandwidth_is_what_a_link_of_a_ring_carries(ranks, factor):
    assert bus_bytes_per_s(1000, ranks, 2.0) == pytest.approx(factor * 500)
