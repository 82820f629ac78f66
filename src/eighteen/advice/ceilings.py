"""What a device can do at most, measured: arithmetic by a large matrix product, memory by a large copy.

Both are repeated by whoever measures something else meanwhile, so that a ceiling belongs to the same minutes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

SIDES = {"cpu": 2048, "cuda": 8192}  # of the matrices
COPIED = {"cpu": 2**28, "cuda": 2**32}  # bytes: many times what caches hold
REPEATS = {"cpu": 2, "cuda": 20}


@dataclass(frozen=True)
class Ceilings:
    """flops_per_s: of a matrix product in ``dtype``      bytes_per_s: of a copy, read and written both counted"""

    dtype: str
    flops_per_s: float
    bytes_per_s: float


class Measure:
    """Measures them again and again in memory that is taken once.

    dtype: what autocast computes in, None for float32      scale: of the sizes; less than 1 measures less than there is
    """

    def __init__(self, device: torch.device, dtype: torch.dtype | None, *, scale: float = 1.0) -> None:
        kind, self._device = device.type, device
        side, count = int(SIDES[kind] * scale), int(COPIED[kind] * scale) // 4
        rng = torch.Generator().manual_seed(0)  # numbers, not zeros, of which some processors make quick work
        numbers = torch.randn(2, side, side, generator=rng).to(device, dtype or torch.float32)
        self._left, self._right, self._product = numbers[0], numbers[1], torch.empty_like(numbers[0])
        self._source, self._copy = (torch.zeros(count, dtype=torch.int32, device=device) for _ in range(2))
        self._dtype, self._repeats = dtype, REPEATS[kind]
        self.once()

    def once(self) -> Ceilings:
        product_s = self._seconds(lambda: torch.mm(self._left, self._right, out=self._product))
        copy_s = self._seconds(lambda: self._copy.copy_(self._source))
        name = str(self._dtype or torch.float32).removeprefix("torch.")
        return Ceilings(name, 2 * len(self._left) ** 3 / product_s, 2 * self._copy.nbytes / copy_s)

    def _seconds(self, work) -> float:
        """Of one of several."""
        synchronize(self._device)
        began = time.perf_counter()
        for _ in range(self._repeats):
            work()
        synchronize(self._device)
        return (time.perf_counter() - began) / self._repeats


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
