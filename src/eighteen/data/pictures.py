"""A picture as a person has it -> as a dataset holds it: upright, gray or RGB, 8 bits, a baseline JPEG or raw pixels.

A baseline JPEG (8-bit, gray or YCbCr, upright) is kept bit for bit unless a maximum side asks for less, or the native
decoder finds that libjpeg-turbo warns of it. Everything else is decoded, turned upright as its EXIF says, laid on white
where it is transparent, and encoded once as a 4:2:0 JPEG: the subsampling of cameras and the web, half the decoding of
4:4:4. Of an animation the first frame is taken. Every picture is decoded whole: what breaks off is refused, never
filled in.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from eighteen.data import native
from eighteen.data.index import MAX_PIXELS
from eighteen.data.jpegs import JpegHeader, read_header

MAX_MEMORY = 512 * 2**20  # bytes to decode a picture in
# What a pixel takes: in Pillow, and beside it in decoders that hold the picture whole.
PIXEL, BESIDE = 4, {"WEBP": 12, "AVIF": 12, "JPEG2000": 12}
MAX_SCANS, MAX_PASSES = 100, 10 * MAX_PIXELS  # of a progressive JPEG, as native/jpeg.cpp; scans times pixels
MIN_SHARE = 512  # pixels of a JPEG that a byte can hold at most: a bit for each block of 64
MAX_JPEG_SIDE = 65_500  # libjpeg's limit
# Formats that are pictures only: EPS, for one, is a program, and Pillow would start Ghostscript for it.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM")

ARITHMETIC = 0xC9  # frames of arithmetic coding, in which a block may take less than a bit
STRIP = 512  # rows that are laid on white together

_ORIENTATION = 0x0112  # the EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Noise without FF bytes: as entropy-coded data it decodes to anything but flat blocks.
_NOISE = hashlib.shake_128(b"more data").digest(256).replace(b"\xff", b"")


@dataclass(frozen=True)
class Target:
    """What pictures are made into."""

    max_side: int | None = None  # the longer side of the full rendition is at most this, in px
    quality: int = 90  # of JPEGs that are encoded here
    renditions: tuple[int, ...] = ()  # short sides of the smaller renditions, in px
    raw_channels: int | None = None  # 1 or 3: raw pixels with so many channels; None: JPEGs


@dataclass(frozen=True)
class Encoded:
    """One rendition of one picture."""

    content: bytes  # a JPEG, or raw pixels: uint8, [height, width, channels]
    width: int
    height: int
    rows: bytes = field(default=b"", compare=False, repr=False)  # of ROW_DTYPE, see ``rows``


@dataclass(frozen=True)
class Prepared:
    full: Encoded
    renditions: tuple[Encoded, ...]  # in the order of Target.renditions
    channels: int  # 1 gray, 3 RGB
    converted: str | None  # what had to be converted ("PNG", "CMYK JPEG", "resized" ...); None: kept bit for bit


@dataclass(frozen=True)
class Refused:
    reason: str


class Unreadable(ValueError):
    """These bytes are no picture that can be used; the text says why."""


def prepare(content: bytes, target: Target) -> Prepared | Refused:
    """Turn the bytes of a picture file into what ``target`` asks for, or say why they cannot be used."""
    try:
        image, converted = decode(content)
        return fit(image, target, converted=converted, content=content)
    except Unreadable as error:
        return Refused(str(error))
    except MemoryError:
        return Refused(f"not enough memory to decode its {len(content):,} bytes")


def decode(content: bytes) -> tuple[Image.Image, str | None]:
    """The whole picture in these bytes, upright, mode L or RGB; and what it was, if it is not an upright baseline JPEG.

    raises Unreadable
    """
    header = read_header(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata; large pictures are refused by _open
        image = _open(content)
        _check_cost(image, header, content)
        kind = _kind(image, header, content)
        _load(image)
    if header is not None and header.frame in (0xC0, 0xC1) and _is_padded(content, header, image):
        raise Unreadable("the JPEG's data end before its last block")
    turn = _UPRIGHT.get(_orientation(image))
    image = _to_gray_or_rgb(image)
    if turn is not None:
        image, kind = image.transpose(turn), f"rotated {kind or 'JPEG'}"
    return image, kind


def fit(image: Image.Image, target: Target, *, converted: str | None, content: bytes | None = None) -> Prepared:
    """An upright L or RGB picture -> what ``target`` asks for.

    content: the file; it is kept where ``converted`` is None and nothing has to change
    raises Unreadable if the picture cannot be a JPEG
    """
    channels = len(image.getbands())
    size = _limited(image.size, target.max_side)
    if size != image.size:
        image, converted = _resize(image, size), converted or "resized"
    changes = converted or target.raw_channels
    full = _encode(image, target) if content is None or changes else _jpeg(content, image.size)
    smaller = tuple(_shrunk(image, side, full, target) for side in target.renditions)
    return Prepared(full, smaller, channels, converted)


def probe(content: bytes, max_side: int | None = None) -> tuple[int, int, int] | None:
    """From its header: the width, height and channels that a picture will have; None if it cannot be opened.

    Much cheaper than ``prepare``; it may promise what a broken picture cannot keep.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = _open(content)
            turned = _orientation(image) >= 5
    except Unreadable:
        return None
    width, height = _limited((image.height, image.width) if turned else image.size, max_side)
    return width, height, 1 if image.mode in ("1", "L", "LA", "La", "I", "F") or image.mode.startswith("I;16") else 3


