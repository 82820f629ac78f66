"""Slots in host memory: used again when nobody holds their images, and not before."""

from __future__ import annotations

import torch

from eighteen.data.prefetch import Transfer

SHAPE = (2, 8, 6, 3)


def transfer() -> Transfer:
    return Transfer(torch.device("cpu"), num_slots=2)


def test_memory_is_used_again_once_its_images_are_dropped() -> None:
    transferring = transfer()
    images = transferring.slot(SHAPE).images
    where = images.data_ptr()
    del images
    assert transferring.slot(SHAPE).images.data_ptr() == where


def test_memory_is_not_used_again_while_a_part_of_its_images_is_held() -> None:
    transferring = transfer()
    image = transferring.slot(SHAPE).images.fill_(18)[1].permute(2, 0, 1)
    transferring.slot(SHAPE).images.fill_(0)
    assert image.eq(18).all()


def test_memory_that_is_too_small_is_not_used_again() -> None:
    transferring = transfer()
    small = transferring.slot(SHAPE).images
    del small
    large = transferring.slot((4, 8, 6, 3)).images
    assert large.shape == (4, 8, 6, 3)
    assert large.numel() == large.untyped_storage().nbytes()
