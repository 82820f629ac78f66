"""Models: by name, from other weights, frozen up to a stage."""

from __future__ import annotations

import tomllib

import numpy as np
import pytest
import timm
import torch
from small_nets import crooked, grouped, normed, pair, picky
from small_runs import differing, make_job, model, pictures, recipe, saved, train
from torch import Tensor, nn

import eighteen
from eighteen.base import recipe as recipes
from eighteen.base import rundir
from eighteen.base.errors import DataError, RecipeError
from eighteen.base.recipe import Model
from eighteen.training import checkpoint, models, state
from eighteen.training.compact import CompactNet
from eighteen.training.optim import parameter_groups
from eighteen.training.weights import weights_of


def body(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight for name, weight in weights.items() if not name.startswith("head")}


def build(name: str, **args) -> nn.Module:
    return models.build(Model(name=name, args=args), num_classes=5, in_chans=1)


@pytest.mark.parametrize(
    "name", ["mobilenetv3_small_050", "small_nets:grouped", "eighteen.training.compact:CompactNet"]
)
def test_a_model_by_name_takes_pictures_and_returns_logits(name):
    assert build(name).eval()(torch.zeros(2, 1, 32, 32)).shape == (2, 5)


def test_a_new_model_is_the_same_for_the_same_seed_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    one, two, other = (
        models.build(Model(name="small_nets:grouped"), num_classes=5, in_chans=1, seed=seed) for seed in (3, 3, 4)
    )
    assert differing(one.state_dict(), two.state_dict()) == []
    assert "head.weight" in differing(one.state_dict(), other.state_dict())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet5O", r"model.name: got 'resnet5O', need a timm model.*\n.*did you mean 'resnet50'"),
        ("small_nets:groupd", r"model.name: got 'small_nets:groupd' \(.*no attribute 'groupd'\)"),
        ("small_netz:grouped", r"No module named 'small_netz'"),
        (":grouped", r"model.name: got ':grouped'"),
        ("small_nets:", r"model.name: got 'small_nets:'"),
        ("small_nets:GATE", r"build small_nets:GATE: got 'str' object is not callable"),
        ("small_nets:no_module", "build small_nets:no_module: got Tensor, need a torch.nn.Module"),
    ],
)
def test_a_model_that_is_none_is_refused(name, message):
    with pytest.raises(RecipeError, match=message):
        build(name)


def test_a_module_that_does_not_compile_is_refused(tmp_path, monkeypatch):
    (tmp_path / "broken_nets.py").write_text("def net(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RecipeError, match=r"model.name: got 'broken_nets:net' \(.*broken_nets.py, line 1"):
        build("broken_nets:net")


def test_an_argument_that_the_model_does_not_take_is_refused():
    with pytest.raises(RecipeError, match=r"build small_nets:grouped: got .*unexpected keyword argument 'widths'"):
        build("small_nets:grouped", widths=[1])


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (crooked, r"use it: got an output of shape \[2, 5\], need logits of shape \[2, 4\]"),
        (pair, "use it: got a tuple, need logits"),
        (picky, r"try it on pictures of 16 px: got .*, need a model that takes \[N, 3, 16, 16\]"),
    ],
)
def test_a_model_that_returns_no_logits_is_refused(net, message):
    with pytest.raises(RecipeError, match=message):
        models.try_out(net(4, 3), "it", num_classes=4, in_chans=3, sizes=[16, 32])


def test_trying_a_model_out_changes_nothing():
    net = normed(4, 3)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    models.try_out(net, "it", num_classes=4, in_chans=3, sizes=[16])
    assert net.training
    assert differing(before, net.state_dict()) == []


def test_a_start_keeps_the_body_and_makes_a_new_head_for_other_classes():
    before, after = normed(4, 3), normed(7, 3)
    fresh = {name: value.clone() for name, value in after.state_dict().items()}
    models.start_from(after, before.state_dict(), origin="a run")
    changed = differing(fresh, after.state_dict())
    assert "head.weight" not in changed
    assert differing(body(before.state_dict()), body(after.state_dict())) == []


