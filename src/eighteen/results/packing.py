"""Packing and checking, as a person sees them: a progress bar, then a table and its remarks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text


@contextmanager
def progress(console: Console, what: str) -> Iterator[Callable[[int, int, int], None]]:
    """A bar for as long as the block lasts; call what it gives with (done, total, bytes). Silent without a terminal."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)

        def told(done: int, total: int, _num_bytes: int) -> None:
            bar.update(task, completed=done, total=total)

        yield told


def show(console: Console, rows: list[tuple[str, ...]], remarks: list[str]) -> None:
    """A table, its first row the header and its last the sums, and a remark a line below it."""
    header, *body, sums = rows
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for number, name in enumerate(header):
        table.add_column(Text(name), justify="right" if number else "left")
    for row in body:
        table.add_row(*map(Text, row))
    table.add_section()
    table.add_row(*map(Text, sums), style="bold")
    console.print(table)
    for remark in remarks:
        console.print(Text(remark), soft_wrap=True)
