import csv
import io
import json

import pyarrow.parquet as pq
import pytest

from eighteen.base.errors import UsageError
from eighteen.results.predictions import Prediction, Unread, format_of, write

ROWS = [
    Prediction("a, b.jpg", "cat", 0.75, (("cat", 0.75), ("dog", 0.25))),
    Unread("broken\n.jpg", "truncated"),
    Prediction("caf\udce9.jpg", "バラ", 0.5, (("バラ", 0.5), ("cat", 0.5))),
]


def _written(format, rows=ROWS, top=2):
    stream = io.BytesIO()
    unread = write(iter(rows), top=top, format=format, stream=stream)
    return unread, stream.getvalue()


def test_csv_has_a_row_for_every_picture_and_the_cause_of_those_unread():
    unread, content = _written("csv")
    assert unread == 1
    assert list(csv.reader(io.StringIO(content.decode(), newline=""))) == [
        ["path", "label1", "probability1", "label2", "probability2", "error"],
        ["a, b.jpg", "cat", "0.75", "dog", "0.25", ""],
        ["broken\n.jpg", "", "", "", "", "truncated"],
        ["caf\\udce9.jpg", "バラ", "0.5", "cat", "0.5", ""],
    ]


def test_jsonl_is_one_object_a_line():
    unread, content = _written("jsonl")
    assert unread == 1
    assert [json.loads(line) for line in content.decode().splitlines()][:2] == [
        {"path": "a, b.jpg", "label": "cat", "probability": 0.75, "top": [["cat", 0.75], ["dog", 0.25]]},
        {"path": "broken\n.jpg", "error": "truncated"},
    ]
    assert json.loads(content.splitlines()[2])["label"] == "バラ"


@pytest.mark.parametrize("rows", [ROWS, [], [ROWS[1]], ROWS * 200])
def test_parquet_has_the_columns_of_csv_with_types(rows, tmp_path):
    assert write(rows, tmp_path / "out.parquet", top=2) == sum(isinstance(row, Unread) for row in rows)
    table = pq.read_table(tmp_path / "out.parquet")
    pairs = {"label1": "string", "probability1": "double", "label2": "string", "probability2": "double"}
    assert {field.name: str(field.type) for field in table.schema} == {"path": "string", **pairs, "error": "string"}
    assert table.num_rows == len(rows)
    if rows == ROWS:
        assert table.column("probability1").to_pylist() == [0.75, None, 0.5]
        assert table.column("error").to_pylist() == [None, "truncated", None]


def test_text_is_aligned_and_cannot_move_the_cursor():
    unread, content = _written(
        "text", rows=[*ROWS[:2], Prediction("c.jpg", "long name", 1.0, (("long name", 1.0), ("dog", 0.0)))]
    )
    assert unread == 1
    assert content.decode().splitlines() == [
        "a, b.jpg      cat         75.0 %  dog  25.0 %",
        "broken\\n.jpg  not read: truncated",
        "c.jpg         long name  100.0 %  dog   0.0 %",
    ]


def test_fewer_classes_than_columns_leave_them_empty():
    _, content = _written("csv", rows=ROWS[:1], top=3)
    assert content.decode().splitlines()[1] == '"a, b.jpg",cat,0.75,dog,0.25,,,'


@pytest.mark.parametrize(
    ("out", "format", "meant"),
    [
        ("p.csv", None, "csv"),
        ("p.JSONL", None, "jsonl"),
        ("p.parquet", None, "parquet"),
        ("p.txt", None, "text"),
        (None, None, "text"),
        ("p.csv", "jsonl", "jsonl"),
        (None, "csv", "csv"),
    ],
)
def test_the_format_is_the_suffix_unless_it_is_named(out, format, meant, tmp_path):
    assert format_of(tmp_path / out if out else None, format) == meant


@pytest.mark.parametrize(
    ("out", "format", "text"),
    [
        ("p.xlsx", None, "got the format 'xlsx', need one of text, csv, jsonl, parquet"),
        (None, "parket", "did you mean 'parquet'"),
        ("p", None, "Try: --out predictions.csv"),
    ],
)
def test_another_format_is_refused(out, format, text, tmp_path):
    with pytest.raises(UsageError, match=text):
        write(ROWS, tmp_path / out if out else None, top=1, format=format)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_on_the_way_leaves_the_old_file_and_nothing_half_written(tmp_path):
    (tmp_path / "p.csv").write_text("old")

    def rows():
        yield ROWS[0]
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        write(rows(), tmp_path / "p.csv", top=1)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("p.csv", "old")]


def test_a_folder_that_is_not_there_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="got No such file or directory, need a file in a folder that exists"):
        write(ROWS, tmp_path / "no" / "p.csv", top=1)
