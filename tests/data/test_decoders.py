"""What every decoder does: the reference what Pillow does by hand bit for bit, the native one but for rounding."""

from __future__ import annotations

import dataclasses
import io
import os
import subprocess
import sys
from concurrent.futures import CancelledError
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from eighteen.base.errors import DataError
from eighteen.data.dataset import Origins, Rendition
from eighteen.data.index import INDEX_DTYPE
from eighteen.data.native import LIBJPEG, NativeDecoder, library
from eighteen.data.native import decode as native_decode
from eighteen.data.reference import ReferenceDecoder
from eighteen.data.reference import decode as reference_decode
from eighteen.data.shards import crc32c
from eighteen.demo.pictures import picture

ROUNDING = {ReferenceDecoder: 0, NativeDecoder: 2}  # most that a pixel may differ: Pillow rounds twice, we once


@pytest.fixture(
    scope="module",
    params=[ReferenceDecoder, pytest.param(NativeDecoder, marks=pytest.mark.native)],
    ids=["reference", "native"],
)
def decoder(request):
    decoder = request.param(2)
    yield decoder
    decoder.close()


def close_to(pixels, expected, decoder):
    return np.abs(pixels.astype(int) - expected).max() <= ROUNDING[type(decoder)]


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


def decode(rendition, boxes, *, size, channels, decoder, samples=None, flips=None):
    samples = np.arange(len(boxes)) if samples is None else np.array(samples)
    flips = np.zeros(len(boxes), bool) if flips is None else np.array(flips)
    out = np.full((len(boxes), *size, channels), 77, np.uint8)
    timings = decoder.start(rendition, samples, np.array(boxes, np.float32).reshape(-1, 4), flips, out).result().whole()
    assert timings.read_s >= 0
    assert timings.decode_s >= 0
    return out


def by_hand(content, box, size, mode="RGB"):
    left, top, width, height = box
    image = Image.open(io.BytesIO(content)).convert(mode)
    resized = image.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=(left, top, left + width, top + height))
    return np.asarray(resized).reshape(*size, -1)


def test_pictures_are_what_pillow_makes_of_them_by_hand(tmp_path, decoder):
    sizes = [(100 + 3 * n, 90 + 2 * n) for n in range(40)]
    contents = [jpeg(*size, seed=n) for n, size in enumerate(sizes)]
    rng = np.random.default_rng(1)
    corner = rng.integers(0, 30, (40, 2))
    boxes = np.concatenate([corner, rng.integers(30, 60, (40, 2))], axis=1)
    flips = rng.random(40) < 0.5
    samples = rng.permutation(40)
    out = decode(
        stored(tmp_path, contents, sizes),
        boxes,
        size=(32, 48),
        channels=3,
        decoder=decoder,
        samples=samples,
        flips=flips,
    )
    for pixels, sample, box, flip in zip(out, samples, boxes, flips, strict=True):
        expected = by_hand(contents[sample], box, (32, 48))
        assert close_to(pixels, expected[:, ::-1] if flip else expected, decoder)


