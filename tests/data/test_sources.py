from __future__ import annotations

import csv
import gzip
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from eighteen.base.errors import DataError, UsageError
from eighteen.data.listing import Sources
from eighteen.data.sources import read


def _touch(root: Path, *names: str) -> Path:
    """Files that look like pictures by their names; sources are listed without being decoded."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def _table(path: Path, rows: Iterable[Iterable[str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def _listed(sources: Sources) -> list[tuple[str, str, str | None, str | None]]:
    return [(item.name, sources.classes[item.label], item.split, item.group) for item in sources.items]


def _fails(source: Any, text: str, *, group: str | None = None) -> None:
    """All four parts are there, and ``text`` is in them."""
    with pytest.raises(DataError) as caught:
        read(source, group=group)
    error = caught.value
    assert text in str(error)
    assert all((error.tried, error.got, error.need, error.hint))


# Folders


def test_a_folder_with_a_sub_folder_for_each_class(tmp_path: Path) -> None:
    sources = read(_touch(tmp_path, "dog/2.jpg", "dog/1.JPG", "cat/deep/3", "cat/4.webp"))
    assert _listed(sources) == [
        ("cat/4.webp", "cat", None, None),
        ("cat/deep/3", "cat", None, None),
        ("dog/1.JPG", "dog", None, None),
        ("dog/2.jpg", "dog", None, None),
    ]
    assert sources.classes == ("cat", "dog")


def test_train_val_and_test_folders_are_splits(tmp_path: Path) -> None:
    names = [f"{split}/{name}/1.jpg" for split in ("train", "Validation", "test") for name in ("cat", "dog")]
    sources = read(_touch(tmp_path, *names))
    assert Counter(item.split for item in sources.items) == {"train": 2, "val": 2, "test": 2}
    assert sources.classes == ("cat", "dog")


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    assert read(_touch(tmp_path, "train/1.jpg", "bus/1.jpg")).classes == ("bus", "train")


def test_classes_that_are_numbers_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    assert read(_touch(tmp_path, *(f"{number}/1.jpg" for number in range(12)))).classes == tuple(map(str, range(12)))


def test_what_is_no_picture_is_counted_as_ignored(tmp_path: Path) -> None:
    _touch(tmp_path, "cat/1.jpg", "dog/1.jpg", "cat/Thumbs.db", "cat/.DS_Store", "cat/notes.txt", "dog/more.txt")
    _touch(tmp_path, "readme.md", "stray.jpg", ".git/config")
    os.mkfifo(tmp_path / "cat/pipe")
    sources = read(tmp_path)
    assert len(sources.items) == 2
    assert sources.ignored == {
        "hidden file or folder": 2,
        "Thumbs.db": 1,
        ".txt file": 2,
        ".md file": 1,
        "picture beside the class folders": 1,
        "special file": 1,
    }


def test_links_are_followed_but_never_round_in_a_circle(tmp_path: Path) -> None:
    _touch(tmp_path, "elsewhere/a.jpg", "more/b.jpg", "photos/dog/1.jpg", "photos/cat/1.jpg")
    (tmp_path / "photos/cat/linked.jpg").symlink_to(tmp_path / "elsewhere/a.jpg")
    (tmp_path / "photos/bird").symlink_to(tmp_path / "more")
    (tmp_path / "photos/dog/loop").symlink_to(tmp_path / "photos")
    sources = read(tmp_path / "photos")
    assert [item.name for item in sources.items] == ["bird/b.jpg", "cat/1.jpg", "cat/linked.jpg", "dog/1.jpg"]
    assert sources.ignored == {"link to a folder above it": 1}


@pytest.mark.parametrize("name", ["a b", 'it\'s "quoted"', "two\nlines", "каша", "猫", "e\u0301t\u00e9", "a,b;c"])
def test_names_of_any_letters(tmp_path: Path, name: str) -> None:
    sources = read(_touch(tmp_path, f"{name}/{name}.jpg", "other/1.jpg"))
    assert f"{name}/{name}.jpg" in [item.name for item in sources.items]
    assert name in sources.classes


def test_a_group_is_what_the_expression_finds(tmp_path: Path) -> None:
    sources = read(_touch(tmp_path, "cat/p1_a.jpg", "cat/p1_b.jpg", "dog/p2_a.jpg"), group=r"/(p\d+)_")
    assert [item.group for item in sources.items] == ["p1", "p1", "p2"]


def test_a_picture_without_a_group_is_refused(tmp_path: Path) -> None:
    _fails(_touch(tmp_path, "cat/p1_a.jpg", "dog/b.jpg"), "no group in 'dog/b.jpg'", group=r"/(p\d+)_")


@pytest.mark.parametrize(("pattern", "text"), [("(", "unterminated"), (r"p\d+", "no (group) in it")])
def test_a_bad_expression_is_a_mistake_of_usage(tmp_path: Path, pattern: str, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(_touch(tmp_path, "cat/1.jpg", "dog/1.jpg"), group=pattern)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], "got no picture"),
        ([".hidden"], "only 1 x hidden file or folder"),
        (["1.jpg", "2.jpg"], "only 2 x picture beside the class folders"),
        (["cat/1.jpg"], "one class only, 'cat'"),
        (["cat/1.jpg", "dog/notes.txt"], "no picture in 'dog'"),
        (["cat/1.jpg", "Cat/1.jpg"], "the classes 'Cat' and 'cat', which differ in case"),
        (["\u00e9t\u00e9/1.jpg", "e\u0301te\u0301/1.jpg"], "differ in case, spaces or Unicode form"),
        (["cat/1.jpg", "cat /1.jpg"], "differ in case, spaces"),
        (["train/cat/1.jpg", "train/dog/1.jpg", "val/cow/1.jpg"], "no train picture of 'cow'"),
        (["train/cat/1.jpg", "train/dog/1.jpg", "vaal/cat/1.jpg"], "the folders 'vaal' beside 'train'"),
    ],
)
def test_bad_folders(tmp_path: Path, names: list[str], text: str) -> None:
    _fails(_touch(tmp_path, *names), text)


def test_nothing_there_and_a_dataset_instead_of_pictures(tmp_path: Path) -> None:
    _fails(tmp_path / "nowhere", "got nothing there")
    _fails(_touch(tmp_path, "dataset.json"), "packed already")
    _fails(_touch(tmp_path, "photo.jpg") / "photo.jpg", "a file of no kind that is known")


def test_a_link_to_nothing_is_said(tmp_path: Path) -> None:
    _touch(tmp_path, "cat/1.jpg", "dog/1.jpg")
    (tmp_path / "cat/2.jpg").symlink_to("gone.jpg")
    _fails(tmp_path, "cat/2.jpg': got No such file or directory")


@pytest.mark.parametrize("locked", ["cat", "cat/1.jpg"])
def test_a_folder_or_file_that_may_not_be_read(locked: str) -> None:
    with tempfile.TemporaryDirectory() as folder:  # tmp_path is closed to other users, and root may read everything
        root = _touch(Path(folder), "cat/1.jpg", "dog/1.jpg")
        root.chmod(0o755)
        (root / locked).chmod(0)
        # As another user only after the imports: he may not be allowed to read Python itself.
        leave = "os.setgroups([]); os.setuid(65534)" if os.geteuid() == 0 else "pass"
        load = "import os; from eighteen.data import arrays, folders, manifests, sources"
        code = f"{load}; {leave}; sources.read({str(root)!r})"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        (root / locked).chmod(0o755)
    assert f"{root / locked}': got Permission denied" in result.stderr


# Manifests


def test_a_csv_with_splits_and_groups(tmp_path: Path) -> None:
    _touch(tmp_path, "a/1.jpg", "b 2.jpg", "c.jpg")
    rows = [
        ("Path", "label", "split", "group"),
        ("a/1.jpg", "cat", "train", "p1"),
        ("./b 2.jpg", "dog", "", ""),
        ("a/../c.jpg", "dog", "valid", "p2"),
    ]
    assert _listed(read(_table(tmp_path / "all.csv", rows))) == [
        ("a/1.jpg", "cat", "train", "p1"),
        ("b 2.jpg", "dog", None, None),
        ("c.jpg", "dog", "val", "p2"),
    ]


def test_any_column_or_an_expression_may_be_the_group(tmp_path: Path) -> None:
    _touch(tmp_path, "p1_1.jpg", "p2_1.jpg")
    table = _table(
        tmp_path / "all.csv", [("path", "label", "patient"), ("p1_1.jpg", "cat", "x"), ("p2_1.jpg", "dog", "y")]
    )
    assert [item.group for item in read(table).items] == [None, None]
    assert [item.group for item in read(table, group="patient").items] == ["x", "y"]
    assert [item.group for item in read(table, group=r"^(p\d)").items] == ["p1", "p2"]
    _fails(table, "no column 'person' to group by, among 'path', 'label', 'patient'", group="person")


def test_a_parquet_file_with_labels_that_are_numbers(tmp_path: Path) -> None:
    _touch(tmp_path, *(f"{number}.jpg" for number in range(12)))
    table = pyarrow.table(
        {"path": [f"{number}.jpg" for number in range(12)], "label": [number % 11 for number in range(12)]}
    )
    pyarrow.parquet.write_table(table, tmp_path / "all.parquet")
    sources = read(tmp_path / "all.parquet")
    assert sources.classes == tuple(map(str, range(11)))
    assert [item.label for item in sources.items] == [number % 11 for number in range(12)]


def test_a_row_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    _touch(tmp_path, "1.jpg", "2.jpg")
    sources = read(_table(tmp_path / "all.csv", [("path", "label"), ("1.jpg", "a"), ("2.jpg", "b"), ("./1.jpg", "a")]))
    assert len(sources.items) == 2
    assert sources.ignored == {"repeated row": 1}


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([], "no column 'path', 'label'"),
        ([("file", "label")], "no column 'path' among 'file', 'label'"),
        ([("path", "label"), ("1.jpg",)], "1 fields in row 1"),
        ([("path", "label"), ("1.jpg", "a"), ("1.jpg", "b")], "'1.jpg' as 'a' and, in row 2, as 'b'"),
        ([("path", "label", "split"), ("1.jpg", "a", "train"), ("1.jpg", "a", "val")], "with another split or group"),
        ([("path", "label"), ("../1.jpg", "a")], "'../1.jpg' in row 1, which leaves"),
        ([("path", "label"), ("/etc/passwd", "a")], "'/etc/passwd' in row 1, which leaves"),
        ([("path", "label"), ("", "a")], "the path '' in row 1"),
        ([("path", "label"), ("1.jpg", " ")], "the label ' ' in row 1"),
        ([("path", "label"), ("1.jpg", "-1")], "the label '-1' in row 1"),
        ([("path", "label", "split"), ("1.jpg", "a", "tarin")], "the split 'tarin' in row 1"),
        ([("path", "label"), ("1.jpg", "a"), ("gone.jpg", "b")], "1 of 2 pictures that are not there: 'gone.jpg'"),
        ([("path", "label"), ("1.jpg", "a")], "one class only"),
    ],
)
def test_bad_tables(tmp_path: Path, rows: list[tuple[str, ...]], text: str) -> None:
    _touch(tmp_path / "in", "1.jpg")
    _touch(tmp_path, "1.jpg")
    _fails(_table(tmp_path / "in/all.csv", rows), text)


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    (tmp_path / "all.csv").write_bytes(b"path,label\n\xff\xfe,a\n")
    _fails(tmp_path / "all.csv", "a table in UTF-8")
    (tmp_path / "all.parquet").write_bytes(b"PAR0")
    _fails(tmp_path / "all.parquet", "a Parquet file")


# IDX and arrays


def _idx(path: Path, array: np.ndarray) -> None:
    head = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
    with gzip.open(path, "wb") as file:
        file.write(head + array.tobytes())


def _mnist(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    for word, count in (("train", 24), ("t10k", 12)):
        _idx(folder / f"{word}-images-idx3-ubyte.gz", rng.integers(0, 256, (count, 5, 4), np.uint8))
        _idx(folder / f"{word}-labels-idx1-ubyte.gz", np.arange(count, dtype=np.uint8) % 12)
    return folder


def test_idx_files_of_the_mnist_family(tmp_path: Path) -> None:
    sources = read(_mnist(tmp_path))
    assert sources.classes == tuple(map(str, range(12)))
    assert Counter(item.split for item in sources.items) == {"train": 24, "val": 12}
    assert [item.name for item in sources.items if item.split == "train"][13] == "train[13]"
    assert sources.arrays["train"].shape == (24, 5, 4, 1)


def test_idx_files_that_are_cut_or_something_else(tmp_path: Path) -> None:
    _mnist(tmp_path)
    whole = (tmp_path / "t10k-images-idx3-ubyte.gz").read_bytes()
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(whole[:-40])
    _fails(tmp_path, "t10k-images-idx3-ubyte.gz: got Compressed file ended")
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(gzip.decompress(whole)[:-1]))
    _fails(tmp_path, "fewer bytes than (12, 5, 4) needs")
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(b"<html>404</html>")
    _fails(tmp_path, "Not a gzipped file")
    (tmp_path / "t10k-images-idx3-ubyte.gz").unlink()
    _fails(tmp_path, "no file 't10k-images'")


def _pair(count: int = 8, *shape: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((count, *(shape or (6, 5, 3))), np.uint8), np.arange(count) % 2


def test_npz_with_splits_by_name(tmp_path: Path) -> None:
    (x, y), (x2, y2) = _pair(8), _pair(4)
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x2, y_test=y2, about=np.zeros(1))
    sources = read(tmp_path / "a.npz")
    assert Counter(item.split for item in sources.items) == {"train": 8, "val": 4}
    assert sources.ignored == {"array 'about'": 1}


def test_npz_with_a_split_for_each_picture_and_labels_that_are_names(tmp_path: Path) -> None:
    images, _ = _pair(4, 6, 5)
    labels, split = np.array(["dog", "cat", "cat", "dog"]), np.array(["train", "train", "val", "val"])
    np.savez(tmp_path / "a.npz", images=images, labels=labels, split=split)
    assert _listed(read(tmp_path / "a.npz")) == [
        ("images[0]", "dog", "train", None),
        ("images[1]", "cat", "train", None),
        ("images[2]", "cat", "val", None),
        ("images[3]", "dog", "val", None),
    ]


def test_npy_files_beside_each_other(tmp_path: Path) -> None:
    images, labels = _pair(6, 3, 6, 5)
    np.save(tmp_path / "train_images.npy", images)
    np.save(tmp_path / "train_labels.npy", labels[:, None])
    for source in (tmp_path, tmp_path / "train_images.npy"):
        assert read(source).arrays["train"].shape == (6, 6, 5, 3)  # channels go last


def test_arrays_in_memory() -> None:
    assert [item.split for item in read(_pair(4)).items] == [None] * 4
    assert [item.split for item in read({"train": _pair(4), "valid": _pair(2)}).items] == ["train"] * 4 + ["val"] * 2


@pytest.mark.parametrize(
    ("images", "labels", "text"),
    [
        (np.zeros((4, 6, 5)), np.arange(4), "pictures of float64"),
        (np.zeros((4, 30), np.uint8), np.arange(4), "pictures of shape (4, 30)"),
        (np.zeros((4, 6, 5, 4), np.uint8), np.arange(4), "pictures of shape (4, 6, 5, 4)"),
        (np.zeros((4, 6, 5), np.uint8), np.arange(3), "4 pictures and 3 labels"),
        (np.zeros((4, 6, 5), np.uint8), np.array([0, 1, -1, 0]), "the label -1 in 'images': out of range"),
        (np.zeros((4, 6, 5), np.uint8), np.eye(4), "labels.argmax(1)"),
        (np.zeros((4, 6, 5), np.uint8), np.array([0.5, 1, 2, 3]), "labels of float64"),
        (np.zeros((4, 6, 5), np.uint8), np.zeros(4, int), "one class only, '0'"),
    ],
)
def test_bad_arrays(images: np.ndarray, labels: np.ndarray, text: str) -> None:
    _fails((images, labels), text)


def test_bad_array_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "pickled.npz", images=np.array([{}]), labels=np.arange(1))
    _fails(tmp_path / "pickled.npz", "Python objects")
    np.savez(tmp_path / "half.npz", x_train=np.zeros((2, 4, 4), np.uint8))
    _fails(tmp_path / "half.npz", "the arrays 'x_train'")
    (tmp_path / "none.npz").write_bytes(b"nothing")
    _fails(tmp_path / "none.npz", "arrays of numbers or text")
    _fails(object(), "a object")
    _fails({"train": _pair(4), "tarin": _pair(4)}, "the split 'tarin'")
    _fails({"train": _pair(4), "val": _pair(4, 9, 9, 3)}, "pictures of (6, 5, 3) and (9, 9, 3)")
