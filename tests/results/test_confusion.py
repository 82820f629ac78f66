import io

import numpy as np
import pytest
from PIL import Image

from eighteen.results import confusion


def _matrix(num_classes, right=90):
    return np.eye(num_classes, dtype=np.int64) * right + np.roll(np.eye(num_classes, dtype=np.int64), 1, 1) * 10


@pytest.mark.parametrize("num_classes", [2, 5, 20, 21, 100, 1000])
def test_the_picture_is_neither_too_small_to_read_nor_too_large_to_open(num_classes):
    png = confusion.png(_matrix(num_classes), tuple(f"class {k}" for k in range(num_classes)))
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.mode == "RGB"
        assert min(picture.size) >= 300
        assert max(picture.size) <= 2400


@pytest.mark.parametrize("name", ["バラ", "زهرة", "🌹", "роза", "a\nb", "", " ", "x" * 500, "caf\udce9"])
def test_any_name_can_be_drawn(name):
    assert confusion.draw(_matrix(2), (name, "other")).width < 700


def test_a_name_that_no_font_has_becomes_its_number():
    label = confusion._Label("\U000f0000 private use", 7)
    assert label._text == "#7"


def test_colours_are_shares_of_the_row_not_counts():
    few, many = np.array([[3, 1], [1, 3]]), np.array([[300, 100], [1, 3]])
    assert (confusion._heat_map(few, 8).tobytes()) == confusion._heat_map(many, 8).tobytes()


def test_a_row_without_samples_is_grey_and_not_taken_for_zero():
    picture = confusion._heat_map(np.array([[0, 0], [0, 5]]), 4)
    assert [picture.getpixel(at) for at in ((1, 1), (5, 1), (1, 5), (5, 5))] == [
        (236, 236, 236),
        (236, 236, 236),
        (247, 250, 253),
        (8, 48, 107),
    ]


def test_more_is_darker():
    lightness = confusion._colour(np.linspace(0, 1, 101)).sum(-1, dtype=int)
    assert (np.diff(lightness) <= 0).all()
    assert lightness[1] < lightness[0]  # one in a hundred can be told from none
