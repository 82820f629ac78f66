"""Convolutions with a stride that see a blurred input."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from eighteen.base.errors import RecipeError
from eighteen.base.recipe import Model
from eighteen.training import models
from eighteen.training.blurpool import BlurredConv


def test_blurred_convolution_is_that_of_the_mean_of_nine_pixels_weighed_1_2_1():
    conv = nn.Conv2d(16, 4, 1, stride=2)
    images = torch.randn(2, 16, 9, 9)
    padded, weights = nn.functional.pad(images, (1, 1, 1, 1)), (0.25, 0.5, 0.25)
    blurred = sum(
        a * b * padded[:, :, y : y + 9, x : x + 9] for y, a in enumerate(weights) for x, b in enumerate(weights)
    )
    assert torch.allclose(BlurredConv(conv)(images), conv(blurred), atol=1e-5)


def test_model_is_timms_with_blur_where_it_steps_and_the_same_names_of_weights():
    args = {"of": "resnet18", "zero_init_last": False}
    model = models.build(Model(name="eighteen.training.blurpool:blurred", args=args), num_classes=7, in_chans=1)
    plain = models.build(Model(name="resnet18", args={"zero_init_last": False}), num_classes=7, in_chans=1)
    assert [name for name, one in model.named_modules() if isinstance(one, BlurredConv)] == [
        f"layer{number}.0.{conv}" for number in (2, 3, 4) for conv in ("conv1", "downsample.0")
    ]
    ours, theirs = model.state_dict(), plain.state_dict()
    assert {*ours} == {*theirs}
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert model(torch.zeros(2, 1, 64, 64)).shape == (2, 7)


def test_what_timm_does_not_have_is_refused():
    with pytest.raises(RecipeError, match="got 'hf-hub:a/b', which is no timm model"):
        models.build(
            Model(name="eighteen.training.blurpool:blurred", args={"of": "hf-hub:a/b"}), num_classes=2, in_chans=3
        )
