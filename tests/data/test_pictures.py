from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eighteen.data import native
from eighteen.data.jpegs import read_header
from eighteen.data.pictures import Encoded, Prepared, Refused, Target, Unreadable, decode, prepare, probe

ORIENTATION = 0x0112


def _picture(width: int = 96, height: int = 64, mode: str = "RGB") -> Image.Image:
    """Smooth, with four corners that differ: red, green, blue and white."""
    corners = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)
    image = Image.fromarray(corners).resize((width, height), Image.Resampling.BILINEAR)
    return image.convert(mode)


def _saved(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def _prepared(content: bytes, target: Target | None = None) -> Prepared:
    result = prepare(content, target or Target())
    assert isinstance(result, Prepared), result
    return result


def _refused(content: bytes) -> str:
    result = prepare(content, Target())
    assert isinstance(result, Refused)
    return result.reason


def _pixels(encoded: Encoded) -> np.ndarray:
    image = Image.open(io.BytesIO(encoded.content))
    assert image.size == (encoded.width, encoded.height)
    return np.asarray(image).astype(int)


def _is_like(encoded: Encoded, image: Image.Image, most: float = 4) -> bool:
    return float(np.abs(_pixels(encoded) - np.asarray(image).astype(int)).mean()) < most


# What is kept


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
def test_a_baseline_jpeg_is_kept_bit_for_bit(mode: str, subsampling: str) -> None:
    content = _saved(_picture(mode=mode), "JPEG", quality=77, subsampling=subsampling)
    prepared = _prepared(content)
    assert prepared == Prepared(Encoded(content, 96, 64), (), len(mode), None)


def test_so_is_one_whose_exif_says_upright_or_nonsense() -> None:
    exif = Image.Exif()
    for value in (1, 0, 99):
        exif[ORIENTATION] = value
        content = _saved(_picture(), "JPEG", exif=exif)
        assert _prepared(content).full.content == content


# What is converted


@pytest.mark.parametrize(
    ("format", "options", "kind"),
    [
        ("PNG", {}, "PNG"),
        ("WEBP", {"lossless": True}, "WEBP"),
        ("BMP", {}, "BMP"),
        ("TIFF", {}, "TIFF"),
        ("PPM", {}, "PPM"),
        ("JPEG", {"progressive": True, "quality": 95}, "progressive JPEG"),
        ("JPEG", {"keep_rgb": True, "quality": 95}, "RGB JPEG"),
    ],
)
def test_other_formats_become_baseline_jpegs(format: str, options: dict[str, Any], kind: str) -> None:
    prepared = _prepared(_saved(_picture(), format, **options))
    header = read_header(prepared.full.content)
    assert prepared.converted == kind
    assert header is not None
    assert header.baseline
    assert _is_like(prepared.full, _picture())


@pytest.mark.native
def test_a_jpeg_that_libjpeg_warns_of_is_encoded_anew() -> None:
    sound = _saved(_picture(), "JPEG", quality=95, restart_marker_rows=1)
    odd = sound.replace(b"\xff\xd1", b"\xff\xd5", 1)
    assert _prepared(sound).converted is None
    prepared = _prepared(odd)
    assert prepared.converted == "JPEG with warnings"
    assert native.warning(prepared.full.content, (96, 64)) is None


def test_cmyk_becomes_rgb() -> None:
    prepared = _prepared(_saved(_picture(mode="CMYK"), "JPEG", quality=95))
    assert prepared.converted == "CMYK JPEG"
    assert _is_like(prepared.full, _picture())


def test_gray_stays_gray() -> None:
    assert _prepared(_saved(_picture(mode="L"), "PNG")).channels == 1
    assert _prepared(_saved(_picture(mode="1"), "PNG")).channels == 1
    assert _prepared(_saved(_picture(mode="P"), "PNG")).channels == 3


TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,  # the camera turned it the other way
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
def test_pictures_are_turned_upright(orientation: int, format: str) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    content = _saved(
        _picture().transpose(TURNS[orientation]), format, exif=exif, **({"quality": 95} if format == "JPEG" else {})
    )
    prepared = _prepared(content)
    assert (prepared.full.width, prepared.full.height) == (96, 64)
    assert _is_like(prepared.full, _picture())
    assert Image.open(io.BytesIO(prepared.full.content)).getexif().get(ORIENTATION) is None
    if format == "JPEG":
        assert prepared.converted == "rotated JPEG"
        assert probe(content) == (96, 64, 3)


def test_what_is_transparent_is_laid_on_white() -> None:
    image = _picture(mode="RGBA")
    image.putalpha(Image.new("L", image.size, 0))
    assert _pixels(_prepared(_saved(image, "PNG")).full).min() >= 254
    half = Image.new("LA", (32, 32), (0, 127))
    prepared = _prepared(_saved(half, "PNG"))
    assert prepared.channels == 1
    np.testing.assert_allclose(_pixels(prepared.full), 128, atol=1)
    palette = Image.new("P", (16, 16), 0)
    palette.putpalette([0, 0, 0])
    assert _pixels(_prepared(_saved(palette, "PNG", transparency=0)).full).min() >= 254


def test_16_bits_are_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    expected = np.rint(ramp / 257).astype(int)
    for format in ("PNG", "TIFF"):
        prepared = _prepared(_saved(Image.fromarray(ramp), format))
        assert np.abs(_pixels(prepared.full) - expected).max() <= 6


def test_floats_in_0_to_1_are_scaled_and_others_refused() -> None:
    ramp = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
    assert np.abs(_pixels(_prepared(_saved(Image.fromarray(ramp), "TIFF")).full) - ramp * 255).max() <= 6
    assert "outside [0, 1]" in _refused(_saved(Image.fromarray(ramp * 9), "TIFF"))
    assert "outside [0, 1]" in _refused(_saved(Image.fromarray(ramp * np.nan), "TIFF"))


def test_of_an_animation_the_first_frame_is_taken() -> None:
    content = _saved(_picture(), "GIF", save_all=True, append_images=[Image.new("RGB", (96, 64))])
    assert _is_like(_prepared(content).full, _picture(), most=12)  # 256 colours


# Sizes


def test_max_side_shrinks_and_never_enlarges() -> None:
    content = _saved(_picture(400, 200), "JPEG")
    prepared = _prepared(content, Target(max_side=100))
    assert (prepared.full.width, prepared.full.height, prepared.converted) == (100, 50, "resized")
    assert _is_like(prepared.full, _picture(100, 50))
    assert _prepared(content, Target(max_side=400)).full.content == content


def test_renditions_have_their_short_side_and_are_never_enlarged() -> None:
    content = _saved(_picture(300, 200), "JPEG")
    prepared = _prepared(content, Target(renditions=(100, 50, 200, 999)))
    sizes = [(one.width, one.height) for one in prepared.renditions]
    assert sizes == [(150, 100), (75, 50), (300, 200), (300, 200)]
    assert [one.content == content for one in prepared.renditions] == [False, False, True, True]
    assert _is_like(prepared.renditions[1], _picture(75, 50))


def test_raw_pixels_have_the_channels_asked_for() -> None:
    content = _saved(_picture(8, 6, "L"), "PNG")
    for channels in (1, 3):
        full = _prepared(content, Target(raw_channels=channels)).full
        pixels = np.frombuffer(full.content, np.uint8).reshape(6, 8, channels)
        np.testing.assert_array_equal(pixels, np.repeat(np.asarray(_picture(8, 6, "L"))[..., None], channels, 2))


# What is refused


def test_broken_files_are_refused_with_a_reason() -> None:
    assert _refused(b"") == "an empty file"
    assert "it begins with b'hello'" in _refused(b"hello")
    assert "not a picture" in _refused(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")


@pytest.mark.parametrize(
    ("format", "options"),
    [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {}), ("GIF", {}), ("BMP", {}), ("TIFF", {})],
)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_what_breaks_off_is_refused(format: str, options: dict[str, Any], share: float) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))
    content = _saved(noise, format, **options)
    assert _refused(content[: int(len(content) * share)])


