"""Pictures as large as photographs, and as hard to decode: sheets of drawn ones, for measuring.

A folder goes in; ``folder/sheets.e18``, the dataset packed from them, with its renditions, comes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from eighteen.data.pack import pack
from eighteen.demo.pictures import CLASSES, picture

WIDTH, HEIGHT = 500, 375  # what most pictures of ImageNet have
TILE = 100  # px, of a drawn picture on a sheet
QUALITY = 95  # of the JPEG: 90 KB then; ImageNet's have 110
RENDITIONS = (352, 256)


def pack_sheets(folder: Path, *, num_sheets: int = 40, renditions: Sequence[int] = RENDITIONS) -> Path:
    """Draw sheets and pack them, all as train."""
    source, dataset = folder / "sheets", folder / "sheets.e18"
    for number in range(num_sheets):
        path = source / CLASSES[number % 2] / f"{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet(number).save(path, quality=QUALITY)
    pack(source, dataset, val=0.0, renditions=renditions, procs=1)
    return dataset


def sheet(number: int, *, seed: int = 18) -> Image.Image:
    """The sheet with this number: other drawn pictures than on any other."""
    whole = Image.new("RGB", (WIDTH, HEIGHT))
    places = [(left, top) for top in range(0, HEIGHT, TILE) for left in range(0, WIDTH, TILE)]
    for count, place in enumerate(places):
        drawn, _ = picture(count % len(CLASSES), number * len(places) + count, seed=seed)
        whole.paste(drawn.resize((TILE, TILE)), place)
    return whole
