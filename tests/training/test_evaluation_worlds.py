"""Evaluation is exact: every sample once and the same counts on any number of real ranks, square or not, with TTA or
without."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_evaluation import SETTINGS

import eighteen
from eighteen.data.dataset import Dataset

PROGRAM = Path(__file__).with_name("small_evaluation.py")
SIDES = [(1, 1), (2, 90), (90, 2), (97, 31), (31, 97), (64, 64), (33, 95), (50, 50), (51, 49), (120, 40), (7, 300)]


def pack_odd(folder: Path, num_val: int, *, gray: bool = False) -> Dataset:
    """JPEGs of odd sizes in 3 classes."""
    rng = np.random.default_rng(0)
    for split, count in {"train": 6, "val": num_val}.items():
        for number in range(count):
            width, height = SIDES[number % len(SIDES)]
            picture = rng.integers(0, 256, (height, width, 3), np.uint8)
            save(folder / "source" / split / f"class {number % 3}" / f"{number}.jpg", picture, gray=gray)
    return eighteen.pack(folder / "source", folder / "odd.e18", procs=1)


def save(path: Path, pixels: np.ndarray, *, gray: bool) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert("L" if gray else "RGB").save(path, quality=95)


@pytest.mark.parametrize(
    ("num_val", "gray", "sizes"),
    [
        pytest.param(23, False, (1, 2, 3), id="no-multiple-of-batch-or-world"),
        pytest.param(5, True, (1, 3, 7), id="fewer-pictures-than-ranks-and-gray"),
    ],
)
def test_counts_are_the_same_on_any_number_of_ranks(tmp_path, num_val, gray, sizes):
    data = pack_odd(tmp_path, num_val, gray=gray)
    assert data.channels == (1 if gray else 3)
    arguments = [str(data.path), str(tmp_path), ",".join(map(str, sizes))]
    done = subprocess.run([sys.executable, str(PROGRAM), *arguments], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    alone = np.load(tmp_path / "1-0.npz")
    labels = np.bincount(data.splits["val"].labels, minlength=3)
    for name in SETTINGS:
        assert alone[f"{name} confusion"].sum(1).tolist() == labels.tolist(), "each sample once"
        plain = name.replace("flip", "none").replace("crops", "none")
        for part in ("confusion", "calibration"):
            assert np.array_equal(alone[f"{name} {part}"], alone[f"{plain} {part}"]), "TTA changes no plain number"
        has_tta = not np.isnan(alone[f"{name} scores"][3])
        assert has_tta == ("none" not in name)
        for size in sizes[1:]:
            for rank in range(size):
                found = np.load(tmp_path / f"{size}-{rank}.npz")
                assert np.array_equal(found[f"{name} confusion"], alone[f"{name} confusion"])
                assert np.array_equal(found[f"{name} calibration"][:, [0, 2]], alone[f"{name} calibration"][:, [0, 2]])
                assert np.array_equal(found[f"{name} scores"][:5], alone[f"{name} scores"][:5], equal_nan=True)
                assert found[f"{name} scores"][5] == pytest.approx(alone[f"{name} scores"][5], rel=1e-12)
