"""Which decoder is in use: the native one where it was built, else the reference."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from eighteen.data import native, reference
from eighteen.data.decoder import Decoder

DECODER = native.about() or reference.ABOUT
# what every run says where it holds
NOT_BUILT = (
    None
    if native.library()
    else "the native decoder is not built: Pillow decodes, some three times slower. "
    "Try: apt-get install g++ libjpeg-dev, then install eighteen again"
)


def decoder(num_threads: int) -> Decoder:
    """One with so many threads."""
    return native.NativeDecoder(num_threads) if native.library() else reference.ReferenceDecoder(num_threads)


def decode(
    source: bytes | NDArray[np.uint8], box: list[float], size: tuple[int, int], shape: tuple[int, ...]
) -> NDArray[np.uint8]:
    """One picture, a JPEG or raw [H, W, C]: its box resized to ``shape``, as in a batch.

    box: left, top, width, height in pixels      size: of the picture, width and height      shape: [H, W, C]
    """
    if native.library():
        return native.decode(source, box, size, shape)
    return reference.decode(source, box, shape)
