"""What a training step must compute and move, counted from the model alone."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from eighteen.advice.ceilings import Ceilings, Measure
from eighteen.advice.roofline import NORM_PASSES, SUM_PASSES, Kernel, kernels, roofline

H200 = Ceilings("bfloat16", 989e12, 4.8e12)  # its datasheet: dense products, memory


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)

    def forward(self, images):
        x = self.first(images)
        return torch.relu(self.norm(self.conv(x)) + x)


def test_kernels_of_a_block_are_those_that_one_counts_by_hand():
    found = kernels(Block(), in_chans=3, size=10, element_bytes=2)
    small, large = 3 * 100, 8 * 100
    flops, pointwise = 2 * large * 27, 2 * large * 8
    assert found == [
        Kernel("convolution", flops, 2 * (small + large)),
        Kernel("convolution to weights", flops, 2 * (small + large)),
        Kernel("convolution", pointwise, 2 * 2 * large),
        Kernel("convolution back", pointwise, 2 * 2 * large),
        Kernel("convolution to weights", pointwise, 2 * 2 * large),
        Kernel("native_batch_norm", 0, 2 * NORM_PASSES * large),
        Kernel("add", 0, 2 * SUM_PASSES * large),
    ]


def test_a_kernel_takes_the_longer_of_arithmetic_and_memory():
    ceilings = Ceilings("float32", 100.0, 10.0)
    both = [Kernel("a", 100.0, 5.0), Kernel("b", 50.0, 20.0)]
    assert roofline(both, ceilings).images_per_s == pytest.approx(1 / (1.0 + 2.0))
    assert (roofline(both, ceilings).flops, roofline(both, ceilings).num_bytes) == (150.0, 25.0)


def test_resnet50_has_the_arithmetic_of_the_papers_and_a_roofline_on_an_h200():
    model = timm.create_model("resnet50")
    found = {
        size: roofline(kernels(model, in_chans=3, size=size, element_bytes=2), H200) for size in (96, 128, 176, 224)
    }
    assert found[224].flops == pytest.approx(3 * 2 * 4.09e9, rel=0.02), (
        "4.09 G multiply-adds, three times, no first back"
    )
    assert found[224].num_bytes == pytest.approx(355e6, rel=0.01)
    assert found[224].images_per_s == pytest.approx(12_150, rel=0.005)
    assert found[128].images_per_s == pytest.approx(found[224].images_per_s * (224 / 128) ** 2, rel=0.02)
    assert all(parameter.device.type == "cpu" for parameter in model.parameters()), "the model is left where it is"


def test_ceilings_are_measured_in_the_precision_that_is_asked_for():
    found = Measure(torch.device("cpu"), torch.bfloat16, scale=0.05).once()
    assert found.dtype == "bfloat16"
    assert Measure(torch.device("cpu"), None, scale=0.05).once().dtype == "float32"
    assert min(found.flops_per_s, found.bytes_per_s) > 1e6
