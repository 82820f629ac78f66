"""Rows of blocks: found when a picture is packed, so that a crop is read from its first row on, to the same pixels."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eighteen.base.errors import DataError
from eighteen.data import dataset, native
from eighteen.data.check import check
from eighteen.data.dataset import Rendition
from eighteen.data.native import NativeDecoder
from eighteen.data.pack import pack
from eighteen.data.rows import ROW_DTYPE
from eighteen.data.shards import crc32c
from eighteen.demo.pictures import picture

pytestmark = pytest.mark.native
NUM = 12


def jpeg(number: int, width: int, height: int, **options: object) -> bytes:
    file = io.BytesIO()
    image = picture(number % 10, number, seed=3)[0].resize((width, height))
    image.convert("L" if number % 5 == 0 else "RGB").save(file, "JPEG", quality=85, **options)
    return file.getvalue()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(NUM):
        path = tmp_path / "source" / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number, 97 + 8 * number, 150 - 7 * number, subsampling=number % 3))
    pack(tmp_path / "source", tmp_path / "packed.e18", val=0.0, renditions=[40])
    return tmp_path / "packed.e18"


def random_crops(rendition: Rendition, *, seed: int, size: int = 24) -> np.ndarray:
    rng, rows = np.random.default_rng(seed), rendition.index
    sides = np.stack([rows["width"], rows["height"]], 1)
    low = np.floor(rng.random((NUM, 2)) * sides)
    boxes = np.concatenate([low, 1 + np.floor(rng.random((NUM, 2)) * (sides - low - 1))], 1).astype(np.float32)
    out = np.zeros((NUM, size, size, 3), np.uint8)
    decoder = NativeDecoder(2)
    try:
        decoder.start(rendition, np.arange(NUM), boxes, rng.random(NUM) < 0.5, out).result().whole()
    finally:
        decoder.close()
    return out


@pytest.mark.parametrize("name", ["full", "40"])
def test_crops_are_the_same_with_and_without(root: Path, name: str) -> None:
    rendition = dataset.open(root).splits["train"].renditions[name]
    assert rendition.rows
    assert (rendition.rows.places["num"] > 1).all()
    for seed in range(30):
        without = random_crops(dataclasses.replace(rendition, rows=None), seed=seed)
        np.testing.assert_array_equal(random_crops(rendition, seed=seed), without)


def test_a_part_of_a_rendition_keeps_its_rows(root: Path) -> None:
    rendition = dataset.open(root).splits["train"].renditions["full"]
    turned = rendition.of(np.arange(NUM)[::-1])
    for seed in range(5):
        without = random_crops(dataclasses.replace(turned, rows=None), seed=seed)
        np.testing.assert_array_equal(random_crops(turned, seed=seed), without)


def test_what_lies_above_a_crop_is_not_read(root: Path) -> None:
    """Rows that point to other rows give other pixels: so they are what is followed."""
    rendition = dataset.open(root).splits["train"].renditions["full"]
    assert rendition.rows
    rows, places = rendition.rows.rows.copy(), rendition.rows.places.copy()
    rows["bit"][1::2] = 0
    places["crc32c"] = [crc32c(rows[at["first"] : at["first"] + at["num"]].tobytes()) for at in places]
    astray = dataclasses.replace(rendition, rows=dataclasses.replace(rendition.rows, rows=rows, places=places))
    assert (random_crops(astray, seed=1) != random_crops(rendition, seed=1)).any()


def test_a_dataset_without_rows_opens_and_gives_the_same(root: Path) -> None:
    digest = dataset.open(root).digest
    expected = random_crops(dataset.open(root).splits["train"].renditions["full"], seed=5)
    facts = json.loads((root / "dataset.json").read_text())
    for rendition in facts["splits"]["train"]["renditions"].values():
        for key in ("rows", "places"):
            (root / rendition.pop(key)["file"]).unlink()
    (root / "dataset.json").write_text(dataset.sealed(facts))
    older = dataset.open(root).splits["train"].renditions["full"]
    assert older.rows is None
    assert dataset.open(root).digest == digest
    np.testing.assert_array_equal(random_crops(older, seed=5), expected)


def test_a_flipped_bit_in_the_rows_names_the_sample_and_the_file(root: Path) -> None:
    rendition = dataset.open(root).splits["train"].renditions["full"]
    assert rendition.rows
    path, place = root / "train/full.rows.npy", rendition.rows.places[7]
    content = bytearray(path.read_bytes())
    content[len(content) - (len(rendition.rows.rows) - int(place["first"])) * ROW_DTYPE.itemsize + 5] ^= 4
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"sample 7 of .*shard|sample 7 of .*full-00000.tar") as caught:
        random_crops(dataset.open(root).splits["train"].renditions["full"], seed=0)
    assert "rows of blocks" in caught.value.got
    assert [problem.file for problem in check(root).problems] == ["train/full.rows.npy"]


@pytest.mark.parametrize("name", ["train/full.rows.npy", "train/full.places.npy"])
def test_files_that_hold_anything_else_are_refused(root: Path, name: str) -> None:
    facts, wrong = json.loads((root / "dataset.json").read_text()), io.BytesIO()
    np.save(wrong, np.zeros(3))
    (root / name).write_bytes(wrong.getvalue())
    key = name.split(".")[1]
    facts["splits"]["train"]["renditions"]["full"][key]["bytes"] = len(wrong.getvalue())
    (root / "dataset.json").write_text(dataset.sealed(facts))
    with pytest.raises(DataError, match="rows of blocks"):
        dataset.open(root)


@pytest.mark.parametrize("first", [10_000, 2**63, 2**64 - 1])
def test_places_beyond_the_last_row_are_refused(root: Path, first: int) -> None:
    places = np.load(root / "train/full.places.npy")
    places["first"][-1] = first
    np.save(root / "train/full.places.npy", places)
    with pytest.raises(DataError, match="rows of blocks"):
        dataset.open(root)


def test_pictures_that_are_not_plain_have_none() -> None:
    assert len(native.rows(jpeg(1, 64, 64)))
    assert not len(native.rows(jpeg(1, 64, 64, progressive=True)))
    assert not len(native.rows(jpeg(1, 64, 64, restart_marker_blocks=2)))
    assert not len(native.rows(jpeg(1, 64, 64)[:-80]))
    assert not len(native.rows(b"no picture"))


def test_a_file_that_ends_in_the_middle_of_a_marker_is_not_plain() -> None:
    content = jpeg(1, 64, 64)
    assert content.endswith(b"\xff\xd9")
    assert len(native.rows(content))
    assert not len(native.rows(content[:-1] + b"\xff"))


def test_one_row_for_each_eight_or_sixteen_lines() -> None:
    assert len(native.rows(jpeg(1, 50, 33, subsampling=0))) == 5
    assert len(native.rows(jpeg(1, 50, 33, subsampling=2))) == 3
    assert Image.open(io.BytesIO(jpeg(5, 50, 33))).mode == "L"
    assert len(native.rows(jpeg(5, 50, 33))) == 5
