"""Whether mirrored pictures still mean the same."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

import eighteen
from eighteen.training import chirality
from eighteen.training.resolve import resolve


def drawn(signs: str, *, mirrored: bool, count: int = 2400) -> tuple[np.ndarray, np.ndarray]:
    """Signs at random places and sizes, a class each; half of them mirrored, if asked for."""
    random = np.random.default_rng(0)
    labels = random.integers(len(signs), size=count)
    pictures = np.zeros((count, 28, 28, 1), np.uint8)
    for picture, label in zip(pictures, labels, strict=True):
        canvas = Image.new("L", (28, 28))
        font = ImageFont.load_default(size=int(random.integers(16, 23)))
        place = (int(random.integers(5, 12)), int(random.integers(0, 5)))
        ImageDraw.Draw(canvas).text(place, signs[label], fill=255, font=font)
        picture[..., 0] = np.asarray(canvas)
        if mirrored and random.random() < 0.5:
            picture[:] = picture[:, ::-1]
    return pictures, labels


@pytest.mark.parametrize(
    ("signs", "mirrored", "flip"),
    [("0123456789", False, False), ("bdpqsz", False, False), ("AHMTO38", True, "alternate")],
)
def test_digits_and_text_are_not_mirrored_and_what_lies_either_way_is(tmp_path, signs, mirrored, flip):
    dataset = eighteen.pack({"train": drawn(signs, mirrored=mirrored)}, tmp_path / "signs.e18")
    said: list[str] = []
    recipe = resolve("tiny", dataset, say=said.append, changes=["augment.flip=auto"])
    assert recipe.augment.flip == flip
    assert recipe.eval.tta == ("crops" if flip else "none"), "its views have mirror images"
    assert [line for line in said if line.startswith("mirrored pictures mean")]
    asked = resolve("tiny", dataset, say=said.append, changes=["augment.flip='alternate'"])
    assert asked.augment.flip == "alternate"


def test_the_finding_is_the_same_each_time_and_noise_is_not_chiral():
    random = np.random.default_rng(1)
    pictures = random.integers(0, 256, (1000, chirality.SIDE, chirality.SIDE, 3)).astype(np.uint8)
    labels = random.integers(0, 10, 1000)
    first, second = (chirality.compare(pictures, labels, num_classes=10) for _ in range(2))
    assert first == second
    assert not first.is_chiral
