"""In which number format a device computes fastest without losing accuracy."""

from __future__ import annotations

from typing import Literal

import torch


def autocast_dtype(precision: Literal["auto", "bf16", "fp32"], device: torch.device) -> torch.dtype | None:
    """bfloat16, or None for plain float32; "auto" takes bfloat16 where the device has instructions for it."""
    if precision == "fp32" or (precision == "auto" and not _computes_in_bf16(device)):
        return None
    return torch.bfloat16


def _computes_in_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)  # Ampere; before it bf16 is emulated
    # CPUs without these convert back and forth: 5x slower than float32 on an AVX2 machine
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