def _open(content: bytes) -> Image.Image:
    if not content:
        raise Unreadable("an empty file")
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.UnidentifiedImageError:
        raise Unreadable(f"not a picture that can be read: it begins with {content[:12]!r}") from None
    except Exception as error:  # decoders meet bytes from anywhere and raise anything
        raise Unreadable(_reason(error)) from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise Unreadable(f"{width:,} x {height:,} pixels, more than {MAX_PIXELS:,}: a decompression bomb?")
    if not width or not height:
        raise Unreadable(f"{width} x {height} pixels")
    return image


def _check_cost(image: Image.Image, header: JpegHeader | None, content: bytes) -> None:
    """Refuse what would take more memory or time than pictures of its size do, before either is spent."""
    pixels, bytes_each = image.width * image.height, PIXEL + BESIDE.get(image.format or "", 0)
    if image.has_transparency_data:
        bytes_each += PIXEL
    if image.format in ("JPEG", "MPO"):
        if pixels > MIN_SHARE * len(content) and (header is None or header.frame < ARITHMETIC):
            raise Unreadable("the JPEG's data end before its last block")
        if header is None or header.frame not in (0xC0, 0xC1):
            scans = content.count(b"\xff\xda", 0, header.end if header else None)
            if scans > MAX_SCANS or scans * pixels > MAX_PASSES:
                raise Unreadable(f"{scans:,} scans of {pixels:,} pixels: a bomb?")
            bytes_each += 2 * len(image.getbands())  # a progressive one's coefficients
    if pixels * bytes_each > MAX_MEMORY:
        raise Unreadable(
            f"{image.width:,} x {image.height:,} pixels of {bytes_each} bytes, more than {MAX_MEMORY:,} bytes"
        )


def _load(image: Image.Image) -> None:
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:  # see _open
        raise Unreadable(_reason(error)) from error


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # broken metadata around sound pixels: upright, as viewers show it
        return 1
    return value if isinstance(value, int) else 1


def _kind(image: Image.Image, header: JpegHeader | None, content: bytes) -> str | None:
    """What a picture is, in a word or two; None for a baseline JPEG that nothing is wrong with."""
    if image.format not in ("JPEG", "MPO"):
        return image.format or "unknown format"
    if header is None:
        return "JPEG with odd headers"
    if header.baseline:
        return "JPEG with warnings" if native.warning(content, image.size) else None
    if image.mode == "CMYK":
        return "CMYK JPEG"
    if header.is_rgb:
        return "RGB JPEG"
    names = {0xC0: "16-bit-table", 0xC1: "extended", 0xC2: "progressive", 0xC9: "arithmetic", 0xCA: "arithmetic"}
    return f"{names.get(header.frame, 'unusual')} JPEG"


