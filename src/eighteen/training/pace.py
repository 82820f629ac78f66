"""Keeps a run to its time: solves for the number of steps before the first, and again on the way with the speeds seen.
And to its cost: tells when there is just enough left to save.

In: a job and its state, then every step and evaluation. Out: revisions of the state's plan, and the facts of the
``calibrated`` and ``budget`` events. Without ``budget.seconds`` in the recipe no plan is revised, without
``budget.cost_usd`` no end is near; the clock is always kept.
"""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any

from eighteen.base.budget import MARKS, Costs, Revision, due, duration, least, solve
from eighteen.base.errors import UsageError
from eighteen.base.events import Told
from eighteen.base.schedule import Step
from eighteen.training import dist
from eighteen.training.calibration import EXIT_S, Calibration, calibrate, save_seconds, unchanged
from eighteen.training.evaluate import Evaluation
from eighteen.training.heartbeat import Heartbeat
from eighteen.training.job import Job
from eighteen.training.room import Room
from eighteen.training.state import State

NEAR = 0.02  # of the recipe, by which a plan may be ahead of its time or behind it
MIN_SEEN = 4  # steps that say more of the speed than what was measured before


class Pace:
    """``begin`` before the first step; then tell of each step and evaluation, and ``revise`` where ``is_due``."""

    def __init__(self, this: Job, state: State, room: Room) -> None:
        self._this, self._state, self._room, self._seconds = this, state, room, this.recipe.budget.seconds
        self._costs = Costs((), (), 0.0)
        self._ratio = 1.0  # seconds seen / calibrated, of steps
        self._eval_ratio: float | None = None  # of evaluations; until there is one, that of steps
        self._seen: list[tuple[int, float]] = []  # (phase, seconds) of the steps since the last revision
        self._next_mark, self._has_asked = 0, False
        self._mark_s: float | None = None  # the end of the step before, in this process
        self._step_s = self._eval_s = self._save_s = 0.0  # what the last one took

    def begin(self, pulse: Heartbeat) -> list[Told]:
        """Measure, and lay the plan from where the state stands. UsageError if the time is too short for anything."""
        self._keep_clock(now=True)
        state = self._state
        if state.step >= state.plan.num_steps or state.is_reached:
            return []
        pulse.doing("calibrate")
        if self._this.recipe.budget.cost_usd:
            with unchanged(state):
                self._save_s = save_seconds(self._this, state) + EXIT_S
        if self._seconds is None:
            return []
        found = calibrate(self._this, state, room=self._room)
        if found.is_cached and state.step == 0 and not self._is_enough(found.costs) and self._is_left:
            found = calibrate(self._this, state, room=self._room, afresh=True)  # that machine may have been busy
        self._costs = found.costs
        costs = {
            "step_s": list(found.costs.steps),
            "eval_s": list(found.costs.evals),
            "end_s": found.costs.more + found.costs.end,
        }
        told = {"seconds": found.seconds, "cached": found.is_cached, **costs}
        if state.step == 0:
            self._require_enough(found)
        planned = self.revise(state.step)
        self._keep_clock(now=True)
        return [("calibrated", told), ("budget", planned)]

    @property
    def is_due(self) -> bool:
        """Whether it is time to look at the plan again: also where steps are so much faster than they were measured
        that the recipe would end long before its time.
        """
        if self._seconds is None or self._next_mark == len(MARKS):
            return False
        plan, mark = self._state.plan, MARKS[self._next_mark]
        return self._state.clock.seconds >= mark * self._until() or plan.planned(self._state.step) >= mark * plan.epochs

    def asks(self) -> bool:
        """Whether this rank, the first, tells the others with the coming step that it is due."""
        world = self._this.world
        asks = world.size > 1 and world.is_first and not self._has_asked and self.is_due
        self._has_asked = self._has_asked or asks
        return asks

    def is_spent(self, now: Step) -> bool:
        """Whether this rank, the first, tells the others with the coming step that there is money for it and the next,
        at which they know, for an evaluation if one is due, and for a checkpoint, but not for more.
        """
        state, epoch = self._state, self._state.plan.ends_epoch(now)
        eval_s = self._eval_s if epoch and epoch % state.every == 0 else 0.0
        will_s = state.clock.seconds + 2 * self._step_s + eval_s + self._save_s
        return self._this.world.is_first and will_s >= self._this.recipe.budget.most_s

    def stepped(self, now: Step) -> None:
        """A step is done. Before the first of a process comes what no other waits for."""
        at = time.monotonic()
        if self._mark_s is not None:
            self._step_s = at - self._mark_s
            if self._seconds is not None:
                self._seen.append((now.phase, self._step_s))
        self._mark_s = at
        self._keep_clock()

    def evaluated(self, now: Step, found: Evaluation | None) -> None:
        """An epoch has ended, with its evaluation if there was one."""
        if found is None or self._mark_s is None:
            return
        at = time.monotonic()
        self._eval_s, self._mark_s = at - self._mark_s, at
        if self._seconds is not None:
            self._eval_ratio = self._eval_s / max(1e-9, self._costs.evals[now.phase])

    def revise(self, step: int) -> dict[str, Any]:
        """Revise the state's plan from this step on, on all ranks alike; returns the facts of a ``budget`` event."""
        assert self._seconds is not None
        revision, facts = None, {}
        if self._this.world.is_first:
            revision, facts = self._solved(step, self._seconds)
        revision, facts = dist.share(
            [revision and dataclasses.asdict(revision), facts], self._this.world, self._this.device
        )
        self._state.revise(Revision(**revision))
        while self.is_due:
            self._next_mark += 1
        self._has_asked = False
        return facts

    def _solved(self, step: int, budget_s: float) -> tuple[Revision, dict[str, Any]]:
        state, costs = self._state, self._seen_costs()
        spent = state.clock.seconds
        left_s, every = budget_s - spent, self._this.recipe.eval.every
        revision = solve(state.plan, step, left_s, costs, every=every, planned=self._elsewhere(step, costs))
        revision = dataclasses.replace(revision, spent_s=spent)
        plan = revision.of(state.plan)
        facts = {
            "step": step,
            "seconds": budget_s,
            "spent_s": spent,
            "factor": revision.factor,
            "every": revision.every,
            "num_steps": plan.num_steps,
            "epochs": plan.end / plan.num_samples,
            "speed_ratio": self._ratio,
            "expected_s": spent + duration(plan, step, costs, every=revision.every),
        }
        return revision, facts

    def _elsewhere(self, step: int, costs: Costs) -> float | None:
        """The epoch of the recipe that is due by the time passed, where the plan is elsewhere: it was solved from
        speeds that did not last, and rates, sizes and augmentation shall go by time.
        """
        state = self._state
        if not state.revisions:
            return None
        began = state.revisions[0].spent_s
        share = (state.clock.seconds - began) / max(1e-9, self._until() - began)
        planned = due(state.plan, share, costs)
        is_near = abs(planned - state.plan.planned(step)) <= NEAR * state.plan.epochs
        return None if is_near else planned

    def _seen_costs(self) -> Costs:
        """What was measured before the first step, corrected by what steps have taken since the last revision: those
        of this phase, or all where they are few.
        """
        own = [one for one in self._seen if one[0] == self._seen[-1][0]]
        seen = own if len(own) >= MIN_SEEN else self._seen
        if len(seen) >= MIN_SEEN:
            took = sum(seconds for _, seconds in seen)
            self._ratio, self._seen = took / max(1e-9, sum(self._costs.steps[phase] for phase, _ in seen)), []
        return self._now()

    def _now(self) -> Costs:
        return self._costs.scaled(self._ratio, self._ratio if self._eval_ratio is None else self._eval_ratio)

    def _until(self) -> float:
        """When training is to end, so that evaluation and save still fit."""
        assert self._seconds is not None
        return self._seconds - self._now().reserve

    def _needed(self, costs: Costs) -> float:
        """Seconds of the run, with one epoch and its evaluation; the first rank's."""
        needed = self._state.clock.seconds + least(self._state.plan, costs, every=self._this.recipe.eval.every)
        return dist.share(needed, self._this.world, self._this.device)

    @property
    def _is_left(self) -> bool:
        """Whether any time is, on the first rank."""
        assert self._seconds is not None
        return dist.share(self._state.clock.seconds < self._seconds, self._this.world, self._this.device)

    def _is_enough(self, costs: Costs) -> bool:
        assert self._seconds is not None
        return self._needed(costs) <= self._seconds

    def _require_enough(self, found: Calibration) -> None:
        """Measuring is no part of what a run needs: the next one knows."""
        assert self._seconds is not None
        if (needed := self._needed(found.costs)) <= self._seconds:
            return
        least, price = needed - (0.0 if found.is_cached else found.seconds), self._this.recipe.budget.price_usd_h
        got, need = f"{self._seconds:g} s", f"at least {math.ceil(least)} s for one epoch and its evaluation"
        hint = f"--time {math.ceil(1.1 * least)}s"
        if price:
            hint += f", which costs ${1.1 * least / 3600 * price:.2g}"
        if least <= self._seconds:
            got += f", and measuring took {found.seconds:.0f} s"
            hint = "the same command again, which need not measure"
        error = UsageError("train in the time given", got=got, need=need, hint=hint)
        if self._this.world.is_first:
            facts = {"step": 0, "seconds": 0.0, "exit_code": error.exit_code}
            self._this.run.event("end", reason=type(error).__name__, **facts)
        raise error

    def _keep_clock(self, *, now: bool = False) -> None:
        if self._this.world.is_first:
            self._state.clock.keep(self._this.run.clock, now=now)
