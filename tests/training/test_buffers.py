"""The buffers of a net in one tensor."""

from __future__ import annotations

import torch
from torch import nn

from eighteen.training.buffers import flatten_buffers


def test_all_buffers_become_views_into_one_tensor():
    net = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(3))
    flat, counters = flatten_buffers(net), flatten_buffers(net, torch.int64)
    flat += 1
    counters += 1
    assert flat.tolist() == [1, 1, 2, 2, 1, 1, 1, 2, 2, 2]
    assert net[1].get_buffer("running_var").tolist() == [2, 2, 2]
    assert [int(one.get_buffer("num_batches_tracked")) for one in net] == [1, 1]


def test_a_net_without_any_has_an_empty_tensor_where_its_weights_are():
    """Or its first step on a GPU would fail: there is none here, and no memory behind "meta" either."""
    empty = flatten_buffers(nn.Linear(2, 3, device="meta"))
    assert (empty.device.type, empty.dtype, len(empty)) == ("meta", torch.float32, 0)
