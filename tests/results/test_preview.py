"""The contact sheet: as many pictures as asked for, with names that any machine can write."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from eighteen.base.recipe import parse
from eighteen.data import dataset as datasets
from eighteen.data.pack import pack
from eighteen.results.preview import contact_sheet


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """30 train pictures, 16 x 16 in gray, of 3 classes."""
    path = tmp_path_factory.mktemp("packed") / "gray.e18"
    pixels = np.random.default_rng(0).integers(0, 256, (30, 16, 16), np.uint8)
    pack((pixels, np.arange(30) % 3), path, val=0.0, procs=1)
    return datasets.open(path)


def recipe_of(*, gray=True, size=16, min_scale=1.0, **augment):
    tree = {"name": "test", "model": {"name": "none"}, "optim": {"batch": 8, "lr": [[0, 0.1], [1, 0]]}}
    phases = [{"epochs": 1, "size": size, "batch": 8, "min_scale": min_scale}]
    tree |= {"phases": phases, "augment": augment, "data": {"gray": gray}, "eval": {"size": size}}
    return parse(tree)


def shown(sheet, dataset, *, flip=False):
    """How many train pictures stand in the sheet pixel by pixel, seven times enlarged."""
    pixels = np.asarray(sheet)[:, :, 0]
    first = pixels[8 + 3 : 8 + 112 : 7, 8 + 3 : 8 + 112 : 7].astype(int)
    stored = dataset.splits["train"].renditions["full"].pixels[..., 0].astype(int)
    return sum(np.abs(first - (one[:, ::-1] if flip else one)).max() <= 1 for one in stored)


@pytest.mark.parametrize("gray", [True, False])
def test_pictures_are_shown_as_they_are(packed, gray):
    sheet = contact_sheet(packed, recipe_of(gray=gray, flip=False), count=5)
    assert sheet.mode == "RGB"
    assert shown(sheet, packed) == 1


def test_the_seed_decides_which(packed):
    recipe = recipe_of()
    first, second, again = (np.asarray(contact_sheet(packed, recipe, count=4, seed=seed)) for seed in (1, 2, 1))
    assert not np.array_equal(first, second)
    assert np.array_equal(first, again)


@pytest.mark.parametrize("count", [1, 2, 7, 32])
def test_there_are_as_many_as_asked_for(packed, count):
    sheet = np.asarray(contact_sheet(packed, recipe_of(), count=count))
    tiles = np.array(sheet.shape[:2]) // (112 + 8)
    assert tiles.prod() >= count
    assert (tiles[0] - 1) * tiles[1] < count


def test_augmented_and_mixed_pictures_have_room_for_both_names(packed):
    changes = {"translate": 2, "cutout": 4, "brightness": 0.4, "mixup": 0.4, "cutmix": 1.0}
    plain, mixed = (contact_sheet(packed, recipe_of(**augment), count=8) for augment in ({}, changes))
    assert mixed.width == plain.width
    assert mixed.height > plain.height


def test_names_in_any_script_can_be_written(packed):
    names = ("花", "line\nbreak and a name far too long for the width of a picture", "цветы ü")
    sheet = contact_sheet(dataclasses.replace(packed, classes=names), recipe_of(), count=30)
    assert sheet.getextrema()[0] == (0, 255)
