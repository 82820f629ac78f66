"""Tables of published facts: rows of a CSV file go in, checked one by one; frozen models come out.

A value that nobody published is left empty. What does not fit is refused with file and line.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from eighteen.base.errors import DataError, did_you_mean

T = TypeVar("T", bound="Fact")


class Fact(BaseModel):
    """A row; its fields are the table's columns, whose units their names give."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def bundled(name: str, kind: type[T]) -> list[T]:
    """The table of this name that comes with the program."""
    with resources.as_file(resources.files("eighteen.advice") / name) as path:
        return rows(path, kind)


def rows(path: Path, kind: type[T]) -> list[T]:
    """Every row of a table. DataError for a file that cannot be read, a column or a value that does not fit."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        need, hint = "a CSV table", f"--prices FILE with the columns {', '.join(kind.model_fields)}"
        raise DataError(f"read {path}", got=str(error), need=need, hint=hint) from None
    return list(_checked(path, csv.DictReader(lines, restkey=""), kind))


def _checked(path: Path, reader: csv.DictReader[str], kind: type[T]) -> Iterator[T]:
    columns = reader.fieldnames or []
    for name in columns:
        if name not in kind.model_fields:
            need, hint = f"columns of {', '.join(kind.model_fields)}", did_you_mean(name, kind.model_fields)
            raise DataError(f"read {path}, line 1", got=f"the column {name!r}", need=need, hint=hint)
    for row in reader:
        line = f"read {path}, line {reader.line_num}"
        if "" in row or None in row.values():
            got, need = f"{'more' if '' in row else 'fewer'} values", f"{len(columns)}, as in line 1"
            raise DataError(line, got=got, need=need, hint="nothing between two commas, for a value not known")
        try:
            yield kind.model_validate({name: text.strip() or None for name, text in row.items() if text is not None})
        except ValidationError as error:
            fault = error.errors()[0]
            column = ".".join(map(str, fault["loc"])) or "its values"
            got = "nothing" if fault["input"] is None or fault["type"] == "missing" else repr(fault["input"])
            need = fault["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
            hint = f"correct {column} there, or leave the row out"
            raise DataError(f"{line}, {column}", got=got, need=need, hint=hint) from None
