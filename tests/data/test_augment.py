"""Every operation against a slow, obvious twin in numpy; and the promises of ``augment`` as a whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from eighteen.base.errors import RecipeError
from eighteen.base.recipe import Augment
from eighteen.base.world import World
from eighteen.data.augment import (
    affine,
    augment,
    colour_change,
    cutmix,
    erase,
    mixed_targets,
    mixup,
    normalise,
    translate,
)
from eighteen.data.draws import beta
from eighteen.data.maker import Batch

MEAN_STD = {1: ((0.3,), (0.35,)), 3: ((0.48, 0.45, 0.4), (0.23, 0.22, 0.25))}
EVERYTHING = {
    "translate": 2,
    "translate_fill": "reflect",
    "erase": 0.5,
    "cutout": 3,
    "mixup": 0.3,
    "cutmix": 1.0,
    "brightness": 0.4,
    "contrast": 0.4,
    "rotate": (-20, 20),
    "scale": (0.8, 1.2),
    "shear": (-5, 5),
}
each_channels = pytest.mark.parametrize("channels", [1, 3])


def pictures(count=6, channels=3, height=8, width=10) -> Tensor:
    pixels = np.random.default_rng(0).integers(0, 256, (count, height, width, channels), np.uint8)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def batch_of(images: Tensor, num_classes=10) -> Batch:
    ids = torch.arange(len(images)) * 7 + 1
    return Batch(images, ids % num_classes, ids, ids // 9)


def augmented(batch: Batch, seed=0, num_classes=10, **section) -> tuple[Tensor, Tensor]:
    mean, std = MEAN_STD[batch.images.shape[1]]
    settings = Augment.model_validate(section)
    return augment(batch, settings, seed=seed, num_classes=num_classes, mean=mean, std=std)


def boxes_within(count, height, width) -> np.ndarray:
    rng = np.random.default_rng(1)
    rows, columns = np.sort(rng.integers(0, height + 1, (count, 2))), np.sort(rng.integers(0, width + 1, (count, 2)))
    return np.stack([rows[:, 0], columns[:, 0], rows[:, 1], columns[:, 1]], axis=1)


@each_channels
def test_normalise(channels):
    images = pictures(channels=channels)
    result = normalise(images, *MEAN_STD[channels])
    mean, std = (np.array(values).reshape(1, -1, 1, 1) for values in MEAN_STD[channels])
    assert np.allclose(result, (images.numpy() / 255.0 - mean) / std, atol=1e-6)
    assert result.dtype == torch.float32
    assert result.is_contiguous(memory_format=torch.channels_last)


@each_channels
def test_brightness_and_contrast(channels):
    images = pictures(channels=channels)
    brightness, contrast = torch.rand(2, 6) + 0.5
    gain, lift = colour_change(images, brightness, contrast)
    result = normalise(images, *MEAN_STD[channels], gain=gain, lift=lift)
    mean, std = (np.array(values).reshape(-1, 1, 1) for values in MEAN_STD[channels])
    for sample in range(6):
        bright = images[sample].numpy() / 255.0 * brightness[sample].item()
        changed = (bright - bright.mean()) * contrast[sample].item() + bright.mean()
        assert np.allclose(result[sample], (changed - mean) / std, atol=1e-5)


@each_channels
@pytest.mark.parametrize("fill", ["zero", "reflect"])
def test_translate(channels, fill):
    images = pictures(count=25, channels=channels)
    offsets = torch.cartesian_prod(torch.arange(-2, 3), torch.arange(-2, 3))
    result = translate(images, offsets, largest=2, fill=fill)
    border = ((0, 0), (2, 2), (2, 2))
    for sample, (down, right) in enumerate(offsets.tolist()):
        pixels = images[sample].numpy()
        padded = np.pad(pixels, border) if fill == "zero" else np.pad(pixels, border, "reflect")
        assert np.array_equal(result[sample], padded[:, 2 - down : 10 - down, 2 - right : 12 - right])
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_a_shift_as_large_as_the_picture_is_refused():
    with pytest.raises(RecipeError, match=r"augment.translate: got 8 pixels, need less than the size 8"):
        augmented(batch_of(pictures(height=8, width=8)), translate=8)


def bilinear(image: np.ndarray, y: float, x: float) -> np.ndarray:
    """The value of [C, H, W] at a place in pixels, black outside."""
    value = np.zeros(len(image))
    for row in (int(np.floor(y)), int(np.floor(y)) + 1):
        for column in (int(np.floor(x)), int(np.floor(x)) + 1):
            if 0 <= row < image.shape[1] and 0 <= column < image.shape[2]:
                value += image[:, row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return value


def test_affine():
    images, (height, width) = pictures(), (8, 10)
    matrices = torch.eye(2, 3) + 0.4 * (torch.rand(6, 2, 3) - 0.5)
    result = affine(images, matrices, fill="zero")
    for sample in range(6):
        for row in range(height):
            for column in range(width):
                place = np.array([(2 * column + 1) / width - 1, (2 * row + 1) / height - 1, 1])
                x, y = matrices[sample].numpy() @ place
                there = ((y + 1) * height - 1) / 2, ((x + 1) * width - 1) / 2
                expected = bilinear(images[sample].numpy(), *there)
                assert np.allclose(result[sample, :, row, column], expected, atol=1e-2)


def test_turning_is_counter_clockwise():
    batch = batch_of(pictures(height=8, width=8))
    plain, _ = augmented(batch)
    turned, _ = augmented(batch, rotate=(90, 90))
    assert np.allclose(turned, np.rot90(plain.numpy(), 1, (2, 3)), atol=1e-4)


@pytest.mark.parametrize(
    ("section", "moved_to"),
    [
        ({"scale": (2, 2)}, (-1, -3)),
        ({"rotate": (180, 180)}, (0.5, 1.5)),
        ({"shear": (45, 45)}, (-0.5, -2)),
        ({"scale": (2, 2), "rotate": (90, 90)}, (3, -1)),  # (down, right)
    ],
)
def test_places_move_as_they_should_in_pictures_of_any_shape(section, moved_to):
    dot = torch.zeros(1, 1, 16, 20, dtype=torch.uint8)
    dot[:, :, 7, 8] = 255  # half a pixel above the middle, one and a half to its left
    images, _ = augmented(batch_of(dot), **section)
    weights = (images[0, 0] - images.min()).double().numpy()
    y, x = np.mgrid[-7.5:8, -9.5:10]
    assert np.allclose([(weights * y).sum(), (weights * x).sum()] / weights.sum(), moved_to, atol=0.1)


@each_channels
def test_erase(channels):
    images, boxes = pictures(channels=channels).float(), boxes_within(6, 8, 10)
    result = erase(images, torch.from_numpy(boxes).float())
    for sample, (top, left, bottom, right) in enumerate(boxes):
        expected = images[sample].numpy().copy()
        expected[:, top:bottom, left:right] = 0
        assert np.array_equal(result[sample], expected)


@pytest.mark.parametrize("count", [6, 5])
def test_mixup_blends_neighbours(count):
    images, kept = pictures(count).float(), torch.rand(count)
    result = mixup(images, kept)
    for sample in range(count):
        partner = min(sample ^ 1, count - 1)
        expected = kept[sample] * images[sample] + (1 - kept[sample]) * images[partner]
        assert np.allclose(result[sample], expected, atol=1e-3)
    assert result.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("count", [6, 5])
def test_cutmix_exchanges_boxes_of_neighbours(count):
    images, boxes = pictures(count).float(), boxes_within(count, 8, 10)
    result = cutmix(images, torch.from_numpy(boxes).float())
    for sample, (top, left, bottom, right) in enumerate(boxes):
        expected = images[sample].numpy().copy()
        partner = images[min(sample ^ 1, count - 1)].numpy()
        expected[:, top:bottom, left:right] = partner[:, top:bottom, left:right]
        assert np.array_equal(result[sample], expected)


def test_mixed_targets_are_shares_of_both_labels():
    labels, kept = torch.tensor([2, 0, 1, 1, 3]), torch.tensor([0.75, 0.75, 0.5, 0.25, 0.5])
    expected = [[0.25, 0, 0.75, 0], [0.75, 0, 0.25, 0], [0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]
    assert mixed_targets(labels, kept, 4).tolist() == expected


@pytest.mark.parametrize("alpha", [0.1, 0.2, 1.0, 3.0])
def test_beta_has_the_distribution_that_numpy_draws(alpha):
    uniforms = (np.arange(100_000) + 0.5) / 100_000
    ours, drawn = beta(uniforms, alpha), np.sort(np.random.default_rng(0).beta(alpha, alpha, 100_000))
    assert (np.diff(ours) >= 0).all()
    assert np.abs(ours - drawn).max() < 0.02
    assert ours.mean() == pytest.approx(0.5)
    assert ours.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=1e-3)


def test_what_is_off_changes_nothing():
    batch = batch_of(pictures())
    images, targets = augmented(batch)
    assert torch.equal(images, normalise(batch.images, *MEAN_STD[3]))
    assert targets is batch.labels


@each_channels
def test_all_at_once(channels):
    batch = batch_of(pictures(64, channels, 16, 16))
    images, targets = augmented(batch, **EVERYTHING)
    assert images.shape == batch.images.shape
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert torch.isfinite(images).all()
    assert targets.shape == (64, 10)
    assert torch.allclose(targets.sum(1), torch.ones(64))
    again, _ = augmented(batch, **EVERYTHING)
    assert torch.equal(images, again)
    other, _ = augmented(batch, seed=1, **EVERYTHING)
    assert not torch.equal(images, other)


@pytest.mark.parametrize("size", [2, 3, 5, 40])
def test_the_ranks_together_augment_as_one_would(size):
    batch = batch_of(pictures(37, 3, 16, 16))
    images, targets = augmented(batch, **EVERYTHING)
    parts = []
    for rank in range(size):
        mine = World(rank, size).slice(37)
        part = Batch(batch.images[mine], batch.labels[mine], batch.ids[mine], batch.visits[mine])
        parts.append(augmented(part, **EVERYTHING))  # of no samples at all, on some of 40 ranks
    assert torch.allclose(torch.cat([images for images, _ in parts]), images, atol=1e-6)
    assert torch.equal(torch.cat([targets for _, targets in parts]), targets)


def test_each_pair_has_mixup_or_cutmix_with_even_chance():
    black_and_white = torch.zeros(2000, 1, 8, 8, dtype=torch.uint8)
    black_and_white[::2] = 255
    images, _ = augmented(batch_of(black_and_white), mixup=1.0, cutmix=1.0)
    white, black = normalise(black_and_white[:2], *MEAN_STD[1]).flatten(1)[:, 0]
    is_cutmix = (torch.isclose(images, white) | torch.isclose(images, black)).flatten(1).all(1)
    assert torch.equal(is_cutmix[::2], is_cutmix[1::2])
    assert 0.45 < is_cutmix.float().mean() < 0.55


def test_shares_of_cutmix_are_those_of_the_area():
    black_and_white = torch.zeros(200, 1, 8, 8, dtype=torch.uint8)
    black_and_white[::2] = 255
    batch = Batch(black_and_white, torch.tensor([1, 0] * 100), torch.arange(200), torch.zeros(200, dtype=torch.int64))
    images, targets = augmented(batch, num_classes=2, cutmix=1.0)
    white, black = normalise(black_and_white[:2], *MEAN_STD[1]).flatten(1)[:, 0]
    share_of_white = ((images - black) / (white - black)).mean((1, 2, 3))
    assert torch.allclose(targets[:, 1], share_of_white, atol=1e-5)


def test_erasing_spares_as_many_as_it_should():
    images, _ = augmented(batch_of(pictures(2000, 1, 16, 16).clamp(min=100)), erase=0.25, erase_scale=(0.1, 0.2))
    erased = (images == 0).flatten(1).float().mean(1)
    assert 0.22 < (erased > 0).float().mean() < 0.28
    assert erased[erased > 0].mean() == pytest.approx(0.15, abs=0.01)


@pytest.mark.gpu
def test_a_gpu_augments_as_the_cpu_does_and_is_never_waited_for():
    batch = batch_of(pictures(64, 3, 32, 32))
    on_gpu = Batch(batch.images.cuda(), batch.labels.cuda(), batch.ids, batch.visits)
    images, targets = augmented(batch, **EVERYTHING)
    augmented(on_gpu, **EVERYTHING)  # the first call moves what is kept
    torch.cuda.set_sync_debug_mode("error")
    try:
        gpu_images, gpu_targets = augmented(on_gpu, **EVERYTHING)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.allclose(gpu_images.cpu(), images, atol=1e-3)
    assert torch.allclose(gpu_targets.cpu(), targets)
