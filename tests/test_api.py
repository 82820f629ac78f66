"""The Python API: the names and defaults of the command line."""

from __future__ import annotations

import re
import shutil
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from torch import nn

import eighteen
from eighteen.api import sources
from eighteen.base import recipe as recipes

SMALL = ("phases.0.size=32", "eval.size=32")


class Net(nn.Module):
    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.head = nn.Linear(8, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(images).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def data(pictures, tmp_path_factory):
    return eighteen.pack(pictures, tmp_path_factory.mktemp("api") / "pictures.e18", procs=1)


def test_every_public_name_is_there_and_no_other():
    for name in eighteen.__all__:
        assert getattr(eighteen, name) is not None
    assert set(eighteen.__all__) <= set(dir(eighteen))
    with pytest.raises(AttributeError, match="no attribute 'fit'"):
        eighteen.fit  # noqa: B018


def test_a_module_trains_and_comes_back_as_a_classifier(data, pictures, tmp_path):
    events = []
    result = eighteen.train(
        data, recipe="demo", model=Net(), epochs=1, changes=SMALL, runs_dir=tmp_path, on_event=events.append
    )
    assert next(event["event"] for event in events) == "start"
    assert result.top1 == next(event["top1"] for event in events if event["event"] == "eval")
    assert eighteen.evaluate(result.run, data, split="val", model=Net()).top1 == pytest.approx(result.top1)
    model = eighteen.load(result.run, model=Net())
    path = next(pictures.glob("*/*.jpg"))
    (prediction,) = model.predict([path])
    assert prediction.path == str(path)
    assert prediction.label in data.classes
    assert prediction.label == prediction.top[0][0]
    assert sum(probability for _, probability in prediction.top) == pytest.approx(1, abs=1e-5)


def test_stop_ends_a_run_with_everything_saved_and_resume_goes_on(data, tmp_path):
    def stop_at_once(event):
        return eighteen.STOP if event["event"] == "step" else None

    options = {"recipe": "demo", "epochs": 1, "batch": 16, "changes": (*SMALL, "train.log_every=1")}
    with pytest.raises(eighteen.EighteenError, match="--resume") as stopped:
        eighteen.train(data, runs_dir=tmp_path, on_event=stop_at_once, **options)
    assert stopped.value.exit_code == 75
    (run,) = tmp_path.iterdir()
    assert eighteen.resume(run).step == 7


def test_a_recipe_object_is_changed_as_a_named_one_is(data, tmp_path):
    recipe = recipes.load("demo")
    result = eighteen.train(data, recipe=recipe, epochs=0.5, batch=32, changes=SMALL, runs_dir=tmp_path)
    kept = recipes.load(str(result.run / "recipe.toml"))
    assert (kept.epochs, kept.phases[0].batch) == (0.5, 32)


def test_training_on_a_folder_says_what_packing_refused(pictures, tmp_path):
    folder, said = tmp_path / "photos", []
    shutil.copytree(pictures, folder)
    next(folder.glob("*/*.jpg")).write_bytes(b"no picture")
    eighteen.train(
        folder, recipe="demo", model=Net(), epochs=0.5, changes=SMALL, runs_dir=tmp_path / "runs", say=said.append
    )
    assert any("refused: 1, listed in" in line for line in said)


def test_a_large_folder_is_not_packed_in_silence(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "SAY_S", 0.0)
    said = []
    shutil.copytree(pictures, tmp_path / "photos")
    with ExitStack() as stack:
        assert sources.dataset_of(tmp_path / "photos", stack, said.append).num_classes == 3
    assert any(re.fullmatch(r"packed [1-9]\d* of 120 pictures", line) for line in said)


def test_arrays_in_memory_are_a_source(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 28, 28), np.uint8)
    data = eighteen.pack((images, np.arange(40) % 2), tmp_path / "noise.e18", procs=1)
    assert (data.channels, data.classes) == (1, ("0", "1"))
    assert eighteen.open(tmp_path / "noise.e18").digest == data.digest


def test_an_error_of_input_is_a_value_error(tmp_path):
    with pytest.raises(ValueError, match=r"got nothing there, need .*\n  Try: "):
        eighteen.open(tmp_path / "nowhere.e18")
