"""Plans, for people on a terminal, for programs as JSON, and as a drawing of money over time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from eighteen.advice.plan import Estimate, Plan, Refused, Task
from eighteen.advice.rankings import cheapest_first, fastest_first, front
from eighteen.base.files import write_atomic, write_json
from eighteen.base.hardware import environment
from eighteen.results.feeding import table
from eighteen.results.lines import MISSING, clock, memory, percent

COLUMNS = ("where", "rates", "ranks", "time", "range", "$", "range")
TIMES = ("start", "stage", "steps", "wait", "talk", "eval", "save", "lost")  # the fields of ``Times``
DETAILS = ("where", "rates", "kWh", "GB a rank", "disk", *TIMES)
SHOWN = 8  # of each ranking

WIDTH, HEIGHT, MARGIN = 960, 600, 70  # pixels of the drawing
STYLE = "font:13px sans-serif"


def show(task: Task, made: Sequence[Plan], refused: Sequence[Refused], remarks: Sequence[str]) -> RenderableType:
    """The fastest for their price, then by price, then by time; each with what is worth knowing of it."""
    best, cheap, fast = front(made), cheapest_first(made)[:SHOWN], fastest_first(made)[:SHOWN]
    here = [one for one in made if one.usd is None]
    rankings = {"here": here, "none of all is both faster and cheaper": best, "by price": cheap, "by time": fast}
    pieces: list[RenderableType] = [Text(heading(task))]
    for title, chosen in rankings.items():
        if chosen:
            pieces += [Text(f"\n{title}", style="bold"), table(COLUMNS, map(cells, chosen))]
    pieces += [Text("\nwhat they take, and shares of the time", style="bold")]
    pieces += [table(DETAILS, map(details, [*here, *best]))]
    named = {name(one): one for one in (*here, *best, *cheap, *fast)}
    pieces.append(Text("\n" + "\n".join([*_notes([*named.values()]), *remarks, *_refusals(refused)])))
    return Group(*pieces)


def heading(task: Task) -> str:
    plan = task.schedule
    sizes = ", ".join(f"{size}" for size in sorted({row.sizes[0] for row in task.recipe.flat_phases}))
    return (
        f"{task.recipe.name}: {plan.epochs:g} epochs of {task.num_samples:,} pictures ({memory(task.num_bytes)}), "
        f"{plan.num_steps:,} steps at {sizes} px"
    )


def name(one: Plan) -> str:
    count = f"{one.machines} x " if one.machines > 1 else ""
    return f"{count}{one.where}{' spot' if one.is_spot else ''}"


def told(one: Plan) -> str:
    price = f", ${one.usd.expected:,.2f}" if one.usd else ""
    return f"{name(one)}: {clock(one.seconds.expected)}{price}"


def cells(one: Plan) -> list[str]:
    """Time and money, each with its range; "rates" says by a word where they come from, ``Plan.basis`` by more."""
    usd = _range(one.usd, lambda value: f"{value:,.2f}")
    return [name(one), one.basis.split()[0], f"{one.ranks:,}", *_range(one.seconds, clock), *usd]


def details(one: Plan) -> list[str]:
    shares = (seconds / max(1e-9, one.times.total) for seconds in vars(one.times).values())
    kwh = MISSING if one.kwh is None else f"{one.kwh.expected:,.2f}"
    taken = (kwh, f"{one.memory_bytes / 1e9:,.1f}", memory(one.disk_bytes))
    return [name(one), one.basis.split()[0], *taken, *(percent(share, digits=0) for share in shares)]


def write(path: Path, task: Task, made: Sequence[Plan], refused: Sequence[Refused], remarks: Sequence[str]) -> None:
    """All plans, the fastest first, with where each time goes."""
    figures = {
        "v": 1,
        "environment": environment(),
        "recipe": task.recipe.model_dump(mode="json"),
        "num_samples": task.num_samples,
        "num_steps": task.schedule.num_steps,
        "plans": [asdict(one) for one in fastest_first(made)],
        "front": [name(one) for one in front(made)],
        "refused": [asdict(one) for one in refused],
        "remarks": list(remarks),
    }
    write_json(path, figures)


def draw(path: Path, task: Task, made: Sequence[Plan], *_: object) -> None:
    """An SVG of every plan that has a price: hours across, dollars up, both logarithmic; a line through the front."""
    write_atomic(path, "\n".join(_svg(heading(task), [one for one in made if one.usd])) + "\n")


def _range(value: Estimate | None, said: Callable[[float], str]) -> tuple[str, str]:
    return (said(value.expected), f"{said(value.low)}-{said(value.high)}") if value else (MISSING, MISSING)


def _notes(shown: Sequence[Plan]) -> Iterator[str]:
    """Each note once, with how many of those shown it is about."""
    notes: dict[str, list[str]] = {}
    for one in shown:
        for note in one.notes:
            notes.setdefault(note, []).append(one.where)
    for note, where in notes.items():
        yield f"{where[0]}{f' and {len(where) - 1} more' if len(where) > 1 else ''}: {note}"


def _refusals(refused: Sequence[Refused]) -> Iterator[str]:
    reasons: dict[str, list[str]] = {}
    for one in refused:
        reasons.setdefault(one.why, []).append(one.where)
    for why, where in reasons.items():
        yield f"not planned: {where[0]}{f' and {len(where) - 1} more' if len(where) > 1 else ''}: {why}"


def _svg(title: str, made: Sequence[Plan]) -> Iterator[str]:
    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" style="background:white;{STYLE}">'
    yield f'<text x="{MARGIN}" y="24">{escape(title)}</text>'
    if made:
        hours, usd = [one.seconds.expected / 3600 for one in made], [one.usd.expected for one in made if one.usd]
        across, up = _scale(hours, MARGIN, WIDTH - MARGIN), _scale(usd, HEIGHT - MARGIN, MARGIN)
        for value in _ticks(hours):
            yield f'<text x="{across(value):.0f}" y="{HEIGHT - MARGIN + 30}" text-anchor="middle">{value:g} h</text>'
        for value in _ticks(usd):
            yield f'<text x="8" y="{up(value):.0f}">${value:g}</text>'
        best = front(made)
        places = {id(one): (across(one.seconds.expected / 3600), up(one.usd.expected)) for one in made if one.usd}
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (places[id(one)] for one in best))
        yield f'<polyline points="{line}" fill="none" stroke="#c33"/>'
        for one in made:
            x, y = places[id(one)]
            is_best = one in best
            colour = "#c33" if is_best else "#58a"
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"><title>{escape(told(one))}</title></circle>'
            if is_best:
                yield f'<text x="{x + 7:.1f}" y="{y - 5:.1f}">{escape(name(one))}</text>'
    yield "</svg>"


def _scale(values: Sequence[float], first: float, last: float) -> Callable[[float], float]:
    """A logarithmic scale: the least of the values at ``first``, the largest at ``last``."""
    low, high = math.log(min(values)), math.log(max(values))
    return lambda value: first + (last - first) * (math.log(value) - low) / (high - low or 1.0)


def _ticks(values: Sequence[float]) -> list[float]:
    """1, 2 and 5 times each power of ten between the values."""
    powers = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
    marks = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    return [mark for mark in marks if min(values) <= mark <= max(values)]
