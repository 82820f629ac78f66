"""CIFAR-10 as ``shared/data`` has it: a tar of mosaics, 250 pictures of one class each, a folder a class."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

SIDE, ACROSS, DOWN = 32, 25, 10


def cifar10(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{"train": (images [50000, 32, 32, 3] uint8, labels), "val": (images [10000, ...], labels)}, by folder."""
    found: dict[str, list[tuple[np.ndarray, str]]] = {"train": [], "test": []}
    with tarfile.open(path) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isfile() else None
            parts = Path(member.name).parts
            if file and len(parts) >= 3 and parts[-3] in found:
                mosaic = np.asarray(Image.open(io.BytesIO(file.read())).convert("RGB"))
                tiles = mosaic.reshape(DOWN, SIDE, ACROSS, SIDE, 3).swapaxes(1, 2).reshape(-1, SIDE, SIDE, 3)
                found[parts[-3]].append((tiles, parts[-2]))
    classes = sorted({name for _, name in found["train"]})

    def arrays(split: str) -> tuple[np.ndarray, np.ndarray]:
        labels = np.concatenate([np.full(len(tiles), classes.index(name)) for tiles, name in found[split]])
        return np.concatenate([tiles for tiles, _ in found[split]]), labels

    return {"train": arrays("train"), "val": arrays("test")}