@pytest.mark.parametrize("shrink", [2, 4, 8])
def test_large_jpegs_are_shrunk_while_decoding_as_far_as_the_target_allows(tmp_path, decoder, shrink):
    content = jpeg(603, 401)
    rendition, box = stored(tmp_path, [content], [(603, 401)]), (31, 20, 40 * shrink + 9, 40 * shrink)
    pixels = decode(rendition, [box], size=(40, 40), channels=3, decoder=decoder)[0]
    image = Image.open(io.BytesIO(content))
    image.draft("RGB", (603 // shrink, 401 // shrink))
    assert image.size == (-(-603 // shrink), -(-401 // shrink))
    left, top, width, height = (edge / shrink for edge in box)
    expected = image.resize((40, 40), Image.Resampling.BILINEAR, box=(left, top, left + width, top + height))
    assert close_to(pixels, np.asarray(expected), decoder)
    difference = pixels.astype(float) - by_hand(content, box, (40, 40))
    assert np.sqrt((difference**2).mean()) < 10  # of 255: the same picture, in the same place, a little sharper


@pytest.mark.parametrize(("stored_as", "channels", "mode"), [("RGB", 1, "L"), ("L", 3, "RGB"), ("L", 1, "L")])
def test_channels_are_as_asked_for(tmp_path, decoder, stored_as, channels, mode):
    content = jpeg(60, 50, stored_as)
    pixels = decode(
        stored(tmp_path, [content], [(60, 50)]), [(0, 0, 60, 50)], size=(40, 40), channels=channels, decoder=decoder
    )[0]
    expected = by_hand(content, (0, 0, 60, 50), (40, 40), mode)
    assert (
        np.abs(pixels.astype(int) - expected).max() <= 1 + ROUNDING[type(decoder)]
    )  # gray comes straight from the JPEG's luma


@pytest.mark.parametrize("channels", [1, 3])
def test_parts_of_raw_pictures_are_resized_as_pillow_does(tmp_path, decoder, channels):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 20, 20, channels), np.uint8)
    rendition = stored(tmp_path, [one.tobytes() for one in pixels], [(20, 20)] * 3)
    rendition = Rendition("raw", rendition.index, tmp_path, rendition.shards, pixels, rendition.source)
    out = decode(
        rendition, [(2, 3, 15, 12)] * 3, size=(8, 8), channels=channels, decoder=decoder, flips=[False, True, False]
    )
    for sample, flip in enumerate([False, True, False]):
        image = Image.fromarray(pixels[sample] if channels == 3 else pixels[sample, :, :, 0])
        expected = np.asarray(image.resize((8, 8), Image.Resampling.BILINEAR, box=(2, 3, 17, 15))).reshape(8, 8, -1)
        assert close_to(out[sample], expected[:, ::-1] if flip else expected, decoder)


def test_no_samples_are_no_work(tmp_path, decoder):
    rendition = stored(tmp_path, [jpeg(20, 20)], [(20, 20)])
    assert decode(rendition, [], size=(8, 8), channels=3, decoder=decoder).shape == (0, 8, 8, 3)


@pytest.mark.parametrize("damage", [lambda content: content[: len(content) // 2], lambda content: b"no picture"])
def test_what_cannot_be_decoded_is_named(tmp_path, decoder, damage):
    contents = [jpeg(64, 64, seed=n) for n in range(30)]
    contents[17] = damage(contents[17])
    rendition = stored(tmp_path, contents, [(64, 64)] * 30)
    with pytest.raises(
        DataError, match=r"decode sample 17 of shard\.tar in .*\(from '17\.jpg'\): got .*(?i:image|jpeg|whole)"
    ):
        decode(rendition, [(0, 0, 64, 64)] * 30, size=(32, 32), channels=3, decoder=decoder)


def test_bytes_that_are_not_those_packed_are_named(tmp_path, decoder):
    rendition = stored(tmp_path, [jpeg(64, 64)], [(64, 64)])
    rendition.index["crc32c"] ^= 1
    with pytest.raises(DataError, match=r"read sample 0 of shard\.tar"):
        decode(rendition, [(0, 0, 64, 64)], size=(32, 32), channels=3, decoder=decoder)


def test_a_shard_that_was_cut_is_named(tmp_path, decoder):
    contents = [jpeg(64, 64, seed=n) for n in range(4)]
    rendition = stored(tmp_path, contents, [(64, 64)] * 4)
    os.truncate(tmp_path / "shard.tar", len(contents[0]) + len(contents[1]) + 10)
    message = rf"read sample 2 of shard\.tar .*got 10 of {len(contents[2])} bytes: the shard ends too early"
    with pytest.raises(DataError, match=message):
        decode(rendition, [(0, 0, 64, 64)] * 4, size=(32, 32), channels=3, decoder=decoder)


def test_a_shard_that_vanished_is_named(tmp_path, decoder):
    rendition = stored(tmp_path, [jpeg(64, 64)], [(64, 64)])
    (tmp_path / "shard.tar").unlink()
    with pytest.raises(DataError, match=r"read sample 0 of shard\.tar .*got No such file"):
        decode(rendition, [(0, 0, 64, 64)], size=(32, 32), channels=3, decoder=decoder)


@pytest.mark.parametrize("clean", [False, True])
def test_warnings_of_libjpeg_matter_where_none_are_expected(tmp_path, decoder, clean):
    """As where it was packed without the native decoder, which alone hears them, or with it."""
    image, file = picture(1, 1, seed=18)[0].resize((64, 64)), io.BytesIO()
    image.save(file, "JPEG", restart_marker_rows=1)
    odd = file.getvalue().replace(b"\xff\xd1", b"\xff\xd5", 1)
    rendition = dataclasses.replace(stored(tmp_path, [odd], [(64, 64)]), clean=clean)
    if clean and isinstance(decoder, NativeDecoder):
        with pytest.raises(
            DataError, match=r"decode sample 0 of .*got a warning: Corrupt JPEG data: found marker 0xd5"
        ):
            decode(rendition, [(0, 0, 64, 64)], size=(48, 48), channels=3, decoder=decoder)
    else:
        pixels = decode(rendition, [(0, 0, 64, 64)], size=(48, 48), channels=3, decoder=decoder)[0]
        assert close_to(pixels, by_hand(odd, (0, 0, 64, 64), (48, 48)), decoder)


def test_batches_under_way_are_cancelled(tmp_path, decoder):
    decoder = type(decoder)(1)
    contents = [jpeg(128, 128, seed=n) for n in range(20)]
    rendition = stored(tmp_path, contents, [(128, 128)] * 20)
    samples, flips = np.arange(20).repeat(50), np.zeros(1000, bool)
    boxes = np.tile(np.array([0, 0, 128, 128], np.float32), (1000, 1))
    started = [decoder.start(rendition, samples, boxes, flips, np.empty((1000, 64, 64, 3), np.uint8)) for _ in range(3)]
    decoder.cancel()
    for batch in started:
        with pytest.raises(CancelledError):
            batch.result()
    decoder.close()
    decoder.cancel()  # again is no harm


@pytest.mark.native
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0", "gray"])
@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    box=st.tuples(*[st.floats(0, 1)] * 4),
    out=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    channels=st.sampled_from([1, 3]),
)
def test_native_is_the_reference_but_for_rounding(subsampling, width, height, box, out, channels):
    """At any size from 1 x 1 up, any box, shrunk or enlarged."""
    pixels = np.random.default_rng(width * 100 + height).integers(0, 256, (height, width, 3), np.uint8)
    image, file = Image.fromarray(pixels), io.BytesIO()
    if subsampling == "gray":
        image.convert("L").save(file, "JPEG", quality=90)
    else:
        image.save(file, "JPEG", quality=90, subsampling=subsampling)
    left, top = int(box[0] * (width - 1)), int(box[1] * (height - 1))
    box = [left, top, max(1, box[2] * (width - left)), max(1, box[3] * (height - top))]
    box, shape = np.array(box, np.float32).tolist(), (*out, channels)
    ours = native_decode(file.getvalue(), box, (width, height), shape)
    assert np.abs(ours.astype(int) - reference_decode(file.getvalue(), box, shape)).max() <= 2


@pytest.mark.native
@pytest.mark.parametrize("length", [*range(20), 3071, 3072, 3073, 10_001])
def test_checksums_are_those_of_the_packer(length):
    content = np.random.default_rng(length).integers(0, 256, length, np.uint8)
    native = library()
    assert native is not None
    assert native.e18_crc32c(content.ctypes.data, length) == crc32c(content.tobytes())


def drawn(width: int, height: int, kind: str, seed: int = 0, **options) -> bytes:
    image, file = picture(seed % 10, seed, seed=7)[0].resize((width, height)), io.BytesIO()
    if kind == "gray":
        image.convert("L").save(file, "JPEG", **options)
    else:
        image.save(file, "JPEG", subsampling=kind, **options)
    return file.getvalue()


KINDS = ["4:4:4", "4:2:2", "4:2:0", "gray"]


@pytest.mark.native
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(
    width=st.integers(1, 130),
    height=st.integers(1, 130),
    box=st.tuples(*[st.floats(0, 1)] * 4),
    out=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    channels=st.sampled_from([1, 3]),
    quality=st.sampled_from([30, 75, 98]),
    restart=st.integers(0, 3),
)
def test_plain_jpegs_are_to_the_bit_what_libjpeg_makes_of_them(
    kind, width, height, box, out, channels, quality, restart
):
    """At any size from 1 x 1 up, any box, shrunk or enlarged."""
    content = drawn(width, height, kind, seed=width, quality=quality, restart_marker_blocks=restart)
    left, top = int(box[0] * (width - 1)), int(box[1] * (height - 1))
    box = [left, top, max(1, box[2] * (width - left)), max(1, box[3] * (height - top))]
    box, shape = np.array(box, np.float32).tolist(), (*out, channels)
    ours, theirs = (native_decode(content, box, (width, height), shape, options=o) for o in (0, LIBJPEG))
    assert np.array_equal(ours, theirs)


@pytest.mark.native
@pytest.mark.parametrize("shrink", [1, 2, 4, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_plain_jpegs_are_shrunk_to_the_bit_as_libjpeg_does(kind, shrink):
    for number, (width, height) in enumerate([(16 * shrink, 16 * shrink), (333, 250), (401, 303), (128, 127)]):
        content = drawn(width, height, kind, seed=number, quality=90, optimize=True)
        box = [0.0, 0.0, float(width), float(height)]
        for channels in (1, 3):
            shape = (height // shrink, width // shrink, channels)
            ours, theirs = (native_decode(content, box, (width, height), shape, options=o) for o in (0, LIBJPEG))
            assert np.array_equal(ours, theirs), (width, height, channels)


@pytest.mark.native
def test_damaged_jpegs_become_the_same_or_are_refused_for_the_same_reason():
    content, rng, refused = drawn(96, 80, "4:2:0", quality=80, restart_marker_rows=1), np.random.default_rng(4), 0
    for _ in range(300):
        damaged = bytearray(content)
        for place in rng.integers(200, len(content), 2):
            damaged[place] = rng.integers(256)
        results = []
        for options in (0, LIBJPEG):
            try:
                results.append(
                    native_decode(bytes(damaged), [0, 0, 96, 80], (96, 80), (80, 96, 3), options=options).tobytes()
                )
            except ValueError as error:
                results.append(str(error))
        assert results[0] == results[1]
        refused += isinstance(results[0], str)
    assert 0 < refused < 300


@pytest.mark.native
def test_portable_instructions_make_the_same_bits():
    """In a process of its own: which instructions are used is settled once."""
    program = """if True:
        import hashlib, sys
        from eighteen.data.native import about, decode
        contents, digest = eval(sys.stdin.read()), hashlib.sha256()
        for content, size in contents:
            for shrink in (1, 2, 4, 8):
                shape = (size[1] // shrink, size[0] // shrink, 3)
                digest.update(decode(content, [0, 0, *size], size, shape, options=0).tobytes())
        print(digest.hexdigest(), "portable" in about())
    """
    sizes = [(97, 83), (160, 128)]
    contents = [(drawn(*size, kind, quality=92), size) for size in sizes for kind in KINDS]
    digests = []
    for instructions in ("portable", "best"):
        told = subprocess.run(
            [sys.executable, "-c", program],
            input=repr(contents),
            env={**os.environ, "EIGHTEEN_INSTRUCTIONS": instructions},
            capture_output=True,
            text=True,
            check=True,
        )
        digests.append(told.stdout.split())
    assert digests[0][1] == "True"
    assert digests[0][0] == digests[1][0]
