"""Which of many plans are worth a look: by price, by time, and the front between both. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from eighteen.advice.plan import Plan

EVEN = 0.01  # of the time, by which plans do not differ


def cheapest_first(made: Sequence[Plan]) -> list[Plan]:
    """Those with a price, by it."""
    return sorted((one for one in made if one.usd), key=lambda one: (_usd(one), one.seconds.expected))


def fastest_first(made: Sequence[Plan]) -> list[Plan]:
    return sorted(made, key=lambda one: (one.seconds.expected, _usd(one)))


def front(made: Sequence[Plan]) -> list[Plan]:
    """Those than which no other is both faster and cheaper, the fastest first. A hundredth faster is no faster."""
    fastest, kept = math.inf, list[Plan]()
    for one in cheapest_first(made):
        if one.seconds.expected < (1 - EVEN) * fastest:
            fastest = one.seconds.expected
            kept.append(one)
    return kept[::-1]


def within(made: Sequence[Plan], *, seconds: float | None = None, usd: float | None = None) -> list[Plan]:
    """Those that are expected to keep to a time and a price; what has no price keeps to every one."""
    fast = [one for one in made if seconds is None or one.seconds.expected <= seconds]
    return [one for one in fast if usd is None or one.usd is None or _usd(one) <= usd]


def _usd(one: Plan) -> float:
    return one.usd.expected if one.usd else math.inf
