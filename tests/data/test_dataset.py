from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eighteen.base.errors import DataError
from eighteen.data import dataset
from eighteen.data.pack import pack


@pytest.fixture(scope="module")
def jpegs(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    dest = tmp_path_factory.mktemp("packed") / "jpegs.e18"
    pack(pictures, dest, renditions=(40,), shard_bytes=2**17, procs=1)
    return dest


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dest = tmp_path_factory.mktemp("packed") / "raw.e18"
    pixels = np.random.default_rng(0).integers(0, 256, (60, 8, 6, 1), np.uint8)
    pack((pixels, np.arange(60) % 3), dest, procs=1)
    return dest


@pytest.fixture
def copy(jpegs: Path, tmp_path: Path) -> Path:
    return shutil.copytree(jpegs, tmp_path / "copy.e18")


def _edit(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    facts = json.loads((root / "dataset.json").read_text())
    change(facts)
    (root / "dataset.json").write_text(dataset.sealed(facts))


def _fails(root: Path, text: str) -> None:
    with pytest.raises(DataError) as caught:
        dataset.open(root)
    assert text in str(caught.value)
    assert "Try: " in str(caught.value)


def test_a_dataset_says_what_is_in_it(jpegs: Path, pictures: Path) -> None:
    opened = dataset.open(jpegs)
    assert opened.classes == tuple(sorted(path.name for path in pictures.iterdir()))
    assert {name: split.num_samples for name, split in opened.splits.items()} == {"train": 108, "val": 12}
    assert opened.channels == 3
    assert len(opened.mean) == len(opened.std) == 3
    assert opened.made["options"]["renditions"] == [40]


def test_samples_are_the_source_s_pictures(jpegs: Path, pictures: Path) -> None:
    for split in dataset.open(jpegs).splits.values():
        full = split.renditions["full"]
        assert full.kind == "jpeg"
        assert split.labels.dtype == np.int64
        for sample in range(split.num_samples):
            assert full.read(sample) == (pictures / split.source(sample)).read_bytes()


def test_all_renditions_are_in_one_order(jpegs: Path) -> None:
    for split in dataset.open(jpegs).splits.values():
        full, small = split.renditions["full"].index, split.renditions["40"].index
        np.testing.assert_array_equal(full["label"], small["label"])
        np.testing.assert_array_equal(np.minimum(small["width"], small["height"]), 40)
        np.testing.assert_allclose(full["width"] / full["height"], small["width"] / small["height"], atol=0.03)


def test_raw_pixels_are_mapped_and_read(raw: Path) -> None:
    rendition = dataset.open(raw).splits["train"].renditions["full"]
    assert rendition.kind == "raw"
    assert isinstance(rendition.pixels, np.memmap)
    assert rendition.pixels.shape == (54, 8, 6, 1)
    for sample in range(54):
        np.testing.assert_array_equal(rendition.read_raw(sample), rendition.pixels[sample])


def test_many_threads_may_read_at_once(jpegs: Path) -> None:
    rendition = dataset.open(jpegs).splits["train"].renditions["full"]
    assert len(rendition.shards) > 1
    alone = [rendition.read(sample) for sample in range(108)]
    again = dataset.open(jpegs).splits["train"].renditions["full"]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(again.read, list(range(108)) * 5)) == alone * 5


def test_the_digest_is_of_the_content(copy: Path, jpegs: Path) -> None:
    assert dataset.open(copy).digest == dataset.open(jpegs).digest
    _edit(copy, lambda facts: facts["classes"].reverse())
    assert dataset.open(copy).digest != dataset.open(jpegs).digest


def test_what_is_no_dataset(tmp_path: Path) -> None:
    _fails(tmp_path / "nowhere.e18", "got nothing there")
    _fails(tmp_path, "got no dataset.json in it, need a finished dataset")
    (tmp_path / "file").write_text("x")
    _fails(tmp_path / "file", "got a file")
    (tmp_path / "dataset.json").write_text("{}")
    _fails(tmp_path, "something that eighteen did not write")
    (tmp_path / "dataset.json").write_text('{"format"')
    _fails(tmp_path, "restore the file")


def test_an_unfinished_pack_does_not_open(copy: Path) -> None:
    (copy / "dataset.json").unlink()
    (copy / ".pack").mkdir()
    _fails(copy, "no dataset.json in it: the pack never finished")


def test_a_newer_format_is_said(copy: Path) -> None:
    _edit(copy, lambda facts: facts.update(version=2, made={"eighteen": "9.9"}))
    _fails(copy, "got format version 2: made by a newer eighteen (9.9), need format version 1 or older")


def test_a_description_that_lacks_something(copy: Path) -> None:
    _edit(copy, lambda facts: facts["splits"]["val"].pop("samples"))
    _fails(copy, "KeyError 'samples' in what it says")


def test_a_missing_shard(copy: Path) -> None:
    (copy / "train/full-00001.tar").unlink()
    _fails(copy, "train/full-00001.tar: got No such file or directory")


def test_a_truncated_shard(copy: Path) -> None:
    shard = copy / "train/full-00001.tar"
    num_bytes = shard.stat().st_size
    with shard.open("r+b") as file:
        file.truncate(num_bytes - 512)
    _fails(copy, f"train/full-00001.tar: got {num_bytes - 512:,} of {num_bytes:,} bytes")


def test_an_index_of_another_rendition(copy: Path) -> None:
    shutil.copy(copy / "train/40.index.npy", copy / "train/full.index.npy")
    _fails(copy, "an index that does not match the one that was written")


def test_an_index_of_another_length(copy: Path) -> None:
    shutil.copy(copy / "val/full.index.npy", copy / "train/full.index.npy")
    _fails(copy, "train/full.index.npy")
    num_bytes = (copy / "val/full.index.npy").stat().st_size
    _edit(copy, lambda facts: facts["splits"]["train"]["renditions"]["full"]["index"].update(bytes=num_bytes))
    _fails(copy, "an index of 12 samples, not 108")


def test_a_flipped_bit_is_found_when_its_sample_is_read(copy: Path) -> None:
    split = dataset.open(copy).splits["train"]
    rendition = split.renditions["full"]
    row = rendition.index[70]
    shard = copy / rendition.shards[row["shard"]]
    content = bytearray(shard.read_bytes())
    content[int(row["offset"]) + 100] ^= 1
    shard.write_bytes(content)
    rendition.read(69)
    with pytest.raises(DataError) as caught:
        rendition.read(70)
    assert f"read sample 70 of {rendition.shards[row['shard']]} in {copy} (from {split.source(70)!r})" in str(
        caught.value
    )
    assert "bytes that do not match their checksum" in str(caught.value)


def test_a_shard_that_is_cut_while_it_is_open(copy: Path) -> None:
    rendition = dataset.open(copy).splits["val"].renditions["full"]
    with (copy / "val/full-00000.tar").open("r+b") as file:
        file.truncate(2000)
    with pytest.raises(DataError, match="the shard ends too early"):
        rendition.read(11)


def test_an_index_too_long_to_be_looked_at_whole_is_looked_at_where_it_is_used(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "MOST_CHECKED", 50)
    path = copy / "train" / "full.index.npy"
    index = np.load(path)
    index["label"][7] = 3
    np.save(path, index)
    full = dataset.open(copy).splits["train"].renditions["full"]
    full.require_sound(np.array([5, 6, 8]))
    with pytest.raises(DataError, match=r"labels from \d to 3 for 3 classes"):
        full.require_sound(np.array([5, 7]))
