"""The net whose first layer is fitted to the pictures."""

from __future__ import annotations

import pytest
import torch
from small_runs import saved, train
from torch import nn

from eighteen.training.models import Fitted
from eighteen.training.whitened import Norm, WhitenedNet, Whitening


@pytest.mark.parametrize("channels", [1, 3])
def test_whitened_patches_of_the_pictures_vary_alike_in_all_directions_and_do_not_depend_on_each_other(channels):
    draw = torch.Generator().manual_seed(0)
    mixed = torch.randn(channels, channels, generator=draw)
    pictures = torch.einsum("dc,nchw->ndhw", mixed, torch.randn(500, channels, 12, 12, generator=draw).cumsum(3))
    layer = Whitening(channels)
    layer.fit_to(pictures)
    half = layer.out_channels // 2
    found = layer(pictures).detach().permute(1, 0, 2, 3).flatten(1)
    assert torch.allclose(found[half:], -found[:half])
    assert torch.allclose(found[:half] @ found[:half].T / found.shape[1], torch.eye(half), atol=0.02)


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32), (3, 24), (1, 9), (3, 64)])
def test_net_takes_tiny_pictures_of_any_size(channels, size):
    net = WhitenedNet(7, channels, widths=(8, 16, 16))
    logits = net(torch.randn(4, channels, size, size))
    assert logits.shape == (4, 7)
    assert logits.abs().max() < 1


def test_only_shifts_and_no_scales_or_whitening_filters_learn():
    net = WhitenedNet(4, widths=(8, 8))
    learning = {name for name, weight in net.named_parameters() if weight.requires_grad}
    assert "whiten.weight" not in learning
    assert "whiten.shift" in learning
    for name, module in net.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert f"{name}.bias" in learning
            assert f"{name}.weight" not in learning


def test_a_shift_moves_the_output_by_its_scale():
    norm = Norm(8, bias_scale=64)
    pictures = torch.randn(2, 8, 4, 4)
    before = norm(pictures)
    with torch.no_grad():
        norm.bias.add_(1 / 64)
    assert torch.allclose(norm(pictures), before + 1, atol=1e-5)


def test_a_run_fits_it_to_its_own_pictures_the_same_on_any_number_of_ranks(data, tmp_path):
    assert isinstance(WhitenedNet(2), Fitted)
    net = "model={name='eighteen.training.whitened:WhitenedNet', args={widths=[8, 8]}}"
    runs = [train(data, tmp_path / str(procs), net, procs=procs).run for procs in (1, 2)]
    one, two = (saved(run, "model")["whiten.weight"] for run in runs)
    assert torch.equal(one, two)
    fresh = WhitenedNet(4, widths=(8, 8)).whiten.weight
    assert not torch.allclose(one, fresh)
    half = len(one) // 2
    assert torch.equal(one[half:], -one[:half])
