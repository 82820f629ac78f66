"""What a run may take: a person's words -> seconds, and what steps cost -> how many of them fit. Pure.

A plan is a ``Schedule``; a ``Revision`` passes what is left of it faster or slower. The plan in force is a function of
recipe, number of samples and revisions, so that a checkpoint that keeps these says all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eighteen.base.errors import BudgetSpent, UsageError
from eighteen.base.recipe import Budget
from eighteen.base.schedule import Schedule

# shares at which the plan is looked at again: of the time for training, or of the recipe, whichever comes first
MARKS = (0.1, 0.25, 0.5, 0.75, 0.88, 0.95, 0.98, 1.0)
EVAL_SHARE = 0.1  # of what is left, that evaluations before the last may take
LADDER = (*(ten / 10 for ten in range(1, 10)), *(one / 100 for one in range(91, 100)))  # shares of top-1 that are told
SCORES = ("top1", "top5")
MOST_EPOCHS = 1e6

_TIME = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


@dataclass(frozen=True)
class Costs:
    """Seconds. steps, evals: of one of each of ``Recipe.flat_phases``; end: of what follows the last evaluation; more:
    what that one takes beyond the others, with test-time augmentation
    """

    steps: tuple[float, ...]
    evals: tuple[float, ...]
    end: float
    more: float = 0.0

    @property
    def reserve(self) -> float:
        """From the last step to the end."""
        return self.evals[-1] + self.more + self.end

    def scaled(self, steps: float, evals: float) -> Costs:
        return replace(
            self,
            steps=tuple(steps * each for each in self.steps),
            evals=tuple(evals * each for each in self.evals),
            more=evals * self.more,
        )


@dataclass(frozen=True)
class Revision:
    """From ``step`` on ``factor`` times as many steps; evaluations every ``every`` epochs.

    planned: the epoch of the recipe that the plan goes on from, None for the one that is due
    spent_s: of the budget, before that step
    """

    step: int
    factor: float
    every: int
    planned: float | None = None
    spent_s: float = 0.0

    def of(self, plan: Schedule) -> Schedule:
        return plan.revised(self.step, self.factor, self.planned)


def ask(
    budget: Budget,
    *,
    time: str | float | None = None,
    until: str | None = None,
    cost: str | float | None = None,
    price_usd_h: float | None = None,
    epochs: float | None = None,
) -> Budget:
    """The recipe's budget with what the command line asks for; UsageError for what cannot be.

    time: "18m", "90s", "1h30m", or seconds      until: "top1=0.93"
    cost: "$2", or dollars: a limit to a number of epochs, or else the time that they pay for
    """
    changes: dict[str, Any] = {}
    if price_usd_h is not None:
        if not 0 < price_usd_h < math.inf:
            need, hint = "dollars an hour above 0", "--price-usd-h 3.5"
            raise UsageError("--price-usd-h", got=f"{price_usd_h:g}", need=need, hint=hint)
        changes["price_usd_h"] = price_usd_h
    if time is not None and cost is not None:
        raise UsageError("train", got="both --time and --cost", need="one of them", hint="leave out --cost")
    if time is not None:
        changes["seconds"] = seconds(time)
    if cost is not None:
        changes |= paid(budget.model_copy(update=changes), cost, is_limit=epochs is not None)
    if until is not None:
        changes["until"] = goal(until)
    asked = budget.model_copy(update=changes)
    if epochs is not None and asked.seconds is not None:
        flag = "--time" if time is not None else "budget.seconds in the recipe"
        need, hint = "one of them: the time decides how many epochs there are", "leave out --epochs"
        raise UsageError("train", got=f"both --epochs and {flag}", need=need, hint=hint)
    return asked


def paid(budget: Budget, cost: str | float, *, is_limit: bool) -> dict[str, float | None]:
    """The changes to a budget that let it cost so much in all: as a limit, or as the time that it pays for."""
    if budget.price_usd_h is None:
        need, hint = "the price of the machines when a run begins", f"--cost '{cost}' --price-usd-h 3.5"
        raise UsageError(f"--cost {cost}", got="no --price-usd-h", need=need, hint=hint)
    limit = dollars(cost)
    return {"cost_usd": limit} if is_limit else {"cost_usd": None, "seconds": limit / budget.price_usd_h * 3600}


def gone(run: Path, budget: Budget, seconds: float, *, tried: str, reached: str) -> BudgetSpent:
    """What to say of a run that may take no more than the seconds it has taken.

    tried: what it was to do      reached: what it has, without what that cost
    """
    limit_s = min(budget.most_s, budget.seconds or math.inf)
    cost, limit = budget.cost(seconds), budget.cost(limit_s)
    if cost is None or limit is None:
        got, need = f"{reached} in {seconds:.0f} s", f"more than the {limit_s:.0f} s that it may take"
        hint = f"--init {run}, to go on from its weights"
    else:
        got, need = f"{reached} for {usd(cost)}", f"more than the {usd(limit)} that it may cost"
        hint = f"eighteen train --resume {run} --cost '{usd(2 * limit)}'"
    return BudgetSpent(tried, got=got, need=need, hint=hint)


def seconds(time: str | float) -> float:
    """Of "18m", "90s", "1h30m", "1.5h"; a number is in seconds."""
    if isinstance(time, str):
        found = _TIME.fullmatch(time.strip().lower().replace(" ", "")) if time.strip() else None
        parts = [float(part) if part else 0.0 for part in found.groups()] if found else [0.0]
        value = sum(part * unit for part, unit in zip(parts, (3600, 60, 1), strict=False))
    else:
        value = float(time)
    if not 0 < value < math.inf:
        need = "a time above 0 in hours, minutes or seconds"
        raise UsageError("--time", got=repr(time), need=need, hint="--time 18m, 90s or 1h30m")
    return value


def dollars(cost: str | float) -> float:
    """Of "$2", "2.50 USD" or a number."""
    try:
        value = float(re.sub(r"^\s*\$|\s*(usd|\$)?\s*$", "", cost.lower()) if isinstance(cost, str) else cost)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UsageError("--cost", got=repr(cost), need="dollars above 0", hint="--cost '$2' --price-usd-h 3.5")
    return value


def usd(cost: float) -> str:
    """``$2.50``; ``$0.0025``."""
    return f"${cost:.2f}" if cost >= 0.0995 or not cost else f"${cost:.2g}"


def goal(until: str) -> dict[str, float]:
    """Of "top1=0.93", "top5=99%"; more than one with commas between."""
    found = {}
    for part in until.split(","):
        score, _, text = (word.strip() for word in part.partition("="))
        try:
            share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            share = math.nan
        if score not in SCORES or not 0 < share <= 1:
            need = "top1=SHARE or top5=SHARE, above 0 and at most 1"
            raise UsageError("--until", got=repr(until), need=need, hint="--until top1=0.93")
        found[score] = share
    return found


def is_reached(until: Mapping[Any, float], *, top1: float | None, top5: float | None) -> bool:
    """Whether scores come up to a goal; there must be one."""
    scores = {"top1": top1, "top5": top5}
    return bool(until) and all((scores[name] or 0.0) >= share for name, share in until.items())


def newly_reached(before: float, now: float) -> list[float]:
    """The steps of the ladder between the highest one reached so far, 0 if none is, and this top-1."""
    return [share for share in LADDER if before < share <= now]


def in_force(plan: Schedule, revisions: Sequence[Revision]) -> Schedule:
    """The recipe's plan as it was revised."""
    for one in revisions:
        plan = one.of(plan)
    return plan


