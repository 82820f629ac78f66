"""The recipes that come with the program: each can be resolved, scheduled and built, and the small ones train."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import happened

import eighteen
from eighteen.base import recipe as recipes
from eighteen.base.errors import RecipeError
from eighteen.base.schedule import schedule
from eighteen.data.dataset import Dataset
from eighteen.data.loader import choose_rendition
from eighteen.training import models
from eighteen.training.lenet import LeNet
from eighteen.training.optim import parameter_groups
from eighteen.training.plain import PlainNet
from eighteen.training.preflight import preflight
from eighteen.training.resolve import resolve

IMAGENET = 1_281_167
LOST = [name for name in recipes.bundled() if "published" in recipes.load(name, side=32).claim]


def striped(count: int, side: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise with stripes along one of two directions, which is the label."""
    rng, labels = np.random.default_rng(0), np.arange(count) % 2
    pictures = rng.integers(0, 120, (count, side, side, channels), np.uint8)
    for picture, label in zip(pictures, labels, strict=True):
        (picture if label else picture.swapaxes(0, 1))[::4] += 120
    return pictures, labels


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """8 JPEGs in 2 classes, as large as ImageNet's, without renditions."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(8):
        (folder / "photos" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 256, (38, 50, 3), np.uint8)
        Image.fromarray(noise).resize((500, 380)).save(folder / "photos" / "ab"[number % 2] / f"{number}.jpg")
    return eighteen.pack(folder / "photos", folder / "photos.e18", val=0.25, procs=1)


@pytest.mark.parametrize("name", list(recipes.bundled()))
def test_each_has_a_claim_and_a_schedule_that_passes_all_its_epochs(name):
    recipe = recipes.load(name, side=32)
    assert {"measured"} <= {*recipe.claim}
    assert ("published" in recipe.claim) == ("source" in recipe.claim)
    plan = schedule(recipe, IMAGENET)
    assert plan.at(plan.num_steps - 1).after == pytest.approx(recipe.epochs * IMAGENET, rel=1e-2)
    assert {step.batch for step in map(plan.at, range(0, plan.num_steps, 100))} <= {p.batch for p in recipe.phases}


@pytest.mark.parametrize("epochs", [16, 24, 32, 40, 56, 88])
def test_ffcv_grows_in_the_last_third_and_its_rate_falls_to_nothing(epochs):
    plan = schedule(recipes.load(f"ffcv-{epochs}"), IMAGENET)
    grows = next(number for number in range(plan.num_steps) if plan.at(number).size == 192)
    assert 35 / 48 <= plan.planned(grows) / epochs <= 41 / 48
    assert plan.at(0).size == 160
    rates = [plan.at(number).lr for number in range(plan.num_steps)]
    assert rates[0] == pytest.approx(1.7e-4)
    assert max(rates) == pytest.approx(1.7, rel=1e-2)
    assert rates[-1] == pytest.approx(1.7 * plan.at(0).batch / IMAGENET / (epochs - 2), rel=1e-2)


def test_aiacc_keeps_its_rate_where_its_batch_is_halved_and_its_momentum_goes_against_it():
    plan = schedule(recipes.load("aiacc-21"), IMAGENET)
    steps = [plan.at(number) for number in range(plan.num_steps)]
    for step in steps:
        epoch = plan.planned(step.number)
        lr = 1.2 * epoch / 5 if epoch < 5 else 1.2 + (1e-4 - 1.2) * (epoch - 5) / 16
        momentum = 0.96 - 0.06 * epoch / 5 if epoch < 5 else 0.90 + 0.06 * (epoch - 5) / 16
        assert (step.lr, step.momentum) == (pytest.approx(lr, rel=1e-4), pytest.approx(momentum))
    assert [step.batch for step in (steps[0], steps[-1])] == [2048, 1024]


@pytest.mark.parametrize("name", [name for name in LOST if name != "estimator-oct"])
def test_lost_recipe_resolves_on_pictures_without_renditions(name, photos):
    assert resolve(name, photos, say=print) == recipes.load(name)


# Each model once; the larger pictures take their time.
@pytest.mark.parametrize(
    "name",
    [
        "fast",
        *(pytest.param(name, marks=pytest.mark.soak) for name in ("imagenet18-1", "ffcv-16", "fast-28")),
        pytest.param("estimator-oct", marks=pytest.mark.soak),
    ],
)
def test_model_can_be_built_and_takes_all_its_sizes(name, photos):
    recipe = resolve(name, photos, say=print, changes=["model.init='x'"] if name == "estimator-oct" else [])
    model = recipe.model.model_copy(update={"init": None})
    phases = tuple(phase.model_copy(update={"batch": 8}) for phase in recipe.phases)
    preflight(recipe.model_copy(update={"model": model, "phases": phases}), photos, num_ranks=1)


@pytest.mark.soak
def test_only_the_last_block_and_the_head_of_estimator_oct_learn():
    recipe = recipes.load("estimator-oct", changes=["model.init=''"])
    model = models.build(recipe.model, num_classes=4, in_chans=3)
    assert recipe.model.freeze_to
    models.freeze_to(model, recipe.model.freeze_to)
    groups = parameter_groups(model, weight_decay=0, lr_scale=recipe.model.lr_scale)
    learning = {id(weight) for group in groups if group["lr_scale"] for weight in group["params"]}
    names = {name.rpartition(".")[0] for name, weight in model.named_parameters() if id(weight) in learning}
    assert names == {"features.24", "features.26", "features.28", "head.fc"}


def test_plain_net_has_twelve_convolutions_and_takes_any_tiny_size():
    net = PlainNet(10, 3)
    convs = [module for module in net.modules() if isinstance(module, torch.nn.Conv2d)]
    assert [conv.out_channels for conv in convs] == [32] * 4 + [64] * 4 + [128] * 4
    for side in (4, 28, 32, 33):
        assert net(torch.zeros(2, 3, side, side)).shape == (2, 10)


def test_lenet_has_576_features_for_its_dense_layer_and_is_made_for_one_size():
    net = LeNet(10, 1)
    assert net.dense.weight.shape == (64, 576)
    assert net(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert LeNet(3, 3, side=32, widths=[8, 8])(torch.zeros(2, 3, 32, 32)).shape == (2, 3)
    with pytest.raises(ValueError, match="nothing is left of the pictures after 3 convolutions"):
        LeNet(10, 1, side=15)


@pytest.mark.parametrize(("name", "side", "channels"), [("matlab-cifar", 32, 3), ("estimator-fashion", 28, 1)])
def test_small_net_learns_in_a_few_epochs(name, side, channels, tmp_path):
    data = {"train": striped(384, side, channels), "val": striped(64, side, channels)}
    dataset = eighteen.pack(data, tmp_path / "stripes.e18", procs=1)
    small = ["model.args={widths=[8, 8, 16], depth=2}"] if name == "matlab-cifar" else []
    flat = ["augment.translate=0", "optim.lr=[[0, 0.1], [3, 0.1]]"] if name == "matlab-cifar" else ["optim.batch=32"]
    length = ["phases.0.epochs=3", "phases.0.batch=32"]
    if name == "estimator-fashion":
        flat.append("optim.lr=[[0, 0.001], [3, 0.001]]")
    result = eighteen.train(dataset, recipe=name, changes=[*small, *flat, *length], runs_dir=tmp_path / "runs")
    assert result.top1 is not None
    assert result.top1 >= 0.95
    assert len(happened(Path(result.run), "eval")) == 3


def test_rendition_that_the_pack_lacks_is_refused_before_anything_is_trained_with_how_to_add_it(photos, tmp_path):
    changes = ["phases.0.rendition='160'", "phases.1.rendition='352'", "phases.0.batch=8", "phases.1.batch=8"]
    with pytest.raises(RecipeError, match=r"phases\.0\.rendition: got '160', need one of auto, full") as caught:
        eighteen.train(photos, recipe="small", changes=changes, runs_dir=tmp_path / "runs")
    assert f"eighteen pack SOURCE {photos.path} --renditions 160,352 --force" in str(caught.value)
    assert not (tmp_path / "runs").exists()
    with pytest.raises(RecipeError, match=r"data\.rendition: got 'ful'.*\n.*did you mean 'full'"):
        preflight(recipes.load("small", changes=["data.rendition='ful'"]), photos, num_ranks=1)


def test_imagenet18_reads_the_copies_that_its_authors_named_where_the_pack_has_them(photos, tmp_path):
    recipe = recipes.load("imagenet18-4")
    dataset = eighteen.pack(photos.path.parent / "photos", tmp_path / "copies.e18", val=0.25, renditions=[160, 352])
    split, read = dataset.splits["train"], {}
    for phase in recipe.phases:
        assert isinstance(phase.size, int)
        share = (phase.min_scale + phase.max_scale) / 2
        chosen = choose_rendition(split, recipe.data.rendition, size=phase.size, share=share, square=False)
        read[phase.size] = next(name for name, one in split.renditions.items() if one is chosen)
    assert read == {128: "160", 224: "352", 288: "352"}