def test_a_start_from_as_many_classes_takes_the_head_too():
    before, after = normed(4, 3), normed(4, 3)
    models.start_from(after, before.state_dict(), origin="a run")
    assert differing(before.state_dict(), after.state_dict()) == []


@pytest.mark.parametrize("strange", [grouped(4, 3), normed(4, 1), nn.Linear(2, 2)])
def test_a_start_from_another_model_is_refused(strange):
    with pytest.raises(DataError, match=r"start from x: got \d+ weights that do not fit, the first '\w+"):
        models.start_from(normed(4, 3), strange.state_dict(), origin="x")


def test_a_run_can_start_from_another_run_with_other_classes(data, tmp_path):
    first = train(data, tmp_path, model("normed"))
    images, _ = pictures(60, seed=3)
    other = eighteen.pack((images, np.arange(60) % 3), tmp_path / "three.e18", procs=1)
    begun = state.start(make_job(other, tmp_path, model("normed"), f"model.init='{first.run}'")).model.state_dict()
    best = checkpoint.best(rundir.open(first.run)).weights()
    assert begun["head.weight"].shape == (3, 16)
    assert differing(body(begun), body(best)) == []


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04" + bytes(100)], ids=["none", "empty", "pickle"])
def test_a_strange_file_to_start_from_is_refused(tmp_path, content):
    path = tmp_path / "weights.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(
        DataError, match=r"read weights from .*weights.safetensors: got .*, need a run or a .safetensors file"
    ):
        weights_of(str(path))


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"open the run .*got no recipe.toml there"):
        weights_of(str(tmp_path))


def test_frozen_stages_do_not_change_by_a_bit(data, tmp_path):
    result = train(data, tmp_path, model("normed"), "model.freeze_to='body.4'", "optim.ema=0.9")
    begun = state.start(make_job(data, tmp_path, model("normed"))).model.state_dict()
    changed = differing(begun, saved(result.run))
    assert all(name.startswith(("body.5", "head")) for name in changed)
    assert {"body.5.weight", "body.5.running_mean", "head.weight"} <= set(changed)
    assert set(differing(begun, saved(result.run, "ema"))) <= set(changed)


@pytest.mark.parametrize(
    ("stage", "trains"),
    [
        ("features", {"pre_logits.fc1", "pre_logits.fc2", "head.fc"}),
        ("features.24", {"features.26", "features.28", "pre_logits.fc1", "pre_logits.fc2", "head.fc"}),
        ("pre_logits", {"head.fc"}),
    ],
)
def test_vgg16_with_only_the_last_layers_trained_is_a_recipe(stage, trains):
    tree = tomllib.loads(recipes.dump(recipe("model.name='vgg16'", f"model.freeze_to='{stage}'")))
    section = recipes.parse(tree).model
    with torch.device("meta"):
        vgg = timm.create_model(section.name)
    assert section.freeze_to
    models.freeze_to(vgg, section.freeze_to)
    groups = parameter_groups(vgg, weight_decay=1e-4, lr_scale={})
    named = {weight: name.rpartition(".")[0] for name, weight in vgg.named_parameters()}
    assert {named[weight] for group in groups for weight in group["params"]} == trains


def test_frozen_modules_are_those_to_keep_in_evaluation():
    net = normed(4, 3)
    frozen = models.freeze_to(net, "body.1")
    assert frozen == [net.get_submodule(name) for name in ("body.0", "body.1")]


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("boddy", "did you mean 'body'"),
        ("head", "a stage before the last"),
        ("", "need the name of a stage"),
    ],
)
def test_a_stage_that_cannot_be_frozen_is_refused(stage, message):
    with pytest.raises(RecipeError, match=rf"model.freeze_to: got '{stage}'.*(\n.*)?{message}"):
        models.freeze_to(normed(4, 3), stage)


@pytest.mark.parametrize("stem_stride", [1, 2, 4])
@pytest.mark.parametrize("side", [28, 33, 64])
def test_the_compact_net_takes_any_picture_from_28_px(stem_stride, side):
    net = CompactNet(5, 1, widths=(8, 16), depth=2, stem_stride=stem_stride)
    assert net(torch.zeros(2, 1, side, side)).shape == (2, 5)
    assert net.get_classifier() is net.head
