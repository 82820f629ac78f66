"""What ranks compare: which of them are slow, and the bits of their weights."""

from __future__ import annotations

import pytest
import small_nets
import torch

from eighteen.base.errors import MachineError
from eighteen.training import comparison
from eighteen.training.comparison import fingerprint, slow_ranks


@pytest.mark.parametrize(
    ("busy", "slow"),
    [
        ([1, 1], set()),
        ([1, 1.3], set()),
        ([1, 1.4], {1}),
        ([1.4, 1], {0}),
        ([1, 1.2, 0.9, 3], {3}),
        ([1, 2, 1, 2, 1], {1, 3}),
    ],
)
def test_slow_is_below_three_quarters_of_the_median_speed_of_the_others(busy, slow):
    assert slow_ranks(busy) == slow


def test_every_single_bit_changes_the_fingerprint():
    weights = [torch.randn(3, 2, 2, 2).to(memory_format=torch.channels_last), torch.randn(5), torch.randn(2).bfloat16()]
    whole = {torch.float32: torch.int32, torch.bfloat16: torch.int16}
    seen = {int(fingerprint(iter(weights)))}
    count = 0
    for weight in weights:
        bits = weight.view(whole[weight.dtype])
        for place in range(weight.numel()):
            for bit in range(8 * weight.element_size()):
                mask = torch.zeros(weight.numel(), dtype=torch.int64)
                mask[place] = 1 << bit
                mask = mask.view(weight.shape).to(bits.dtype)
                bits ^= mask
                seen.add(int(fingerprint(iter(weights))))
                bits ^= mask
                count += 1
    assert len(seen) == count + 1


def test_weights_that_change_places_change_the_fingerprint():
    net = small_nets.grouped(4, 3)
    before = int(fingerprint(net.parameters()))
    weight = next(net.parameters())
    with torch.no_grad():
        weight.copy_(weight.flip(0))
    assert int(fingerprint(net.parameters())) != before


@pytest.mark.parametrize(
    ("found", "named"),
    [([7, 8], "rank 1"), ([8, 7, 7], "rank 0"), ([7, 7, 8, 7], "rank 2"), ([7, 1, 2, 7], "ranks 1, 2")],
)
def test_the_ranks_that_differ_from_most_are_named(found, named):
    with pytest.raises(MachineError, match=rf"after step 100: got other bits on {named}, need the same on all"):
        comparison._same_weights(found, 100)


def test_the_same_weights_are_no_error():
    comparison._same_weights([7, 7, 7], 100)
