"""Raw pictures that are wanted as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eighteen.base.errors import DataError
from eighteen.data.dataset import Origins, Rendition
from eighteen.data.index import INDEX_DTYPE
from eighteen.data.shards import crc32c
from eighteen.data.whole import are_whole, take


def raw(folder: Path, channels: int) -> Rendition:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 8, 10, channels), np.uint8)
    index = np.zeros(len(pixels), INDEX_DTYPE)
    index["crc32c"] = [crc32c(one.tobytes()) for one in pixels]
    (folder / "sources").write_text('"a"\n' * 9)
    return Rendition("raw", index, folder, ("pixels.npy",), pixels, Origins(folder / "sources"))


@pytest.mark.parametrize("channels", [1, 3])
def test_they_are_copied(tmp_path, channels):
    rendition, out = raw(tmp_path, channels), np.empty((3, 8, 10, channels), np.uint8)
    assert are_whole(rendition, np.array([[0, 0, 10, 8]] * 3, np.float32), out)
    timings = take(rendition, np.array([5, 0, 8]), np.array([True, False, True]), out).result().whole()
    assert timings.read_s > 0
    pixels = rendition.pixels
    assert pixels is not None
    assert np.array_equal(out, np.stack([pixels[5, :, ::-1], pixels[0], pixels[8, :, ::-1]]))


@pytest.mark.parametrize(
    ("box", "shape"), [((0, 0, 10, 8), (1, 4, 5, 1)), ((1, 0, 9, 8), (1, 8, 10, 1)), ((0, 0, 10, 8), (1, 8, 10, 3))]
)
def test_parts_and_other_sizes_are_not_whole(tmp_path, box, shape):
    assert not are_whole(raw(tmp_path, 1), np.array([box], np.float32), np.empty(shape, np.uint8))


def test_they_are_verified(tmp_path):
    rendition = raw(tmp_path, 1)
    rendition.index["crc32c"][7] ^= 1
    filled = take(rendition, np.array([0, 7]), np.array([False, True]), np.empty((2, 8, 10, 1), np.uint8)).result()
    assert [*filled.bad] == [1]
    with pytest.raises(
        DataError, match=r"read sample 7 of pixels\.npy .*\n?.*got bytes that do not match their checksum"
    ):
        filled.whole()
