"""An evaluation as files, and as a table on a terminal.

In: an ``Evaluation``. Out, by ``write``, in a folder such as ``run/eval/NAME/``::

    summary.json      split, num_samples, num_classes, size, rect, top1, top5, tta, top1_tta, top5_tta, loss, ece,
                      macro precision, recall and f1, seconds
    classes.csv       class, samples, precision, recall, f1, most_confused_with, times_confused
    confusion.csv     rows: the true class, columns: the predicted one
    confusion.png     the same as a heat map
    calibration.csv   bins of confidence: from, to, samples, mean confidence, accuracy
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from eighteen.base.files import write_atomic, write_json
from eighteen.results import confusion
from eighteen.results.lines import MISSING, fill, percent, visible
from eighteen.results.scores import ClassScore, Evaluation, expected_calibration_error, per_class, share, summary

MAX_ROWS = 20  # classes in the terminal's table; the others are in classes.csv


def write(evaluation: Evaluation, folder: Path) -> None:
    """Write the five files into ``folder``, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "summary.json", summary(evaluation))
    write_atomic(folder / "classes.csv", _csv(("class", *ClassScore._fields[1:]), per_class(evaluation)))
    write_atomic(folder / "confusion.csv", _csv(("true \\ predicted", *evaluation.classes), _counts(evaluation)))
    bins = _bins(evaluation.calibration)
    write_atomic(folder / "calibration.csv", _csv(("from", "to", "samples", "confidence", "accuracy"), bins))
    write_atomic(folder / "confusion.png", confusion.png(evaluation.confusion, evaluation.classes))


def show(evaluation: Evaluation, *, max_rows: int = MAX_ROWS) -> RenderableType:
    """For the terminal: the scores, and a row a class; of more than ``max_rows`` the worst by recall, worst first."""
    scores = per_class(evaluation)
    shown = scores if len(scores) <= max_rows else sorted(scores, key=_badness)[:max_rows]
    parts: list[RenderableType] = [_headline(evaluation), Text(), _table(shown)]
    if len(shown) < len(scores):
        parts.append(Text(f"\nthe {len(shown)} worst of {len(scores):,} classes", "dim"))
    return Group(*parts)


def _headline(evaluation: Evaluation) -> Text:
    figures = {
        "top-1": percent(evaluation.top1),
        "top-5": percent(evaluation.top5),
    }
    others = {
        "loss": f"{evaluation.loss:.4f}",
        "ECE": percent(expected_calibration_error(evaluation.calibration)),
    }
    kind = f"{evaluation.size} px, rectangles" if evaluation.rect else f"{evaluation.size} px"
    text = Text(f"{visible(evaluation.split)}, {evaluation.num_samples:,} pictures of {kind}\nwithout TTA")
    _append(text, figures | others)
    if evaluation.tta != "none":
        text.append(f"\nwith TTA ({evaluation.tta})")
        _append(text, {"top-1": percent(evaluation.top1_tta), "top-5": percent(evaluation.top5_tta)})
    return text


def _append(text: Text, figures: dict[str, str]) -> None:
    for name, value in figures.items():
        text.append(f"   {name} ", "dim").append(value, "bold")


def _table(scores: list[ClassScore]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("class", max_width=32, no_wrap=True, overflow="ellipsis")
    for name in ("samples", "precision", "recall", "f1"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("most confused with", max_width=32, no_wrap=True, overflow="ellipsis")
    for score in scores:
        figures = (percent(figure, digits=1) for figure in (score.precision, score.recall, score.f1))
        confused = fill("{most_confused_with} ({times_confused})", score._asdict()) if score.times_confused else MISSING
        table.add_row(Text(visible(score.name)), f"{score.samples:,}", *figures, Text(confused))
    return table


def _badness(score: ClassScore) -> tuple[float, int]:
    """Sorts the lowest recall first, of equal ones the largest class; a class without samples comes last."""
    return (2.0 if score.recall is None else score.recall, -score.samples)


def _counts(evaluation: Evaluation) -> Iterator[list[Any]]:
    for name, counts in zip(evaluation.classes, evaluation.confusion.tolist(), strict=True):
        yield [name, *counts]


def _bins(calibration: np.ndarray) -> Iterator[tuple[float | None, ...]]:
    edges = np.linspace(0, 1, len(calibration) + 1).tolist()
    for low, high, (samples, confidence, right) in zip(edges, edges[1:], calibration.tolist(), strict=False):
        yield low, high, int(samples), share(confidence, samples), share(right, samples)


def _csv(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> bytes:
    """RFC 4180 in UTF-8, with undecodable bytes of names escaped; None is an empty field."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "backslashreplace")
