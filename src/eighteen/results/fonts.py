"""Fonts for pictures with text: one that has every letter of it, if this machine has one."""

from __future__ import annotations

from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_NAMES = ("DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "Arial.ttf")


def font_for(text: str, size: int) -> Font | None:
    """The first font known to us that has every letter of ``text``; None if there is none."""
    return next((font for font in fonts(size) if _has_all(font, text)), None)


@lru_cache
def fonts(size: int) -> tuple[Font, ...]:
    """The fonts of this machine that we know, then Pillow's own, which is always there. size: pixels"""
    found: list[Font] = []
    for name in _NAMES:
        try:
            found.append(ImageFont.truetype(name, size))
        except OSError:
            continue
    return (*found, ImageFont.load_default(size))


def fitted(text: str, font: Font, width: float) -> str:
    """The text, or as much of its beginning as is ``width`` pixels wide with dots after it."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _has_all(font: Font, text: str) -> bool:
    r"""Whether a font has every letter of a text: one that it lacks is drawn like \uffff, which no font has."""
    missing = _glyph(font, "\uffff")
    return all(letter == " " or _glyph(font, letter) != missing for letter in set(text))


@lru_cache(maxsize=4096)
def _glyph(font: Font, letter: str) -> bytes:
    image = Image.new("L", (32, 32))
    ImageDraw.Draw(image).text((0, 0), letter, 255, font)
    return image.tobytes()
