from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eighteen.base.errors import DataError
from eighteen.data import dataset
from eighteen.data.check import CheckReport, Problem, check
from eighteen.data.index import save_index
from eighteen.data.pack import pack
from eighteen.data.shards import crc32c, sha256_of


@pytest.fixture(scope="module")
def packed(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JPEG dataset with two renditions."""
    dest = tmp_path_factory.mktemp("packed") / "jpegs.e18"
    pack(pictures, dest, renditions=(40,), shard_bytes=2**17, procs=1)
    return dest


@pytest.fixture
def root(packed: Path, tmp_path: Path) -> Path:
    return shutil.copytree(packed, tmp_path / "p.e18")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 8, 6, 1), np.uint8)
    pack((pixels, np.arange(60) % 3), tmp_path / "raw.e18", procs=1)
    return tmp_path / "raw.e18"


def _check(root: Path) -> CheckReport:
    return check(root, procs=1)


def _flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def _adopt(root: Path, name: str) -> None:
    """Make dataset.json believe in a file as it is now, as if it had been written so."""
    path, facts = root / name, json.loads((root / "dataset.json").read_text())

    def walk(value: Any) -> None:
        if isinstance(value, dict) and value.get("file") == name:
            value.update(bytes=path.stat().st_size, sha256=sha256_of(path))
        for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            walk(one)

    walk(facts)
    (root / "dataset.json").write_text(dataset.sealed(facts))


def _change_index(root: Path, name: str, sample: int, **values: int) -> None:
    index = np.array(np.load(root / name))
    for field, value in values.items():
        index[field][sample] = value
    save_index(root / name, index)
    _adopt(root, name)


@pytest.mark.parametrize("procs", [1, 2])
def test_a_sound_dataset_has_no_problems(packed: Path, procs: int) -> None:
    calls: list[tuple[int, int, int]] = []
    report = check(packed, procs=procs, on_progress=lambda *facts: calls.append(facts))
    assert report.problems == ()
    assert report.num_samples == {"train": 108, "val": 12}
    assert report.num_bytes == sum(
        path.stat().st_size for path in packed.rglob("*") if path.is_file() and path.suffix != ".json"
    )
    assert calls[-1] == (len(report.files), len(report.files), report.num_bytes)
    assert report.rows()[0] == ("split", "files", "samples", "bytes", "problems")
    assert report.rows()[-1] == ("all", f"{len(report.files)}", "120", f"{report.num_bytes:,}", "0")
    assert "every byte is as it was packed" in report.lines()[0]


def test_a_sound_raw_dataset_has_no_problems(raw: Path) -> None:
    assert _check(raw).problems == ()


def test_a_flipped_bit_is_found_with_its_shard_sample_and_source(root: Path) -> None:
    split = dataset.open(root).splits["train"]
    row = split.renditions["full"].index[70]
    name = split.renditions["full"].shards[row["shard"]]
    _flip(root / name, int(row["offset"]) + 500)
    report = _check(root)
    assert report.problems == (
        Problem(name, "bytes that do not match its SHA-256"),
        Problem(name, "bytes that do not match their checksum", 70, split.source(70)),
    )
    assert (
        report.lines()[-1] == f"{name}, sample 70 (from {split.source(70)!r}): bytes that do not match their checksum"
    )
    assert [row[-1] for row in report.rows()[1:]] == ["2", "0", "0", "2"]


def test_a_flipped_bit_of_raw_pixels(raw: Path) -> None:
    _flip(raw / "train/full.raw.npy", 128 + 48 * 5)
    assert [(problem.sample, problem.cause) for problem in _check(raw).problems] == [
        (None, "bytes that do not match its SHA-256"),
        (5, "bytes that do not match their checksum"),
    ]


def test_a_truncated_shard_names_every_lost_sample(root: Path) -> None:
    with (root / "val/full-00000.tar").open("r+b") as file:
        file.truncate(20_000)
    opened = np.load(root / "val/full.index.npy")
    lost = set(np.flatnonzero(opened["offset"] + opened["length"] > 20_000).tolist())
    problems = [problem for problem in _check(root).problems if problem.file == "val/full-00000.tar"]
    assert "20,000 of " in problems[0].cause
    assert {problem.sample for problem in problems if "the shard ends too early" in problem.cause} == lost


def test_a_missing_shard_and_a_missing_index_are_both_found(root: Path) -> None:
    (root / "train/full-00001.tar").unlink()
    (root / "val/40.index.npy").unlink()
    problems = {problem.file: problem.cause for problem in _check(root).problems}
    assert problems["train/full-00001.tar"] == "No such file or directory"
    assert problems["val/40.index.npy"] == "No such file or directory"
    assert problems["val/40-00000.tar"] == "samples not checked: the index cannot be opened"


def test_swapped_indexes(root: Path) -> None:
    for first, second in (("full", "temp"), ("40", "full"), ("temp", "40")):
        (root / f"val/{first}.index.npy").rename(root / f"val/{second}.index.npy")
    causes = {problem.cause for problem in _check(root).problems}
    assert {"bytes that do not match its SHA-256", "no member of the tar where the index points"} <= causes


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ({"label": 1}, "the label '0' in the tar, 1 in the index"),
        ({"label": 9}, "labels from 0 to 9 for 3 classes"),
        ({"shard": 7}, "shard 7 of 1"),
        ({"offset": 2**40}, "samples beyond the end of their shard"),
        ({"width": 7}, "px, not 7 x "),
    ],
)
def test_an_index_that_does_not_fit_the_shards(root: Path, values: dict[str, int], cause: str) -> None:
    sample = int(np.flatnonzero(np.load(root / "val/full.index.npy")["label"] == 0)[0])
    _change_index(root, "val/full.index.npy", sample, **values)
    assert any(cause in problem.cause for problem in _check(root).problems)


def test_a_jpeg_that_does_not_decode_although_its_checksum_fits(root: Path) -> None:
    row = np.load(root / "val/full.index.npy")[3]
    _flip(root / "val/full-00000.tar", int(row["offset"]))
    content = (root / "val/full-00000.tar").read_bytes()[int(row["offset"]) : int(row["offset"] + row["length"])]
    _adopt(root, "val/full-00000.tar")
    _change_index(root, "val/full.index.npy", 3, crc32c=crc32c(content))
    (problem,) = _check(root).problems
    assert (problem.file, problem.sample) == ("val/full-00000.tar", 3)
    assert "not a picture that can be read" in problem.cause


def test_renditions_whose_labels_differ(root: Path) -> None:
    label = int(np.load(root / "val/40.index.npy")["label"][0])
    _change_index(root, "val/40.index.npy", 0, label=(label + 1) % 3)
    assert "labels that differ from those of the full rendition" in [problem.cause for problem in _check(root).problems]


def test_sources_that_are_too_few(root: Path) -> None:
    lines = (root / "val/sources.jsonl").read_text().splitlines(keepends=True)
    (root / "val/sources.jsonl").write_text("".join(lines[:-1]))
    _adopt(root, "val/sources.jsonl")
    assert _check(root).problems == (Problem("val/sources.jsonl", "11 lines for 12 samples"),)


def test_a_raw_array_of_another_shape(raw: Path) -> None:
    array = np.load(raw / "val/full.raw.npy")
    np.save(raw / "val/full.raw.npy", array.reshape(len(array), 6, 8, 1)[:-1])
    _adopt(raw, "val/full.raw.npy")
    assert "an array of (5, 6, 8, 1) that the index does not fit" in [problem.cause for problem in _check(raw).problems]


def test_what_is_no_dataset_cannot_be_checked(tmp_path: Path, root: Path) -> None:
    with pytest.raises(DataError, match="need a finished dataset"):
        check(tmp_path)
    facts = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(dataset.sealed(facts | {"splits": {"train": {}}}))
    with pytest.raises(DataError, match=r"KeyError 'renditions' in dataset\.json"):
        check(root)
    (root / "dataset.json").write_text(json.dumps(facts | {"version": 2}))
    with pytest.raises(DataError, match="made by a newer eighteen"):
        check(root)
