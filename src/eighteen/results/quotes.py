"""Prices of machines, for people on a terminal and as a table that ``eighteen plan --prices`` takes."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from eighteen.advice.offers import Offer
from eighteen.advice.plan import Plan, Task
from eighteen.advice.quotes import Quote
from eighteen.base.files import write_atomic
from eighteen.results.feeding import table
from eighteen.results.lines import MISSING, percent

COLUMNS = ("where", "GPUs", "spot $/h", "mean", "low-high", "on demand", "saves", "as of")
PLANNED = ("images/s", "$/epoch", "$/run")


def show(quotes: Sequence[Quote], task: Task | None, plans: Mapping[str, Plan]) -> RenderableType:
    """The cheapest first: by what the run is expected to cost, or a GPU's hour. What no machine has is no column.
    plans: by ``Offer.name``, if any
    """
    ranked = sorted(quotes, key=lambda one: _rank(one, plans.get(one.offer.name)))
    columns = COLUMNS + (PLANNED if task else ())
    rows = [cells(one) + (planned(task, plans.get(one.offer.name)) if task else []) for one in ranked]
    known = [number for number in range(len(columns)) if any(row[number] != MISSING for row in rows)]
    others = sorted({one.on_demand_of for one in quotes if one.spot and one.on_demand_of != "now"})
    notes = [f"on demand as in {where}: nobody told today's price" for where in others]
    shown = table((columns[number] for number in known), ([row[number] for number in known] for row in rows))
    return Group(shown, Text("\n".join(["", *notes])) if notes else Text())


def cells(one: Quote) -> list[str]:
    """A spot price, with how it moved where that is known; on demand; what a spot machine saves; since when."""
    offer, moved = one.offer, one.spot
    spot = MISSING if offer.spot_usd_h is None else f"{offer.spot_usd_h:,.4g}"
    mean = f"{moved.mean_usd_h:,.4g}" if moved else MISSING
    span = f"{moved.low_usd_h:,.4g}-{moved.high_usd_h:,.4g}" if moved else MISSING
    saves = MISSING if one.saving is None else percent(one.saving, digits=0)
    since = f"{moved.since:%Y-%m-%d %H:%M}" if moved else f"{offer.date}"
    return [offer.name, f"{offer.gpus} x {offer.gpu}", spot, mean, span, f"{offer.usd_h:,.4g}", saves, since]


def planned(task: Task, plan: Plan | None) -> list[str]:
    """Images/s while it trains, dollars an epoch and a run, as expected; on spot machines where they have a price."""
    if plan is None or plan.usd is None:
        return [MISSING] * len(PLANNED)
    times, epochs = plan.times, task.schedule.epochs
    rate = task.num_samples * epochs / max(1e-9, times.steps + times.waiting + times.communication)
    return [f"{rate:,.0f}", f"{plan.usd.expected / epochs:,.3g}", f"{plan.usd.expected:,.2f}"]


def write(path: Path, quotes: Sequence[Quote]) -> None:
    """As a table of offers, with every column that such a table has."""
    text = io.StringIO()
    rows = csv.DictWriter(text, Offer.model_fields, lineterminator="\n")
    rows.writeheader()
    rows.writerows({name: "" if value is None else value for name, value in one.offer} for one in quotes)
    write_atomic(path, text.getvalue())


def _rank(one: Quote, plan: Plan | None) -> tuple[bool, float]:
    if plan is not None and plan.usd is not None:
        return False, plan.usd.expected
    return True, (one.offer.spot_usd_h or one.offer.usd_h) / one.offer.gpus
