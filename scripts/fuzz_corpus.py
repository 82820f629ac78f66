"""Writes the JPEGs that ``make fuzz`` starts from: every kind that cameras and programs make, small, drawn by the demo.

python scripts/fuzz_corpus.py FOLDER
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

from eighteen.demo.pictures import picture

SIZES = ((1, 1), (7, 9), (16, 16), (33, 31), (64, 48), (129, 97))
MODES = ("RGB", "L", "CMYK")
KINDS = (
    {"subsampling": "4:2:0"},
    {"subsampling": "4:2:2"},
    {"subsampling": "4:4:4", "optimize": True},
    {"subsampling": "4:2:0", "progressive": True},
    {"subsampling": "4:2:0", "restart_marker_rows": 1},
    {"subsampling": "4:4:4", "restart_marker_blocks": 3},
)

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for number, (size, mode, kind) in enumerate(itertools.product(SIZES, MODES, KINDS)):
        image = picture(number % 10, number, seed=18)[0].convert(mode).resize(size)
        image.save(folder / f"{number:03d}.jpg", quality=(40, 75, 95)[number % 3], **kind)
