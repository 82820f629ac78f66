"""Turns of training on small pictures: what takes one, what each gives, and what is left out."""

from __future__ import annotations

import dataclasses
import sys

import pytest

from eighteen.advice import training
from eighteen.base import recipe as recipes
from eighteen.data import dataset as datasets
from eighteen.data.pack import pack


@pytest.fixture(scope="module")
def data(pictures, tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "jpegs.e18"
    pack(pictures, path, val=0.0, procs=1)
    return datasets.open(path)


@pytest.fixture(scope="module")
def recipe():
    return recipes.load("small", changes=["model.args.widths=[8,16]", "train.precision='fp32'"])


def measure(recipe, data, **settings):
    plain = {"compiled": (False,), "batch": 8, "num_steps": 2, "num_rounds": 2, "scale": 0.05}
    return training.bench(recipe, data, **{**plain, **settings})


def test_every_size_is_measured_with_both_kinds_of_pictures_and_against_other_loops(data, recipe):
    told = []
    found = measure(recipe, data, sizes=(32, 48), on_progress=lambda *now: told.append(now))
    names = [row.variant.name for row in found.rows]
    kinds = ("synthetic, eager", "synthetic, eager, bare", "synthetic, eager, lightning", "real, eager")
    assert names == [f"{size} px, {kind}" for size in (32, 48) for kind in kinds]
    assert told[-1] == (24, 24, 0)
    assert (found.num_rounds, found.left_out, [*found.rooflines]) == (2, {}, [32, 48])
    for row in found.rows:
        assert row.images_per_s.low > 0
        is_compared = row.variant.name.endswith("synthetic, eager")
        assert [ratio is not None for ratio in (row.over_bare, row.lightning_over)] == [is_compared] * 2
        assert row.of_roofline == pytest.approx(
            row.images_per_s.median / found.rooflines[row.variant.size].images_per_s
        )


def test_sizes_and_batches_are_those_of_the_recipe_where_none_are_given(data, recipe):
    small = recipes.load(recipe, batch=4)
    found = measure(small, data, batch=None, num_rounds=1, pictures=("synthetic",), rivals=())
    assert [(row.variant.size, row.variant.batch) for row in found.rows] == [(64, 4), (96, 4), (128, 4)]


def test_what_fails_or_has_no_time_left_is_left_out_with_the_reason(data, recipe, monkeypatch):
    def cannot(*_args, **_more):
        raise RuntimeError("no compiler\nmore")

    monkeypatch.setattr("torch.compile", cannot)
    found = measure(recipe, data, sizes=(32,), compiled=(False, True), pictures=("synthetic",), rivals=())
    assert found.left_out == {"32 px, synthetic, compiled": "RuntimeError: no compiler"}
    found = measure(recipe, data, sizes=(32, 48), pictures=("synthetic",), rivals=(), most_s=0.0)
    assert (len(found.rows), found.num_rounds) == (1, 1)
    assert found.left_out == {"48 px, synthetic, eager": "no time was left"}


@pytest.mark.parametrize("name", ["muon", "lars"])
def test_lightning_steps_with_our_own_optimisers_too(data, recipe, name):
    """It computes the loss in a closure, which an optimiser has to call."""
    found = measure(
        recipe.model_copy(update={"optim": recipe.optim.model_copy(update={"name": name})}), data, sizes=(32,)
    )
    assert found.left_out == {}
    assert found.rows[0].lightning_over


def test_a_rival_that_fails_is_left_out_whatever_it_raises(data, recipe, monkeypatch):
    def fails(self, *turn):
        raise LookupError("no such hook")

    monkeypatch.setattr(training._Track, "_lightning_turn", fails)
    found = measure(recipe, data, sizes=(32,), num_rounds=1, pictures=("synthetic",))
    assert found.left_out == {"32 px, synthetic, eager, lightning": "LookupError: no such hook"}
    assert found.rows[0].over_bare
    monkeypatch.setattr(training._Track, "turn", fails)
    with pytest.raises(LookupError):  # a bug of ours stays one
        measure(recipe, data, sizes=(32,), num_rounds=1, pictures=("synthetic",), rivals=())


def test_without_lightning_its_turns_are_left_out(data, recipe, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning", None)
    found = measure(recipe, data, sizes=(32,), num_rounds=1, pictures=("synthetic",))
    assert found.left_out == {
        "32 px, synthetic, eager, lightning": "ImportError: no Lightning to compare with: pip install lightning"
    }
    assert found.rows[0].lightning_over is None


def test_synthetic_pictures_go_without_what_a_bare_loop_lacks(data, recipe):
    row = recipe.flat_phases[0]
    plain = training._shortened(recipe, row, 100, "synthetic", 2)
    full = training._shortened(recipe, row, 100, "real", 2)
    assert (plain.augment.brightness, plain.augment.flip, plain.optim.ema) == (0.0, False, 0.0)
    assert (full.augment, full.optim.ema) == (recipe.augment, recipe.optim.ema)
    assert recipes.parse(full.model_dump()) == full


def test_turns_are_plain_data(data, recipe):
    found = measure(recipe, data, sizes=(32,), num_rounds=1, pictures=("real",))
    assert dataclasses.asdict(found)["rows"][0]["variant"]["pictures"] == "real"
    assert 0 <= found.rows[0].waited.median <= 1


@pytest.mark.soak
def test_compiled_turns_are_measured_too(data, recipe):
    found = measure(recipe, data, sizes=(32, 48), compiled=(True,), pictures=("synthetic",))
    assert found.left_out == {}
    assert [row.variant.compiled for row in found.rows] == [True] * 4