@pytest.mark.parametrize("lost", [1, 2])
def test_a_jpeg_without_its_last_bytes_is_refused(lost: int) -> None:
    assert "truncated" in _refused(_saved(_picture(), "JPEG")[:-lost])


@pytest.mark.parametrize(("size", "lost"), [((96, 64), 200), ((97, 63), 150), ((33, 9), 100)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_jpeg_whose_data_end_early_is_refused_although_it_has_an_end_marker(
    size: tuple[int, int], lost: int, mode: str
) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)).convert(mode)
    content = _saved(noise, "JPEG")
    assert _refused(content[:-lost] + b"\xff\xd9") == "the JPEG's data end before its last block"


def test_a_flat_picture_is_whole_all_the_same() -> None:
    for color in ("white", "black", "gray"):
        content = _saved(Image.new("RGB", (100, 50), color), "JPEG")
        assert _prepared(content).full.content == content


def test_bombs_are_refused_by_their_headers() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    for width, height in ((10_001, 10_000), (60_000, 60_000), (2**31 - 1, 1)):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        content = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
        assert "bomb" in _refused(content)
        assert probe(content) is None


def test_decode_raises_for_what_prepare_refuses() -> None:
    with pytest.raises(Unreadable, match="an empty file"):
        decode(b"")


def test_a_header_is_read_with_filling_and_without_standard_order() -> None:
    content = _saved(_picture(), "JPEG")
    header = read_header(content[:2] + b"\xff\xff\xff" + content[2:])
    assert header is not None
    assert header.baseline
    assert read_header(content[:2] + b"junk" + content[2:]) is None
    assert read_header(content[:100]) is None
