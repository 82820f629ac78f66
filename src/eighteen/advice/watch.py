"""Looks on while a run trains: events go in one by one, and now and then a finding comes out.

The rules are the doctor's; what needs an experiment, or the pictures, is left to ``eighteen doctor``.
"""

from __future__ import annotations

from eighteen.advice import evidence
from eighteen.advice.doctor import diagnose
from eighteen.advice.evidence import Evidence
from eighteen.advice.finding import Finding
from eighteen.base.events import Event
from eighteen.base.recipe import Recipe

LOOK_S = 5.0  # from one look to the next
LEAST_S = 10.0  # of training in one phase, that a window spans
TWICE = 2  # looks in a row that must agree: what lasts for less is not worth a word


class Watch:
    """Called with each event; returns a finding that costs more than 5 % of the time, once for each code."""

    def __init__(self, recipe: Recipe) -> None:
        self._keys = evidence.keys(recipe)
        self._events: list[Event] = []
        self._told, self._looked_s = set[str](), 0.0
        self._seen: tuple[str, int] = ("", 0)  # the dearest finding of the last look, and of how many looks in a row

    def __call__(self, event: Event) -> Finding | None:
        if event["event"] == "start":
            self._events.clear()
        self._events.append(event)
        if event["event"] != "step" or event["time_s"] - self._looked_s < LOOK_S:
            return None
        self._looked_s = event["time_s"]
        self._forget(event["time_s"] - evidence.MOST_S)
        return self._worth_a_word(self._found())

    def _forget(self, before_s: float) -> None:
        """Steps that no window reaches back to."""
        self._events = [one for one in self._events if one["event"] != "step" or one["time_s"] >= before_s]

    def _found(self) -> list[Finding]:
        now = evidence.window(self._events, most_s=evidence.MOST_S)
        if now is None or now.seconds < LEAST_S or self._events[0]["event"] != "start":
            return []
        setup, pauses = evidence.setup(self._events[0]), evidence.pauses(self._events)
        found = diagnose(Evidence(setup, now, pauses, recipe=self._keys))
        return [one for one in found if one.gain and one.code not in self._told]

    def _worth_a_word(self, found: list[Finding]) -> Finding | None:
        code, count = self._seen
        first = found[0] if found else None
        self._seen = (first.code, count + 1 if first.code == code else 1) if first else ("", 0)
        if first is None or self._seen[1] < TWICE:
            return None
        self._told.add(first.code)
        return first