def _is_padded(content: bytes, header: JpegHeader, image: Image.Image) -> bool:
    """Whether a JPEG's scan ends too early although its end marker is there.

    libjpeg fills up with flat blocks and only warns, which Pillow does not pass on. So, where the last block is flat,
    put noise before the end marker: a complete scan never reads it, a short one does and comes out different. (A loss
    within the chroma of the very last block goes unseen.)
    """
    if header.end is None:
        return True
    width, height = image.size
    last = image.crop((width - 1 - (width - 1) % 8, height - 1 - (height - 1) % 8, width, height))
    if np.ptp(np.asarray(last), axis=(0, 1)).any():
        return False
    try:
        noisy = Image.open(io.BytesIO(content[: header.end] + _NOISE + content[header.end :]), formats=("JPEG",))
        return noisy.tobytes() != image.tobytes()
    except Exception:  # only a scan that wants more data can stumble over them
        return True


def _to_gray_or_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _to_8_bits(image)
    gray = image.mode in ("1", "L", "LA", "La")
    try:
        mode = "L" if gray else "RGB"
        if image.has_transparency_data:
            return _on_white(image, mode)
        return image if image.mode == mode else image.convert(mode)
    except (ValueError, OSError) as error:
        raise Unreadable(f"mode {image.mode}: {_reason(error)}") from error


def _on_white(image: Image.Image, mode: str) -> Image.Image:
    """In strips, since each step takes a copy."""
    laid = Image.new(mode, image.size)
    for top in range(0, image.height, STRIP):
        strip = image.crop((0, top, image.width, min(top + STRIP, image.height))).convert("RGBA")
        laid.paste(Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip).convert(mode), (0, top))
    return laid


def _to_8_bits(image: Image.Image) -> Image.Image:
    """16-bit integers and floats in [0, 1] are scaled; numbers whose white nobody knows are refused."""
    wide = np.asarray(image)
    low, high = float(wide.min()), float(wide.max())
    if image.mode == "F":
        if not (low >= 0 and high <= 1):
            raise Unreadable(f"floats from {low:g} to {high:g}, outside [0, 1]")
        return Image.fromarray(np.rint(wide * 255).astype(np.uint8))
    if low < 0 or high > 65535:
        raise Unreadable(f"integers from {low:g} to {high:g}, outside 0..65535")
    return Image.fromarray(((wide.astype(np.uint32) + 128) // 257).astype(np.uint8))


def _limited(size: tuple[int, int], max_side: int | None) -> tuple[int, int]:
    return size if max_side is None or max(size) <= max_side else _scaled(size, max_side / max(size))


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    # reducing_gap: a box filter down to 3 times the size, then Lanczos; several times faster, no visible difference.
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def _shrunk(image: Image.Image, side: int, full: Encoded, target: Target) -> Encoded:
    scale = side / min(image.size)
    return full if scale >= 1 else _encode(_resize(image, _scaled(image.size, scale)), target)


def _encode(image: Image.Image, target: Target) -> Encoded:
    if target.raw_channels:
        return Encoded(image.convert("L" if target.raw_channels == 1 else "RGB").tobytes(), *image.size)
    if max(image.size) > MAX_JPEG_SIDE:
        raise Unreadable(f"a side of {max(image.size):,} px, more than a JPEG's {MAX_JPEG_SIDE:,}")
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=target.quality, subsampling="4:2:0")
    return _jpeg(buffer.getvalue(), image.size)


def _jpeg(content: bytes, size: tuple[int, int]) -> Encoded:
    return Encoded(content, *size, native.rows(content).tobytes())
