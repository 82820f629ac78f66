"""How long the machines of a launch may run: a person's words -> seconds, and back. ``agent`` keeps to them there."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

from eighteen.base import budget
from eighteen.base.errors import UsageError

GRACE_S = 120.0  # from a limit of the whole launch to the end of all: to save, and to bring the run home
AFTER_SUCCESS, AFTER_FAILURE = "stop:10m", "stop:60m"  # of machines that power off, where nobody says otherwise

Limits = Mapping[str, float | None]


def limits(
    *,
    max_hours: float | None = None,
    max_cost: str | None = None,
    price_usd_h: float | None = None,
    after_success: str | None = None,
    after_failure: str | None = None,
    power_off: bool = False,
) -> Limits:
    """most_s: from the beginning of the launch on; after_success_s, after_failure_s: from when nothing runs any more;
    None for one that there is not. Empty if there is none at all. UsageError for what cannot be.

    price_usd_h: of all machines together      after_success, after_failure: "stop:10m", or "keep"
    """
    if power_off:
        after_success, after_failure = after_success or AFTER_SUCCESS, after_failure or AFTER_FAILURE
    most = []
    if max_hours is not None:
        if not 0 < max_hours < math.inf:
            raise UsageError("--max-hours", got=f"{max_hours:g}", need="hours above 0", hint="--max-hours 2")
        most.append(3600 * max_hours)
    if max_cost is not None:
        if not price_usd_h or price_usd_h < 0:
            need, hint = "the price of all machines together", f"--max-cost '{max_cost}' --price-usd-h 3.5"
            raise UsageError(f"--max-cost {max_cost}", got="no --price-usd-h", need=need, hint=hint)
        most.append(3600 * budget.dollars(max_cost) / price_usd_h)
    found = {
        "most_s": min(most, default=None),
        "after_success_s": _seconds("--after-success", after_success),
        "after_failure_s": _seconds("--after-failure", after_failure),
    }
    return found if any(found.values()) else {}


def _seconds(flag: str, text: str | None) -> float | None:
    if text is None or text == "keep":
        return None
    word, _, time = text.partition(":")
    try:
        if word == "stop":
            return budget.seconds(time)
    except UsageError:
        pass
    raise UsageError(flag, got=repr(text), need="stop and a time, or keep", hint=f"{flag} stop:10m")


def described(limits: Limits, *, began: float, power_off: bool) -> str:
    """For a person; began: the launch, in seconds since the epoch; 0.0 if it has not."""
    ends = "the machines power off" if power_off else "what runs is ended"
    most, success, failure = (limits[f"{name}_s"] for name in ("most", "after_success", "after_failure"))
    parts = [f"{_span(most)} after it began" + (f", at {clock(began + most)}" if began else "")] if most else []
    parts += [f"{_span(success)} after success"] if success else []
    parts += [f"{_span(failure)} after a failure"] if failure else []
    return f"{ends} {', '.join(parts)}"


def strike(at: float, which: str) -> str:
    """When a limit strikes, for a person."""
    why = {"most": "the limit of all", "after_success": "after success", "after_failure": "after a failure"}
    return f"{clock(at)}, {why[which]}"


def clock(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))


def _span(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return "".join(f"{n}{unit}" for n, unit in ((hours, "h"), (minute, "m"), (second, "s")) if n) or "0s"
