"""What a classifier says of pictures, and how that is written: CSV, Parquet, JSONL, or aligned text for a terminal.

In: a stream of ``Prediction``, and ``Unread`` for pictures that could not be read. Out: one row each, in order, none
left out. Columns of CSV and Parquet::

    path, label1, probability1, ..., labelK, probabilityK, error

JSONL has ``{"path", "label", "probability", "top": [[label, probability], ...]}`` or ``{"path", "error"}``.
"""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Literal, get_args

from eighteen.base.errors import UsageError, did_you_mean
from eighteen.results.lines import percent, visible

Format = Literal["text", "csv", "jsonl", "parquet"]
CHUNK = 256  # rows that are aligned together as text, or make a row group of Parquet at most


@dataclass(frozen=True)
class Prediction:
    """label: the most probable class; top: (label, probability) from the most probable down, that one included.

    path is "" for a picture that came without one; probabilities are in [0, 1].
    """

    path: str
    label: str
    probability: float
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Unread:
    """A picture that could not be read, and why."""

    path: str
    error: str


Row = Prediction | Unread


def write(
    rows: Iterable[Row],
    out: Path | None = None,
    *,
    top: int,
    format: str | None = None,
    stream: IO[bytes] | None = None,
) -> int:
    """Write all rows and return how many pictures could not be read.

    out: a file, which appears when all rows are written, and not before; None: ``stream``, or standard output.
    top: the number of label columns. format: "text", "csv", "jsonl" or "parquet"; None: by the suffix of ``out``, and
    text without one. Raises UsageError for another format, or if the file cannot be made.
    """
    writer = _WRITERS[format_of(out, format)]
    unread = 0

    def counted() -> Iterator[Row]:
        nonlocal unread
        for row in rows:
            unread += isinstance(row, Unread)
            yield row

    if out is not None:
        with _replacing(out) as file:
            writer(counted(), file, top)
    else:
        writer(counted(), stream or sys.stdout.buffer, top)
    return unread


def format_of(out: Path | None, format: str | None = None) -> Format:
    """The format that is meant; UsageError if there is none of that name."""
    name = format or (out.suffix.lower().removeprefix(".").replace("txt", "text") if out else "text")
    valid: tuple[Format, ...] = get_args(Format)
    for known in valid:
        if known == name:
            return known
    what = f"--format {format}" if format else f"--out {out}"
    hint = did_you_mean(name, valid) if name else "--out predictions.csv"
    raise UsageError(
        f"write predictions with {what}", got=f"the format {name!r}", need=f"one of {', '.join(valid)}", hint=hint
    )


def _write_text(rows: Iterable[Row], stream: IO[bytes], top: int) -> None:
    """Columns as wide as their widest cell so far."""
    widths = [0] * (1 + 2 * top)
    with _as_text(stream) as file:
        for chunk in _chunks(rows):
            lines = [_cells(row, top) for row in chunk]
            for cells in lines:
                widths[: len(cells)] = map(max, widths, map(len, cells))
            for row, cells in zip(chunk, lines, strict=True):
                note = [visible(f"not read: {row.error}")] if isinstance(row, Unread) else []
                file.write("  ".join([*map(_padded, cells, widths, range(len(cells))), *note]).rstrip() + "\n")


def _cells(row: Row, top: int) -> list[str]:
    """path, label, probability, label, probability ..."""
    cells = [visible(row.path)]
    for label, probability in row.top[:top] if isinstance(row, Prediction) else ():
        cells += [visible(label), percent(probability, digits=1)]
    return cells


def _padded(cell: str, width: int, column: int) -> str:
    is_probability = column > 0 and column % 2 == 0
    return cell.rjust(width) if is_probability else cell.ljust(width)


def _write_csv(rows: Iterable[Row], stream: IO[bytes], top: int) -> None:
    with _as_text(stream, newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_columns(top))
        writer.writerows(_values(row, top) for row in rows)


def _write_jsonl(rows: Iterable[Row], stream: IO[bytes], top: int) -> None:
    with _as_text(stream) as file:
        for row in rows:
            if isinstance(row, Unread):
                tree = {"path": row.path, "error": row.error}
            else:
                tree = {"path": row.path, "label": row.label, "probability": row.probability, "top": row.top[:top]}
            file.write(_encodable(json.dumps(tree, ensure_ascii=False)) + "\n")


def _write_parquet(rows: Iterable[Row], stream: IO[bytes], top: int) -> None:
    import pyarrow as pa  # 0.3 s to import, and only this format needs it
    import pyarrow.parquet as pq

    columns = _columns(top)
    types = {"probability": pa.float64()}
    schema = pa.schema([(name, types.get(name.rstrip("0123456789"), pa.string())) for name in columns])
    with pq.ParquetWriter(stream, schema) as writer:
        for chunk in _chunks(rows):
            values = zip(*(_values(row, top) for row in chunk), strict=True)
            arrays = [
                pa.array([_encodable(v) if isinstance(v, str) else v for v in column], field.type)
                for column, field in zip(values, schema, strict=True)
            ]
            writer.write_batch(pa.record_batch(arrays, schema=schema))


def _columns(top: int) -> list[str]:
    return ["path", *(f"{name}{k}" for k in range(1, top + 1) for name in ("label", "probability")), "error"]


def _values(row: Row, top: int) -> list[str | float | None]:
    """The columns' values; None where there are fewer classes than columns, or no prediction."""
    if isinstance(row, Unread):
        return [row.path, *[None] * (2 * top), row.error]
    pairs: list[str | float | None] = [value for pair in row.top[:top] for value in pair]
    return [row.path, *pairs, *[None] * (2 * top - len(pairs)), None]


def _encodable(text: str) -> str:
    r"""A path's undecodable bytes as ``\udce9``, since UTF-8 has no place for them."""
    return text.encode("utf-8", "backslashreplace").decode()


def _chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    rows = iter(rows)
    while chunk := list(islice(rows, CHUNK)):
        yield chunk


@contextmanager
def _as_text(stream: IO[bytes], *, newline: str | None = "\n") -> Iterator[IO[str]]:
    """Text in UTF-8 over a stream of bytes, which stays open; a terminal sees each line at once."""
    file = io.TextIOWrapper(
        stream, encoding="utf-8", errors="backslashreplace", newline=newline, line_buffering=stream.isatty()
    )
    try:
        yield file
    finally:
        file.flush()
        file.detach()


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of ``path`` when the block ends well, and vanishes when it does not."""
    temp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        file = temp.open("wb")
    except OSError as error:
        raise UsageError(
            f"write predictions to {path}",
            got=error.strerror or str(error),
            need="a file in a folder that exists",
            hint=f"mkdir -p {path.parent}",
        ) from None
    try:
        with file:
            yield file
        temp.replace(path)
    finally:
        temp.unlink(missing_ok=True)


_WRITERS: dict[Format, Callable[[Iterable[Row], IO[bytes], int], None]] = {
    "text": _write_text,
    "csv": _write_csv,
    "jsonl": _write_jsonl,
    "parquet": _write_parquet,
}
