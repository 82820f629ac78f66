"""The reference decoder is what Pillow does by hand, picture by picture."""

from __future__ import annotations

import dataclasses
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eighteen.base.errors import DataError
from eighteen.data.dataset import Origins, Rendition
from eighteen.data.index import INDEX_DTYPE
from eighteen.data.reference import decode_into
from eighteen.data.shards import crc32c
from eighteen.demo.pictures import picture


@pytest.fixture(scope="module")
def pool():
    with ThreadPoolExecutor(2) as pool:
        yield pool


def jpeg(width: int, height: int, mode: str = "RGB", seed: int = 0) -> bytes:
    image = picture(seed % 10, seed, seed=7)[0].convert(mode).resize((width, height))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


def stored(folder: Path, contents: list[bytes], sizes: list[tuple[int, int]]) -> Rendition:
    """A rendition of these bytes, one after the other in one shard."""
    index = np.zeros(len(contents), INDEX_DTYPE)
    index["offset"] = np.cumsum([0, *map(len, contents)])[:-1]
    index["length"] = [len(content) for content in contents]
    index["width"], index["height"] = zip(*sizes, strict=True)
    index["crc32c"] = [crc32c(content) for content in contents]
    (folder / "shard.tar").write_bytes(b"".join(contents))
    (folder / "sources").write_text("".join(f'"{n}.jpg"\n' for n in range(len(contents))))
    return Rendition("jpeg", index, folder, ("shard.tar",), None, Origins(folder / "sources"))


def raw(pixels: np.ndarray) -> Rendition:
    index = np.zeros(len(pixels), INDEX_DTYPE)
    index["crc32c"] = [crc32c(one.tobytes()) for one in pixels]
    return Rendition("raw", index, Path(), ("pixels.npy",), pixels, Origins(Path("none")))


def decode(rendition, boxes, *, size, channels, pool, samples=None, flips=None):
    samples = np.arange(len(boxes)) if samples is None else np.array(samples)
    flips = np.zeros(len(boxes), bool) if flips is None else np.array(flips)
    out = np.full((len(boxes), *size, channels), 77, np.uint8)
    timings = decode_into(rendition, samples, np.array(boxes, np.float32).reshape(-1, 4), flips, out, pool)
    assert timings.read_s >= 0
    assert timings.decode_s >= 0
    return out


def by_hand(content, box, size, mode="RGB"):
    left, top, width, height = box
    image = Image.open(io.BytesIO(content)).convert(mode)
    resized = image.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=(left, top, left + width, top + height))
    return np.asarray(resized).reshape(*size, -1)


def test_pictures_are_what_pillow_makes_of_them_by_hand(tmp_path, pool):
    sizes = [(100 + 3 * n, 90 + 2 * n) for n in range(40)]
    contents = [jpeg(*size, seed=n) for n, size in enumerate(sizes)]
    rng = np.random.default_rng(1)
    corner = rng.integers(0, 30, (40, 2))
    boxes = np.concatenate([corner, rng.integers(30, 60, (40, 2))], axis=1)
    flips = rng.random(40) < 0.5
    samples = rng.permutation(40)
    out = decode(
        stored(tmp_path, contents, sizes), boxes, size=(32, 48), channels=3, pool=pool, samples=samples, flips=flips
    )
    for pixels, sample, box, flip in zip(out, samples, boxes, flips, strict=True):
        expected = by_hand(contents[sample], box, (32, 48))
        assert np.array_equal(pixels, expected[:, ::-1] if flip else expected)


