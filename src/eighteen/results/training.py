"""A measurement of training, for people on a terminal and for programs as JSON."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from eighteen.advice.feeding import Spread
from eighteen.advice.turns import Loop, Row, Training
from eighteen.base.files import write_json
from eighteen.base.hardware import environment
from eighteen.results.feeding import table
from eighteen.results.lines import MISSING

COLUMNS = ("size", "pictures", "how", "images/s", "range", "/ bare", "range", "waits", "mat", "mem", "roof")


LOOPS: dict[Loop, str] = {"ours": "noise", "bare": "bare", "lightning": "Trainer"}


def show(found: Training) -> RenderableType:
    top = found.ceilings
    head = f"{found.model} of {found.recipe} on {found.device}, {found.num_threads} threads"
    how = f"{found.num_rounds} rounds of {found.num_steps} steps a row, in turns"
    ceilings = f"ceilings: {top.flops_per_s / 1e12:.3g} TFLOP/s in {top.dtype}, {top.bytes_per_s / 1e9:.3g} GB/s"
    batches = {row.variant.size: row.variant.batch for row in found.rows}
    roofs = (
        f"{size} px, batches of {batches.get(size, '-')}: {roof.flops / 1e9:.3g} GFLOP and "
        f"{roof.num_bytes / 1e6:.3g} MB a picture, at most {roof.images_per_s:,.0f} images/s"
        for size, roof in found.rooflines.items()
    )
    rivals = (
        f"{row.variant.size} px: a step of Lightning's Trainer takes {ratio.median:.3f} times as long "
        f"({ratio.low:.2f}-{ratio.high:.2f})"
        for row in found.rows
        if (ratio := row.lightning_over)
    )
    reasons = dict.fromkeys(found.left_out.values())
    missing = (
        f"left out, {why}: {'; '.join(name for name, its in found.left_out.items() if its == why)}" for why in reasons
    )
    lines = "\n".join((f"\n{ceilings}", *roofs, *rivals, *missing))
    return Group(Text(f"{head}\n{how}\n"), table(COLUMNS, map(cells, found.rows)), Text(lines))


def cells(row: Row) -> list[str]:
    variant = row.variant
    return [
        f"{variant.size}",
        "real" if variant.pictures == "real" else LOOPS[variant.loop],
        "compiled" if variant.compiled else "eager",
        f"{row.images_per_s.median:,.0f}",
        f"{row.images_per_s.low:,.0f}-{row.images_per_s.high:,.0f}",
        *_ratio(row.over_bare),
        f"{row.waited.median:.0%}",
        *(f"{share:.0%}" for share in (row.of_matmul, row.of_memory, row.of_roofline)),
    ]


def figures(found: Training) -> dict[str, Any]:
    """All of them as JSON has it."""
    return asdict(found)


def write(found: Training, path: Path) -> None:
    """All figures, with the machine and the versions they belong to, as JSON."""
    write_json(path, {"environment": environment(), **figures(found)})


def _ratio(ratio: Spread | None) -> tuple[str, str]:
    return (f"{ratio.median:.3f}", f"{ratio.low:.2f}-{ratio.high:.2f}") if ratio else (MISSING, MISSING)