def duration(plan: Schedule, step: int, costs: Costs, *, every: int) -> float:
    """Seconds from ``step`` to the end, as far as they can be known."""
    spent, last = costs.reserve, plan.num_steps - 1
    ends = [one.step for one in plan.stretches[1:]] + [plan.num_steps]
    for one, end in zip(plan.stretches, ends, strict=True):
        begin, until = max(step, one.step), min(end, last)  # the last step's evaluation is counted below
        spent += max(0, end - begin) * costs.steps[one.phase]
        if until > begin:
            epochs = [plan.samples_before(number) // plan.num_samples for number in (begin, until)]
            spent += (epochs[1] // every - epochs[0] // every) * costs.evals[one.phase]
    return spent


def due(plan: Schedule, share: float, costs: Costs) -> float:
    """The epoch of the recipe at which a run should be after this share of its time for steps."""
    taken = [(end - begin) / row.batch * costs.steps[phase] for phase, row, begin, end in plan.spans]
    left = min(1.0, max(0.0, share)) * sum(taken)
    for (_, _, begin, end), seconds in zip(plan.spans, taken, strict=True):
        if left <= seconds:
            return begin + (end - begin) * left / max(seconds, 1e-12)
        left -= seconds
    return plan.epochs


def solve(
    plan: Schedule, step: int, seconds_left: float, costs: Costs, *, every: int, planned: float | None = None
) -> Revision:
    """The revision at ``step`` with which the run ends in so many seconds, to half a step.

    every: the recipe's epochs between evaluations, of which as many are left out as take more than EVAL_SHARE of the
    time. Where not even a step of each phase fits, there is one of each.
    """
    limit = seconds_left + costs.steps[plan.stretches[-1].phase] / 2
    allowed = EVAL_SHARE * max(0.0, seconds_left)

    def fits(factor: float) -> bool:
        revised = plan.revised(step, factor, planned)
        return duration(revised, step, costs, every=thinned(revised, step, costs, allowed, every=every)) <= limit

    low, high = 0.0, 1.0
    while fits(high) and plan.revised(step, high, planned).end < MOST_EPOCHS * plan.num_samples:
        low, high = high, 2 * high
    while high - low > 1e-9 + 1e-7 * low:
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    revised = plan.revised(step, low, planned)
    return Revision(step, low, thinned(revised, step, costs, allowed, every=every), planned)


def thinned(plan: Schedule, step: int, costs: Costs, allowed: float, *, every: int) -> int:
    """The multiple of ``every`` with which evaluations before the last take no more seconds than allowed."""
    num_epochs = (plan.samples_before(plan.num_steps) - plan.samples_before(step)) / plan.num_samples
    worth = num_epochs * max(costs.evals)
    return every * max(1, math.ceil(worth / every / allowed)) if allowed > 0 else every * (1 + math.ceil(num_epochs))


def least(plan: Schedule, costs: Costs, *, every: int) -> float:
    """Seconds that one epoch, its evaluation and the end take."""
    once = plan.revised(0, 1 / plan.epochs)
    return duration(once, 0, costs, every=every * (2 + math.ceil(plan.epochs)))
