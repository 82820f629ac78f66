"""Views for test-time augmentation: which they are, and how much each counts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from eighteen.base.errors import UsageError
from eighteen.data.views import named, views, ways


def pictures(channels: int, height: int = 8, width: int = 12) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, 256, (3, channels, height, width), dtype=torch.uint8, generator=rng)
    return drawn.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("tta", "num_others"), [("none", 0), ("flip", 1), ("crops", 5)])
@pytest.mark.parametrize("channels", [1, 3])
def test_weights_sum_to_one_and_every_view_is_as_the_pictures_are(tta, num_others, channels):
    images = pictures(channels)
    own, others = views(images, (), tta)
    others = list(others)
    assert own + sum(weight for weight, _ in others) == 1
    assert len(others) == num_others
    for _, view in others:
        assert (view.shape, view.dtype) == (images.shape, torch.uint8)
        assert view.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("channels", [1, 3])
def test_crops_of_tiny_pictures_are_the_six_views_of_airbench(channels):
    images = pictures(channels)

    def mirrored(inputs):
        return 0.5 * net(inputs) + 0.5 * net(inputs.flip(-1))

    def net(inputs):  # any function of pictures that is not linear in them
        return (inputs * torch.linspace(0, 1, images[0].numel()).view(images.shape[1:])).sum((1, 2, 3)).sin()

    padded = F.pad(images.float(), (1, 1, 1, 1), "reflect")
    up, down = padded[:, :, :-2, :-2], padded[:, :, 2:, 2:]
    expected = 0.5 * mirrored(images.float()) + 0.25 * (mirrored(up) + mirrored(down))
    own, others = views(images, (), "crops")
    found = own * net(images.float()) + sum(weight * net(view.float()) for weight, view in others)
    torch.testing.assert_close(found, expected)


def test_crops_of_larger_pictures_are_cut_by_the_loader():
    assert ways("crops", 64) == ways("flip", 224) == ways("none", 224) == ()
    assert ways("crops", 65) == ((-1, -1), (1, 1))
    images, up, down = pictures(3), pictures(3) // 2, pictures(3) // 3
    _, others = views(images, (up, down), "crops")
    expected = [images.flip(-1), up, up.flip(-1), down, down.flip(-1)]
    assert all(torch.equal(view, known) for (_, view), known in zip(others, expected, strict=True))


def test_a_mistyped_name_is_refused():
    assert named("flip") == "flip"
    with pytest.raises(
        UsageError, match=r"--tta flop: got 'flop', need one of none, flip, crops.\n.*did you mean 'flip'"
    ):
        named("flop")