@pytest.mark.parametrize("shrink", [2, 4, 8])
def test_large_jpegs_are_shrunk_while_decoding_as_far_as_the_target_allows(tmp_path, pool, shrink):
    content = jpeg(603, 401)
    rendition, box = stored(tmp_path, [content], [(603, 401)]), (31, 20, 40 * shrink + 9, 40 * shrink)
    pixels = decode(rendition, [box], size=(40, 40), channels=3, pool=pool)[0]
    image = Image.open(io.BytesIO(content))
    image.draft("RGB", (603 // shrink, 401 // shrink))
    assert image.size == (-(-603 // shrink), -(-401 // shrink))
    left, top, width, height = (edge / shrink for edge in box)
    expected = image.resize((40, 40), Image.Resampling.BILINEAR, box=(left, top, left + width, top + height))
    assert np.array_equal(pixels, np.asarray(expected))
    difference = pixels.astype(float) - by_hand(content, box, (40, 40))
    assert np.sqrt((difference**2).mean()) < 10  # of 255: the same picture, in the same place, a little sharper


@pytest.mark.parametrize(("stored_as", "channels", "mode"), [("RGB", 1, "L"), ("L", 3, "RGB"), ("L", 1, "L")])
def test_channels_are_as_asked_for(tmp_path, pool, stored_as, channels, mode):
    content = jpeg(60, 50, stored_as)
    pixels = decode(
        stored(tmp_path, [content], [(60, 50)]), [(0, 0, 60, 50)], size=(40, 40), channels=channels, pool=pool
    )[0]
    expected = by_hand(content, (0, 0, 60, 50), (40, 40), mode)
    assert np.abs(pixels.astype(int) - expected).max() <= 1  # gray comes straight from the JPEG's luma


@pytest.mark.parametrize("channels", [1, 3])
def test_whole_raw_pictures_are_copied(pool, channels):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 8, 10, channels), np.uint8)
    samples, flips = [5, 0, 8], [True, False, True]
    out = decode(
        raw(pixels), [(0, 0, 10, 8)] * 3, size=(8, 10), channels=channels, pool=pool, samples=samples, flips=flips
    )
    assert np.array_equal(out, np.stack([pixels[5, :, ::-1], pixels[0], pixels[8, :, ::-1]]))


def test_whole_raw_pictures_are_verified_first(tmp_path, pool):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 8, 10, 1), np.uint8)
    (tmp_path / "sources").write_text('"a"\n' * 9)
    rendition = dataclasses.replace(raw(pixels), source=Origins(tmp_path / "sources"))
    pixels[7, 3, 3] ^= 1
    with pytest.raises(
        DataError, match=r"read sample 7 of pixels\.npy .*\n?.*got bytes that do not match their checksum"
    ):
        decode(rendition, [(0, 0, 10, 8)], size=(8, 10), channels=1, pool=pool, samples=[0])


@pytest.mark.parametrize("channels", [1, 3])
def test_parts_of_raw_pictures_are_resized_as_pillow_does(tmp_path, pool, channels):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 20, 20, channels), np.uint8)
    rendition = stored(tmp_path, [one.tobytes() for one in pixels], [(20, 20)] * 3)
    rendition = Rendition("raw", rendition.index, tmp_path, rendition.shards, pixels, rendition.source)
    out = decode(rendition, [(2, 3, 15, 12)] * 3, size=(8, 8), channels=channels, pool=pool, flips=[False, True, False])
    for sample, flip in enumerate([False, True, False]):
        image = Image.fromarray(pixels[sample] if channels == 3 else pixels[sample, :, :, 0])
        expected = np.asarray(image.resize((8, 8), Image.Resampling.BILINEAR, box=(2, 3, 17, 15))).reshape(8, 8, -1)
        assert np.array_equal(out[sample], expected[:, ::-1] if flip else expected)


def test_no_samples_are_no_work(tmp_path, pool):
    rendition = stored(tmp_path, [jpeg(20, 20)], [(20, 20)])
    assert decode(rendition, [], size=(8, 8), channels=3, pool=pool).shape == (0, 8, 8, 3)


@pytest.mark.parametrize("damage", [lambda content: content[: len(content) // 2], lambda content: b"no picture"])
def test_what_cannot_be_decoded_is_named(tmp_path, pool, damage):
    contents = [jpeg(64, 64, seed=n) for n in range(30)]
    contents[17] = damage(contents[17])
    rendition = stored(tmp_path, contents, [(64, 64)] * 30)
    with pytest.raises(DataError, match=r"decode sample 17 of shard\.tar in .*\(from '17\.jpg'\): got \w+: .*image"):
        decode(rendition, [(0, 0, 64, 64)] * 30, size=(32, 32), channels=3, pool=pool)


def test_bytes_that_are_not_those_packed_are_named(tmp_path, pool):
    rendition = stored(tmp_path, [jpeg(64, 64)], [(64, 64)])
    rendition.index["crc32c"] ^= 1
    with pytest.raises(DataError, match=r"read sample 0 of shard\.tar"):
        decode(rendition, [(0, 0, 64, 64)], size=(32, 32), channels=3, pool=pool)
