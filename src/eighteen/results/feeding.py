"""A measurement of the loader, for people on a terminal and for programs as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from eighteen.advice.feeding import Feeding, Row, Setting
from eighteen.base.files import write_json
from eighteen.base.hardware import environment
from eighteen.results.lines import MISSING

NAMES = ("task", "rendition", "threads")
SPEED = (*NAMES, "CPU-ms", "range", "images/s", "range", "speed-up", "/ bare")
STAGES = ("read", "verify", "decode", "resize", "copy")
USE = (*NAMES, "KB read", "MB more", *STAGES)


def show(found: Feeding) -> RenderableType:
    head = f"{found.decoder}; {found.num_repeats} passes of {found.num_pictures:,} pictures, batches of {found.batch}"
    first = f"opened in {found.open_s:.3f} s, first batch of 224 px {found.first_batch_s:.3f} s later"
    uses = [use(row) for row in found.rows if not row.setting.bare]
    return Group(Text(f"{head}\n"), table(SPEED, map(speed, found.rows)), Text(), table(USE, uses), Text(f"\n{first}"))


def table(columns: Iterable[str], rows: Iterable[list[str]]) -> Table:
    shown = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    for number, name in enumerate(columns):
        # the first one's names give way where a terminal is narrow; figures that are cut off say nothing
        shown.add_column(name, justify="left" if number < 2 else "right", no_wrap=number > 0, overflow="fold")
    for row in rows:
        shown.add_row(*row)
    return shown


def write(found: Feeding, path: Path) -> None:
    """All figures, with the machine and the versions they belong to, as JSON."""
    write_json(path, {"environment": environment(), **asdict(found)})


def speed(row: Row) -> list[str]:
    """CPU time a picture, images a second, how both compare: with one thread, and with the decoder alone."""
    return [
        *_names(row.setting),
        f"{row.cpu_ms.median:.3f}",
        f"{row.cpu_ms.low:.2f}-{row.cpu_ms.high:.2f}",
        f"{row.images_per_s.median:,.0f}",
        f"{row.images_per_s.low:,.0f}-{row.images_per_s.high:,.0f}",
        *(f"{ratio.median:.2f}" if ratio else MISSING for ratio in (row.speedup, row.over_bare)),
    ]


def use(row: Row) -> list[str]:
    """Bytes and memory, and how the threads' time divides among the stages."""
    shares = (row.shares.get(f"{stage}_s") for stage in STAGES)
    return [
        *_names(row.setting),
        f"{row.read_bytes / 1e3:.1f}",
        MISSING if row.grown_bytes is None else f"{row.grown_bytes / 1e6:,.0f}",
        *(MISSING if share is None else f"{share:.1%}" for share in shares),
    ]


def _names(setting: Setting) -> list[str]:
    return [
        setting.task.name,
        f"{setting.rendition} bare" if setting.bare else setting.rendition,
        str(setting.num_threads),
    ]
