"""The state of a run as a picture made of text: takes events, and is drawn by rich at any width.

Facts that are not known yet show as ``-``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.constrain import Constrain
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from eighteen.base.events import Event
from eighteen.results.lines import MISSING, fill, in_all, milestones, spent, waiting, with_tta

MAX_WIDTH = 100  # wider, the eye loses the line
MAX_EPOCHS = 8  # rows of the table of epochs
MAX_REACHED = 4  # rows of the table of what was reached, at the end
NUM_OTHER_ROWS = 17  # of everything but these tables' rows

# Name and template of each figure; the templates are filled with the facts of ``Board._figures``.
_FIGURES = (
    {
        "phase": "{phase}",
        "size": "{size}",
        "batch": "{batch}",
        "images/s": "{images_per_s:,.0f}",
        "waiting": "{waiting:percent}",
        "memory": "{memory_bytes:memory}",
    },
    {
        "loss": "{loss:.4f}",
        "top-1": "{top1:percent}",
        "top-5": "{top5:percent}",
        "lr": "{lr:.4g}",
        "best top-1": "{best:percent}",
        "skipped": "{skipped}",
    },
)
_EPOCH = {
    "epoch": "{epoch:g}",
    "time": "{seconds:clock}",
    "train loss": "{train_loss:.4f}",
    "val loss": "{val_loss:.4f}",
    "val top-1": "{top1:percent}",
    "val top-5": "{top5:percent}",
    "cost": "{cost_usd:usd}",
    "energy": "{energy_j:energy}",
}
_REACHED = {
    "top-1 of": "{top1:percent}",
    "reached in": "{seconds:clock}",
    "cost": _EPOCH["cost"],
    "energy": _EPOCH["energy"],
}
_OPTIONAL = ("cost", "energy")  # columns that are there only where they are known


class _Epoch(NamedTuple):
    """A row of the table: losses, scores as shares, and what the run had taken by then."""

    epoch: float | None
    seconds: float | None
    train_loss: float | None
    val_loss: float | None
    top1: float | None
    top5: float | None
    cost_usd: float | None
    energy_j: float | None


class Board:
    """``take`` each event; print it with rich.

    Another thread may draw it meanwhile: its parts are replaced, never changed.
    """

    def __init__(self) -> None:
        self.start_s = 0.0  # when the first event happened
        self._latest: dict[str, Event] = {}  # by kind
        self._epochs: tuple[_Epoch, ...] = ()
        self._best: float | None = None

    @property
    def num_steps(self) -> int | None:
        return self._fact("budget", "num_steps") or self._fact("start", "num_steps")

    def take(self, event: Event) -> None:
        self.start_s = self.start_s or event["time_s"]
        if event["event"] == "resume":
            self._go_back(event)
        if event["event"] == "epoch":
            self._end_epoch(event)
        self._latest = {**self._latest, event["event"]: event}

    def _go_back(self, resume: Event) -> None:
        """Forget that it ended, and the epochs that are trained again."""
        self._latest = {kind: event for kind, event in self._latest.items() if kind != "end"}
        done = resume.get("epoch", float("inf"))
        self._epochs = tuple(row for row in self._epochs if row.epoch is None or row.epoch <= done)

    def _end_epoch(self, event: Event) -> None:
        """Add a row: the event's own facts, beside the last training loss and the evaluation's, if there was one."""
        top1, top5 = (None if (value := event.get(name)) is None else value / 100 for name in ("top1", "top5"))
        hours = event.get("hours")
        seconds = None if hours is None else 3600 * hours
        val_loss = None if top1 is None else self._fact("eval", "loss")
        taken = (event.get("cost_usd"), event.get("energy_j"))
        row = _Epoch(event.get("epoch"), seconds, self._fact("step", "loss"), val_loss, top1, top5, *taken)
        self._epochs = (*self._epochs, row)[-MAX_EPOCHS:]
        if top1 is not None and self._fact("eval", "best"):  # which knows what compares
            self._best = top1

    def _facts(self, kind: str) -> Event:
        return self._latest.get(kind, {})

    def _newest(self, *kinds: str) -> Event:
        """All facts of these events, those of the newest before the others'."""
        told = sorted(map(self._facts, kinds), key=lambda event: event.get("time_s", 0.0))
        return {name: value for event in told for name, value in event.items()}

    def _fact(self, kind: str, name: str) -> Any:
        return self._facts(kind).get(name)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        rows = [self._title(), Text(), *self._progress(), Text(), self._figures()]
        reached = milestones(self._fact("end", "reached") or ())[-MAX_REACHED:]
        num_others = NUM_OTHER_ROWS + (2 + len(reached) if reached else 0)
        epochs = [row._asdict() for row in self._epochs[-max(1, console.height - num_others) :]]
        rows += [part for table in (self._table(_EPOCH, epochs), self._table(_REACHED, reached)) for part in table]
        yield Constrain(Padding(Group(*rows, Text(), self._footer()), 1), MAX_WIDTH)

    def _title(self) -> RenderableType:
        start = self._facts("start")
        device = "{device}" if start.get("world", 1) == 1 else "{world} x {device}"
        what, how = fill("{recipe} on {dataset}", start), fill(f"{{model}} · {device} · {{precision}}", start)
        return _ends(_fitting(what, "bold"), _fitting(how, "dim"))

    def _progress(self) -> Iterator[RenderableType]:
        now_s = self._fact("end", "time_s") or time.time()
        facts = {"step": 0, **self._facts("step"), "spent_s": now_s - (self.start_s or now_s), "eta_s": self._eta_s()}
        epochs = self._fact("budget", "epochs") or self._fact("start", "epochs")
        facts |= {"num_steps": self.num_steps, "epochs": epochs}
        left = [("epoch ", "dim"), (fill("{epoch:.2f} of {epochs:g}", facts), "bold")]
        left += [("   step ", "dim"), fill("{step} of {num_steps}", facts)]
        taken = "  ".join([fill("{spent_s:clock}", facts), *spent(self._newest("step", "epoch", "end"))])
        right = [("spent ", "dim"), taken, ("   ETA ", "dim"), (fill("{eta_s:clock}", facts), "bold")]
        yield _ends(Text.assemble(*left), Text.assemble(*right))
        bar = ProgressBar(total=self.num_steps or 1, completed=facts["step"], style="grey37", complete_style="cyan")
        yield Padding(bar, 0)  # a bar alone does not end its line

    def _eta_s(self) -> float | None:
        """The last step's estimate, running down until the next."""
        eta_s = self._fact("step", "eta_s")
        if eta_s is None or "end" in self._latest:
            return None
        return eta_s - max(0.0, time.time() - self._facts("step")["time_s"])

    def _figures(self) -> RenderableType:
        """Rows of figures about the last steps, each under its name."""
        facts = {**self._newest("phase", "step"), "best": self._best, "waiting": waiting(self._fact("step", "waits"))}
        grid = Table.grid(expand=True, padding=(0, 2, 0, 0))
        for _ in _FIGURES[0]:
            grid.add_column(ratio=1, no_wrap=True)
        for row in _FIGURES:
            values = [fill(template, facts) for template in row.values()]
            grid.add_row(*(Text(name, "dim") for name in row))
            grid.add_row(*(Text(value, "dim" if value == MISSING else "bold") for value in values))
        return grid

    def _table(self, templates: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> Iterator[RenderableType]:
        """A space, and a row for each of these facts under the names of the templates; nothing where there is none."""
        if not rows:
            return
        yield Text()
        table = Table(box=None, expand=True, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
        cells = [{name: fill(template, row) for name, template in templates.items()} for row in rows]
        shown = [name for name in templates if name not in _OPTIONAL or cells[-1][name] != MISSING]
        for name in shown:
            table.add_column(name, ratio=1, no_wrap=True)
        for row, values in zip(rows, cells, strict=True):
            is_best = row["top1"] is not None and row["top1"] == self._best
            table.add_row(*map(values.get, shown), style="green" if is_best else "")
        yield table

    def _footer(self) -> RenderableType:
        if "end" in self._latest:
            end = self._facts("end")
            text = "{reason} after {in_all:clock}   top-1 {top1:percent}   top-5 {top5:percent}"
            text = fill(text, {**end, "in_all": in_all(end)})
            text = "   ".join(filter(None, [text, "without TTA", with_tta(end)]))
            return _fitting(text, "bold red" if end.get("exit_code") else "bold green")
        saved = self._facts("checkpoint")
        return _fitting(fill("saved {path}   {bytes:memory}", saved) if saved else "no checkpoint yet", "dim")


def _fitting(text: str, style: str) -> Text:
    return Text(text, style, no_wrap=True, overflow="ellipsis")


def _ends(left: Text, right: Text) -> RenderableType:
    """One line with a text at each end; the left one gives way where both do not fit."""
    grid = Table.grid(expand=True, padding=(0, 2, 0, 0), pad_edge=False)
    grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    grid.add_column(justify="right", no_wrap=True)
    grid.add_row(left, right)
    return grid
