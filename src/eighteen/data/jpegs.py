"""What a JPEG says about itself: bytes go in, the facts of its headers come out, undecoded (ITU-T T.81, annex B)."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SOI, _EOI, _SOS, _DQT, _APP0, _APP14, _SOF0 = 0xD8, 0xD9, 0xDA, 0xDB, 0xE0, 0xEE, 0xC0
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0..SOF15 without DHT, JPG and DAC
# In entropy-coded data FF 00 is a byte FF, FF D0..D7 are restarts and FF FF is filling: anything else ends the scan.
_END_OF_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)


@dataclass(frozen=True)
class JpegHeader:
    frame: int  # the SOF marker: 0xC0 baseline, 0xC2 progressive, ...
    precision: int  # bits of a component
    components: bytes  # their ids
    is_rgb: bool  # stored without the YCbCr transform
    wide_tables: bool  # 16-bit quantisation tables
    end: int | None  # offset of the end-of-image marker; None where it is missing

    @property
    def baseline(self) -> bool:
        """Whether every JPEG decoder, in hardware too, can read it: 8-bit sequential Huffman, gray or YCbCr."""
        gray_or_color = len(self.components) in (1, 3) and not self.is_rgb
        return self.frame == _SOF0 and self.precision == 8 and gray_or_color and not self.wide_tables


def read_header(content: bytes) -> JpegHeader | None:
    """The headers of the first picture in ``content``, or None where they do not follow the standard to the letter."""
    frame, precision, components, transform, jfif, wide_tables = None, 0, b"", None, False, False
    place = 2
    if content[:2] != bytes((0xFF, _SOI)):
        return None
    while True:
        marker, body, place = _segment(content, place)
        if marker in _FRAMES:
            frame, precision, components = marker, body[0], body[6 : 6 + 3 * body[5] : 3]
        elif marker == _APP0 and body[:5] == b"JFIF\0":
            jfif = True
        elif marker == _APP14 and body[:5] == b"Adobe" and len(body) >= 12:
            transform = body[11]
        elif marker == _DQT:
            wide_tables |= _has_wide_table(body)
        elif marker == _SOS and frame is not None:
            is_rgb = (
                len(components) == 3
                and not jfif
                and (transform == 0 if transform is not None else components == b"RGB")
            )
            return JpegHeader(frame, precision, components, is_rgb, wide_tables, _end_of_image(content, place))
        elif marker is None or marker in (_SOS, _EOI):
            return None


def _segment(content: bytes, place: int) -> tuple[int | None, bytes, int]:
    """The marker at ``place`` (None where there is none), what its segment holds, and where the next begins."""
    while content[place : place + 2] == b"\xff\xff":  # filling before a marker
        place += 1
    if place + 4 > len(content) or content[place] != 0xFF:
        return None, b"", place
    marker, length = content[place + 1], int.from_bytes(content[place + 2 : place + 4], "big")
    body, after = content[place + 4 : place + 2 + length], place + 2 + length
    if length < 2 or after > len(content) or (marker in _FRAMES and len(body) < 9):
        return None, b"", place
    return marker, body, after


def _has_wide_table(body: bytes) -> bool:
    place = 0
    while place < len(body):
        if body[place] >> 4:
            return True
        place += 65
    return False


def _end_of_image(content: bytes, place: int) -> int | None:
    """From the first byte of a scan: go from scan to scan up to the end-of-image marker."""
    while found := _END_OF_SCAN.search(content, place):
        if content[found.start() + 1] == _EOI:
            return found.start()
        marker, _, place = _segment(content, found.start())
        if marker is None:
            return None
    return None
