"""One picture as a person has it -> the pixels that evaluation would have made of it.

In: a path, a PIL image or a uint8 array, and a ``Card``. Out: [C, H, W] uint8. A file's bytes go through
``data.pictures`` as in packing, then through the decoder of evaluation; a PIL image or an array is taken for the PNG
that would hold it.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eighteen.data import pictures
from eighteen.data.crops import eval_boxes, moved, rectangle
from eighteen.data.decoding import decode
from eighteen.data.index import MAX_BYTES
from eighteen.data.pictures import Encoded, Refused, Target, Unreadable
from eighteen.training.card import Card

Picture = str | PathLike[str] | Image.Image | NDArray[np.uint8]

_PNG_MODES = ("1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA")


def prepare(picture: Picture, card: Card) -> NDArray[np.uint8]:
    """[C, H, W] uint8, as the card has it: a square, or with ``rect`` a batch of this picture alone.

    raises Unreadable, which says why, if it is no whole picture
    """
    return prepare_moved(picture, card, ())[0]


def prepare_moved(picture: Picture, card: Card, ways: Sequence[tuple[int, int]]) -> list[NDArray[np.uint8]]:
    """The same, and behind it as many other crops, see ``data.crops.moved``."""
    packed = pictures.prepare(_content(picture), Target(raw_channels=card.channels if card.kind == "raw" else None))
    if isinstance(packed, Refused):
        raise Unreadable(packed.reason)
    return _decode(packed.full, card, ways)


def _content(picture: Picture) -> bytes:
    if isinstance(picture, str | PathLike):
        return _read(Path(picture))
    return _png(_image(picture) if isinstance(picture, np.ndarray) else picture)


def _read(path: Path) -> bytes:
    """The bytes of a file, if they are not too many for a picture."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise Unreadable(getattr(error, "strerror", None) or str(error)) from error
    if len(content) > MAX_BYTES:
        raise Unreadable(f"more than {MAX_BYTES:,} bytes")
    return content


def _image(pixels: NDArray[np.uint8]) -> Image.Image:
    shape = pixels.shape[:2] if pixels.shape[2:] == (1,) else pixels.shape
    if pixels.dtype != np.uint8 or len(shape) not in (2, 3) or shape[2:] not in ((), (3,)) or 0 in shape:
        raise Unreadable(f"an array {pixels.dtype} {list(pixels.shape)}, not uint8 [H, W], [H, W, 1] or [H, W, 3]")
    return Image.fromarray(np.ascontiguousarray(pixels.reshape(shape)))


def _png(image: Image.Image) -> bytes:
    """Without loss, and with the EXIF that says which side is up; modes that PNG has not become RGB."""
    file = io.BytesIO()
    try:
        kept = image if image.mode in _PNG_MODES else image.convert("RGB")
        kept.save(file, "PNG", compress_level=1, exif=image.getexif())
    except (OSError, ValueError, SyntaxError) as error:  # a file that was opened lazily turns out broken only here
        raise Unreadable(str(error)) from error
    return file.getvalue()


def _decode(packed: Encoded, card: Card, ways: Sequence[tuple[int, int]]) -> list[NDArray[np.uint8]]:
    width, height = rectangle(card.size, packed.width / packed.height) if card.rect else (card.size, card.size)
    widths, heights = np.array([packed.width]), np.array([packed.height])
    central = eval_boxes(widths, heights, crop=card.crop, ratio=width / height)
    boxes = [central, *(moved(central, widths, heights, way) for way in ways)]
    source = packed.content
    if card.kind == "raw":
        source = np.frombuffer(source, np.uint8).reshape(packed.height, packed.width, card.channels)
    size, shape = (packed.width, packed.height), (height, width, card.channels)
    return [decode(source, box[0].tolist(), size, shape).transpose(2, 0, 1) for box in boxes]
