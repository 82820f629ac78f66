"""What the doctor has found, as text: for a terminal, and as facts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from eighteen.advice.finding import Finding, Gain
from eighteen.results.lines import visible

HEALTHY = "nothing found that costs more than 5 % of the time, or accuracy"

MOST_ITEMS = 5  # of a finding, that are shown


def show(found: Sequence[Finding]) -> RenderableType:
    if not found:
        return Text(HEALTHY)
    return Group(*(part for number, one in enumerate(found, 1) for part in (_head(number, one), _rows(one), Text())))


def times(gain: Gain) -> str:
    """``1.4 times as fast (1.3 to 1.5)``."""
    low, likely, high = (f"{value:.2f}" if value < 2 else f"{value:.1f}" for value in gain)
    return f"{likely} times as fast ({low} to {high})"


def facts(one: Finding) -> dict[str, Any]:
    """As JSON and the ``finding`` event have it."""
    return asdict(one) | {"gain": one.gain and list(one.gain), "fix": dict(one.fix)}


def _head(number: int, one: Finding) -> Text:
    head = Text(f"{number}. {one.code}: {visible(one.what)}", "bold")
    return head.append(f"  {times(one.gain)} without it", "green") if one.gain else head


def _rows(one: Finding) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 3), pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in (("why", one.why), ("seen", one.evidence), ("type", one.command)):
        table.add_row(name, Text(visible(text)))
    for item in one.items[:MOST_ITEMS]:
        table.add_row("", Text(visible(item)))
    if len(one.items) > MOST_ITEMS:
        table.add_row("", Text(f"and {len(one.items) - MOST_ITEMS:,} more: --json FILE", "dim"))
    table.add_row("more", Text(f"docs/doctor/{one.code}.md"))
    return table
