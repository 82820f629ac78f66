"""A table of pictures, as CSV, TSV or Parquet: path, label[, split][, group] -> Sources.

Paths are relative to the table's folder, and stay in it.
"""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from eighteen.base.errors import DataError
from eighteen.data.listing import SPLIT_NAMES, Found, Sources, group_by, listed, some
from eighteen.data.npy import check_inflation

MAX_ROWS_A_BYTE = 100  # of Parquet: each row names another picture
DELIMITERS = {".csv": ",", ".tsv": "\t"}


def from_manifest(path: Path, group: str | None) -> Sources | None:
    """List the pictures of a manifest; None if ``path`` is none.

    group: the name of a column, or a regular expression on the paths; by default the column "group", if there is one
    raises DataError if the table lacks columns or values, gives a picture two labels, or points outside its folder
    """
    if path.suffix.lower() not in (*DELIMITERS, ".parquet") or not path.is_file():
        return None
    table = _parquet(path) if path.suffix.lower() == ".parquet" else _csv(path)
    columns = {name.strip().lower(): name for name in table}
    if missing := [name for name in ("path", "label") if name not in columns]:
        raise _bad(
            path,
            f"no column {some(missing)} among {some(list(table), 20)}",
            "the columns path and label",
            "rename the columns of the table",
        )
    grouped = _grouping(path, table, columns, group)
    splits = table[columns["split"]] if "split" in columns else None
    found: dict[str, Found] = {}
    ignored: Counter[str] = Counter()
    for row, (text, label) in enumerate(zip(table[columns["path"]], table[columns["label"]], strict=True)):
        where = f"row {row + 1}"
        name = _inside(path, text, where)
        split = _split(path, splits[row], where) if splits else None
        one = Found(name, _label(path, label, where), split, grouped(name, row))
        if (before := found.setdefault(name, one)) is not one:
            _check_same(path, before, one, where)
            ignored["repeated row"] += 1
    return listed(str(path), path.parent, list(_with_facts(path, found)), ignored=ignored)


def _csv(path: Path) -> dict[str, list[str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=DELIMITERS[path.suffix.lower()], strict=True)
            names = next(reader, [])
            rows = [row for row in reader if row]
    except (OSError, csv.Error, UnicodeError) as error:
        raise _bad(
            path, str(error), "a table in UTF-8, with a header", "open it in an editor, save it as CSV in UTF-8"
        ) from error
    for number, row in enumerate(rows, start=1):
        if len(row) != len(names):
            got = f"{len(row)} fields in row {number}"
            raise _bad(path, got, f"{len(names)}, as in the header", "quote fields that hold the delimiter")
    return {name: [row[column] for row in rows] for column, name in enumerate(names)}


def _parquet(path: Path) -> dict[str, list[str]]:
    import pyarrow
    import pyarrow.parquet

    try:
        about, num_bytes = pyarrow.parquet.read_metadata(path), path.stat().st_size
        check_inflation(sum(about.row_group(n).total_byte_size for n in range(about.num_row_groups)), num_bytes)
        if about.num_rows > MAX_ROWS_A_BYTE * num_bytes:
            raise ValueError(f"{about.num_rows:,} rows in {num_bytes:,} bytes")
        table = pyarrow.parquet.read_table(path)
        return {
            name: ["" if value is None else str(value) for value in table.column(name).to_pylist()]
            for name in table.column_names
        }
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise _bad(path, str(error), "a Parquet file with the columns path and label", "write it again") from error


def _grouping(
    path: Path, table: Mapping[str, list[str]], columns: Mapping[str, str], group: str | None
) -> Callable[[str, int], str | None]:
    if group is None and "group" not in columns:
        return lambda name, row: None
    if group is None or group in table:
        values = table[columns["group"] if group is None else group]
        return lambda name, row: values[row] or None
    if "(" not in group:
        raise _bad(
            path,
            f"no column {group!r} to group by, among {some(list(table), 20)}",
            "the name of a column, or a regular expression",
            "--group COLUMN",
        )
    by_name = group_by(group)
    return lambda name, row: by_name(name)


def _inside(path: Path, text: str, where: str) -> str:
    """A path of the table, relative to the table's folder, without detours. Raises DataError if it leads out."""
    root = os.path.abspath(path.parent)
    whole = os.path.normpath(os.path.join(root, text))
    if not text or "\0" in text:
        raise _bad(path, f"the path {text!r} in {where}", "the path of a picture", "fill it in, or drop the row")
    if os.path.commonpath([root, whole]) != root or whole == root:
        raise _bad(
            path,
            f"{text!r} in {where}, which leaves {root}",
            "paths inside the table's folder",
            "move the table to the folder above all its pictures",
        )
    return os.path.relpath(whole, root)


def _label(path: Path, text: str, where: str) -> str:
    if not text.strip() or re.fullmatch(r"\s*-\d+\s*", text):
        raise _bad(
            path,
            f"the label {text!r} in {where}",
            "the name of a class, or a number from 0",
            "fill it in, or drop the row",
        )
    return text


def _split(path: Path, text: str, where: str) -> str | None:
    text = text.strip()
    if text and text.lower() not in SPLIT_NAMES:
        raise _bad(path, f"the split {text!r} in {where}", "train, val or test, or nothing", "correct the column split")
    return SPLIT_NAMES[text.lower()] if text else None


def _check_same(path: Path, before: Found, after: Found, where: str) -> None:
    if before.class_name != after.class_name:
        got = f"{before.name!r} as {before.class_name!r} and, in {where}, as {after.class_name!r}"
        raise _bad(path, got, "one label for each picture", "decide which is right, and drop the other row")
    if (before.split, before.group) != (after.split, after.group):
        raise _bad(
            path,
            f"{before.name!r} twice, again in {where}, with another split or group",
            "one row for each picture",
            "drop one of them",
        )


def _with_facts(path: Path, found: Mapping[str, Found]) -> Iterator[Found]:
    """Add what the file system knows. Pictures that are missing are a mistake of the table: all or nothing."""
    missing = []
    for name, one in found.items():
        file = path.parent / name
        try:
            facts = file.stat()
        except OSError:
            missing.append(name)
            continue
        if not file.is_file() or not os.access(file, os.R_OK):
            raise _bad(path, f"{name!r}, which cannot be read", "files that can be read", f"ls -l {file}")
        yield Found(name, one.class_name, one.split, one.group, facts.st_size, facts.st_mtime_ns)
    if missing:
        raise _bad(
            path,
            f"{len(missing):,} of {len(found):,} pictures that are not there: {some(missing)}",
            "pictures that exist",
            "correct or drop these rows",
        )


def _bad(path: Path, got: str, need: str, hint: str) -> DataError:
    return DataError(f"read {path}", got=got, need=need, hint=hint)
