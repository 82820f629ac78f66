"""Pixels that are kept: the same batches as by decoding, but for resampling, and each picture decoded once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from eighteen.base.errors import MachineError
from eighteen.base.order import Order
from eighteen.base.recipe import Augment, parse
from eighteen.base.schedule import schedule
from eighteen.base.world import World
from eighteen.data import dataset as datasets
from eighteen.data.kept import Memory, OnDevice, Size, place_for, size_for
from eighteen.data.loader import TrainLoader
from eighteen.data.pack import pack

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def jpegs(pictures, tmp_path_factory):
    """108 JPEGs of 72 to 128 pixels, of which no two need have the same shape."""
    path = tmp_path_factory.mktemp("packed") / "jpegs.e18"
    pack(pictures, path, procs=1)
    return datasets.open(path).splits["train"]


@pytest.fixture(scope="module")
def raws(tmp_path_factory):
    """90 raw gray pictures of 16 x 16."""
    path = tmp_path_factory.mktemp("packed") / "raws.e18"
    pixels = np.random.default_rng(0).integers(0, 256, (100, 16, 16), np.uint8)
    pack((pixels, np.arange(100) % 2), path, procs=1)
    return datasets.open(path).splits["train"]


def batches(split, kept, *, phases=({"epochs": 3, "size": 32, "batch": 22, "min_scale": 0.5},), start=0, channels=3):
    phases = list(phases)
    lr = [[0, 0.1], [sum(phase["epochs"] for phase in phases), 0]]
    tree = {"name": "t", "model": {"name": "none"}, "optim": {"batch": 1, "lr": lr}, "eval": {"size": 32}}
    plan = schedule(parse({**tree, "phases": phases}), split.num_samples)
    order, augment = Order(5, split.num_samples), Augment()
    loader = TrainLoader(
        split, plan, order, World(), augment=augment, device=CPU, channels=channels, kept=kept, start=start
    )
    with loader:
        return [batch for _, batch in loader], loader


@pytest.mark.parametrize("kept", ["host", "device"])
def test_batches_are_those_of_the_decoding_path_but_for_resampling(jpegs, kept):
    decoded, _ = batches(jpegs, "never")
    ours, loader = batches(jpegs, kept)
    assert loader.kept_bytes == {0: (kept, 108 * 64 * 64 * 3)}
    for batch, expected in zip(ours, decoded, strict=True):
        for name in ("labels", "ids", "visits"):
            assert torch.equal(getattr(batch, name), getattr(expected, name))
        assert batch.images.shape == expected.images.shape
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        difference = batch.images.float() - expected.images.float()
        assert difference.square().mean().sqrt() < 12  # of 255, on drawn edges: resized twice is a little softer
        assert abs(difference.mean()) < 0.5  # the same part of the picture


@pytest.mark.parametrize("kept", ["host", "device"])
def test_pictures_of_one_size_are_kept_as_they_are(raws, kept):
    phases = [{"epochs": 3, "size": 12, "batch": 22, "min_scale": 0.5}]
    decoded, _ = batches(raws, "never", phases=phases, channels=1)
    ours, loader = batches(raws, kept, phases=phases, channels=1)
    assert loader.kept_bytes == {0: (kept, 90 * 16 * 16)}
    for batch, expected in zip(ours, decoded, strict=True):
        assert (batch.images.int() - expected.images.int()).abs().max() <= 2  # rounding


@pytest.mark.parametrize("kept", ["host", "device"])
@pytest.mark.parametrize("start", [3, 9])
def test_a_later_start_repeats_the_tail(jpegs, kept, start):
    whole, tail = batches(jpegs, kept)[0], batches(jpegs, kept, start=start)[0]
    for batch, again in zip(whole[start:], tail, strict=True):
        assert torch.equal(batch.images, again.images)


@pytest.mark.native
@pytest.mark.parametrize("kept", ["host", "device"])
def test_each_picture_is_read_once(jpegs, kept, monkeypatch):
    """Over two phases that need the same pixels, too."""
    read = []
    original = type(jpegs.renditions["full"]).files
    monkeypatch.setattr(
        type(jpegs.renditions["full"]), "files", lambda self, samples: read.extend(samples) or original(self, samples)
    )
    phase = {"epochs": 2, "size": 32, "batch": 20, "min_scale": 0.5}
    batches(jpegs, kept, phases=[phase, {**phase, "batch": 30}])
    assert sorted(read) == list(range(108))


def test_sizes_are_such_that_crops_need_not_be_enlarged(jpegs):
    full = jpegs.renditions["full"]
    assert size_for(full, side=32, share=0.75, channels=3) == Size(64, 64, 3)
    longest = int(full.index["width"].max()), int(full.index["height"].max())
    assert size_for(full, side=300, share=0.75, channels=3) == Size(longest[1], longest[0], 3)


@pytest.mark.parametrize(
    ("setting", "num_bytes", "visits", "place"),
    [
        ("auto", 30, 2, "device"),
        ("auto", 45, 2, "host"),
        ("auto", 55, 2, None),
        ("auto", 30, 1.9, None),
        ("host", 30, 1, "host"),
        ("device", 30, 1, "device"),
        ("never", 30, 9, None),
    ],
)
def test_the_device_comes_first_then_the_host(setting, num_bytes, visits, place):
    assert place_for(setting, num_bytes, Memory(host=100, device=100), visits=visits) == place


def test_on_the_cpu_the_host_is_the_device_but_its_decoder_crops():
    assert place_for("auto", 30, Memory(host=100, device=None), visits=2) == "host"
    assert place_for("device", 30, Memory(host=100, device=None), visits=2) == "device"


def test_what_was_asked_for_and_does_not_fit_is_told():
    with pytest.raises(MachineError, match=r"keep pictures on the device: got 2\.0 GiB of pixels, 4\.0 GiB free"):
        place_for("device", 2 * 2**30, Memory(host=2**40, device=4 * 2**30), visits=5)


@pytest.mark.parametrize("box", [(0, 0, 40, 30), (3.5, 2.25, 20, 17.5), (10, 5, 6, 4)])
def test_the_device_crops_as_pillow_does(box):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    room = OnDevice(2, Size(30, 40, 3), CPU)
    room.pixels[1] = torch.from_numpy(pixels)
    samples, boxes, flips = torch.tensor([1, 1]), torch.tensor([box, box]), torch.tensor([False, True])
    plain, mirrored = room.crop(samples, boxes, flips, 11, 13)
    left, top, width, height = box
    resized = Image.fromarray(pixels).resize(
        (13, 11), Image.Resampling.BILINEAR, (left, top, left + width, top + height)
    )
    assert np.abs(plain.numpy().astype(int) - np.asarray(resized)).max() <= 2
    assert torch.equal(mirrored, plain.flip(1))
