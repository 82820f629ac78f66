"""What a decoder is: it fills batches with parts of stored pictures, in threads of its own.

There are two that do the same: ``native``, fast, and ``reference``, slow and obvious. ``decoding`` picks one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from eighteen.base.errors import DataError
from eighteen.data.dataset import Rendition


@dataclass(frozen=True)
class Timings:
    """Seconds spent, summed over threads; reading includes verifying where it is not told apart."""

    read_s: float = 0.0
    verify_s: float = 0.0
    decode_s: float = 0.0
    resize_s: float = 0.0


class Slow(NamedTuple):
    """The sample that a decoder's thread has been at for longest."""

    stage: str  # "read" or "decode"
    rendition: Rendition
    sample: int
    seconds: float


class Filled(NamedTuple):
    """A batch that has been filled, but for the samples that could not be read or decoded.

    bad: place in the batch -> the DataError that names shard and sample; what lies there in the batch means nothing
    """

    timings: Timings
    bad: Mapping[int, DataError]

    def whole(self) -> Timings:
        """The timings of a batch without bad samples; raises the DataError of the first one otherwise."""
        for place in sorted(self.bad):
            raise self.bad[place]
        return self.timings


class Pending(Protocol):
    """A batch that is being filled."""

    def result(self) -> Filled:
        """Wait until it is filled; by then no thread writes to the batch any more.

        raises CancelledError after ``cancel``, MachineError if memory was short
        """
        ...


class Decoder(Protocol):
    def start(
        self,
        rendition: Rendition,
        samples: NDArray[np.int64],
        boxes: NDArray[np.float32],
        flips: NDArray[np.bool_],
        out: NDArray[np.uint8],
    ) -> Pending:
        """Begin to fill ``out`` with the boxes of these samples, resized with antialiasing (bilinear, as Pillow) and
        mirrored where ``flips`` says so. Batches are filled in the order in which they were started.

        samples: [N]      boxes: [N, 4] left, top, width, height in pixels of the rendition      flips: [N]
        out: [N, H, W, C], C 1 or 3
        """
        ...

    def slowest(self) -> Slow | None:
        """What it waits for, or None if no thread is at anything. Safe from any thread."""
        ...

    def cancel(self) -> None:
        """Let what is not begun yet never begin. Safe from any thread, and again."""
        ...

    def close(self) -> None:
        """Cancel, and end the threads: the few pictures that are being decoded are waited for."""
        ...


def undecodable(rendition: Rendition, sample: int, got: str) -> DataError:
    return DataError(
        f"decode {rendition.called(sample)}",
        got=got,
        need="a whole picture",
        hint=f"eighteen check {rendition.root}, then pack again without this picture",
    )
