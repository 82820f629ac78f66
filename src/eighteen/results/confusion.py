"""A confusion matrix as a picture: a heat map with a row a true class and a column a predicted one.

A cell's colour is its share of the row's samples; up to 20 classes the counts are written in. With many classes the
cells shrink and every n-th is named.
"""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MAX_COUNTED = 20  # classes up to which the counts are written into the cells
MAX_LABEL = 180  # pixels
GAP = 10  # pixels between parts
_NAME_SIZE, _TITLE_SIZE = 13, 15  # pixels

_INK, _FAINT, _PAPER, _EMPTY = (30, 34, 40), (120, 126, 134), (255, 255, 255), (236, 236, 236)
_BLUES = ((247, 250, 253), (198, 220, 239), (107, 174, 214), (33, 113, 181), (8, 48, 107))  # after ColorBrewer
_TICKS = (0.0, 0.01, 0.05, 0.25, 0.5, 1.0)  # shares named at the colour bar

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_FONTS = ("DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "Arial.ttf")


def png(matrix: np.ndarray, classes: tuple[str, ...]) -> bytes:
    """matrix: [K, K] int64, rows the true class -> the picture as a PNG file."""
    file = io.BytesIO()
    draw(matrix, classes).save(file, "PNG", optimize=True)
    return file.getvalue()


def draw(matrix: np.ndarray, classes: tuple[str, ...]) -> Image.Image:
    """matrix: [K, K] int64, rows the true class, columns the predicted one -> RGB picture of 400 to 2,400 pixels."""
    cell = _cell_side(matrix)
    side = cell * len(classes)
    every = max(1, -(-(_NAME_SIZE + 2) // cell))  # labels must not touch
    names = {k: _Label(classes[k], k) for k in range(0, len(classes), every)}
    margin = max(label.width for label in names.values()) + GAP
    left, top = 2 * GAP + _TITLE_SIZE + margin, 2 * GAP + _TITLE_SIZE + margin
    image = Image.new("RGB", (left + side + 8 * GAP, top + side + 2 * GAP), _PAPER)
    image.paste(_heat_map(matrix, cell), (left, top))
    pen = ImageDraw.Draw(image)
    pen.rectangle((left - 1, top - 1, left + side, top + side), outline=_FAINT)
    for k, label in names.items():
        middle = int((k + 0.5) * cell)
        label.draw_row(image, left - GAP // 2, top + middle)
        label.draw_column(image, left + middle, top - GAP // 2)
    if len(classes) <= MAX_COUNTED:
        _write_counts(pen, matrix, cell, left, top)
    title = _font(_TITLE_SIZE)
    pen.text((left + side / 2, GAP), "predicted class", _INK, title, anchor="ma")
    _paste_rotated(image, "true class", GAP, top + side // 2)
    _draw_scale(image, left + side + GAP, top, min(side, 240))
    return image


def _cell_side(matrix: np.ndarray) -> int:
    """Pixels of a cell's side: what the largest count needs, or, without counts, what 1,600 pixels allow."""
    num_classes = len(matrix)
    if num_classes > MAX_COUNTED:
        return max(2, min(24, 1600 // num_classes))
    widest = int(_font(_NAME_SIZE).getlength(f"{matrix.max():,}"))
    return max(44, 320 // num_classes, widest + 12)


def _shares(matrix: np.ndarray) -> np.ndarray:
    """[K, K] float64: each cell's share of its row; a row without samples is all nan."""
    samples = matrix.sum(1, keepdims=True)
    return np.where(samples > 0, matrix / np.maximum(samples, 1), np.nan)


def _colour(shares: np.ndarray) -> np.ndarray:
    """Shares [...] in [0, 1] -> colours [..., 3] uint8, along the square root: rare mistakes are the ones to see."""
    where, stops = np.sqrt(shares), np.linspace(0, 1, len(_BLUES))
    channels = [np.interp(where, stops, channel) for channel in zip(*_BLUES, strict=True)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def _heat_map(matrix: np.ndarray, cell: int) -> Image.Image:
    shares = _shares(matrix)
    pixels = np.where(np.isnan(shares)[..., None], np.array(_EMPTY, np.uint8), _colour(np.nan_to_num(shares)))
    big = pixels.repeat(cell, 0).repeat(cell, 1)
    if cell >= 8:  # a thin white grid, where there is room for one
        big[::cell], big[:, ::cell] = _PAPER, _PAPER
    return Image.fromarray(np.ascontiguousarray(big))


def _write_counts(pen: ImageDraw.ImageDraw, matrix: np.ndarray, cell: int, left: int, top: int) -> None:
    font, shares = _font(_NAME_SIZE), np.nan_to_num(_shares(matrix))
    for row, column in np.argwhere(matrix > 0).tolist():
        ink = _PAPER if shares[row, column] > 0.25 else _INK
        centre = (left + (column + 0.5) * cell, top + (row + 0.5) * cell)
        pen.text(centre, f"{matrix[row, column]:,}", ink, font, anchor="mm")


def _draw_scale(image: Image.Image, x: int, y: int, height: int) -> None:
    """The colour bar, with the shares that its colours stand for."""
    shares = np.linspace(1, 0, height) ** 2
    bar = _colour(shares)[:, None].repeat(14, 1)
    image.paste(Image.fromarray(np.ascontiguousarray(bar)), (x, y))
    pen = ImageDraw.Draw(image)
    for share in _TICKS:
        at = y + (1 - share**0.5) * (height - 1)
        pen.text((x + 14 + GAP // 2, at), f"{share:.0%}", _FAINT, _font(11), anchor="lm")


class _Label:
    """A class name that fits; one that no font here can draw becomes its number in the order of classes."""

    def __init__(self, name: str, index: int) -> None:
        text = name if name.isprintable() and name.strip() else f"#{index}"
        self._font = next((font for font in _fonts(_NAME_SIZE) if _has_all(font, text)), None)
        if self._font is None:
            self._font, text = _font(_NAME_SIZE), f"#{index}"
        self._text = _shortened(text, self._font)
        self.width = int(self._font.getlength(self._text)) + 1

    def draw_row(self, image: Image.Image, right: int, middle: int) -> None:
        ImageDraw.Draw(image).text((right, middle), self._text, _INK, self._font, anchor="rm")

    def draw_column(self, image: Image.Image, middle: int, bottom: int) -> None:
        """Written upwards, ending at the heat map's edge."""
        strip = Image.new("RGB", (self.width, _NAME_SIZE + 5), _PAPER)
        ImageDraw.Draw(strip).text((0, strip.height / 2), self._text, _INK, self._font, anchor="lm")
        turned = strip.transpose(Image.Transpose.ROTATE_90)
        image.paste(turned, (middle - turned.width // 2, bottom - turned.height))


def _paste_rotated(image: Image.Image, text: str, x: int, middle: int) -> None:
    font = _font(_TITLE_SIZE)
    strip = Image.new("RGB", (int(font.getlength(text)) + 1, _TITLE_SIZE + 5), _PAPER)
    ImageDraw.Draw(strip).text((0, strip.height / 2), text, _INK, font, anchor="lm")
    turned = strip.transpose(Image.Transpose.ROTATE_90)
    image.paste(turned, (x, max(0, middle - turned.height // 2)))


@lru_cache
def _fonts(size: int) -> tuple[Font, ...]:
    """The fonts of this machine that we know, then Pillow's own, which is always there."""
    found: list[Font] = []
    for name in _FONTS:
        try:
            found.append(ImageFont.truetype(name, size))
        except OSError:
            continue
    return (*found, ImageFont.load_default(size))


def _font(size: int) -> Font:
    return _fonts(size)[0]


@lru_cache(maxsize=4096)
def _glyph(font: Font, letter: str) -> bytes:
    image = Image.new("L", (2 * _NAME_SIZE, 2 * _NAME_SIZE))
    ImageDraw.Draw(image).text((0, 0), letter, 255, font)
    return image.tobytes()


def _has_all(font: Font, text: str) -> bool:
    r"""Whether a font has every letter of a text: one that it lacks is drawn like \uffff, which no font has."""
    missing = _glyph(font, "\uffff")
    return all(letter == " " or _glyph(font, letter) != missing for letter in set(text))


def _shortened(text: str, font: Font) -> str:
    if font.getlength(text) <= MAX_LABEL:
        return text
    while text and font.getlength(text + "...") > MAX_LABEL:
        text = text[:-1]
    return text + "..."
