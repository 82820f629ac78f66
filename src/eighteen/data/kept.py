"""Pixels that are kept: where a phase's decoded pictures fit in memory, each is decoded once and cropped from there.

They are kept whole, at one size for all: the pictures' own where they have one and it is small enough, else a size from
which the phase's crops need, on average, not be enlarged. Pictures of other shapes are stretched to it, and crops are
mapped with them. ``in_host_memory`` they become a raw rendition, which any decoder crops; ``OnDevice`` crops by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eighteen.base.errors import MachineError
from eighteen.data.dataset import Rendition
from eighteen.data.index import some_rows

SHARES: dict[Literal["host", "device"], float] = {"host": 0.5, "device": 0.4}  # of free memory: others need some too
MULTIPLE = 32  # of a side, in pixels
MIN_VISITS = 2  # fewer visits to each picture cost more than they save

Setting = Literal["auto", "never", "host", "device"]


class Size(NamedTuple):
    """What all pictures are kept at; channels 1 or 3."""

    height: int
    width: int
    channels: int

    def bytes_for(self, num_samples: int) -> int:
        return num_samples * self.height * self.width * self.channels


class Memory(NamedTuple):
    """Bytes that are free; device is None where the CPU is the device."""

    host: int
    device: int | None


def size_for(rendition: Rendition, *, side: int, share: float, channels: int) -> Size:
    """The size at which crops that have ``share`` of a picture's area, on average, give squares of ``side`` pixels."""
    widths, heights = rendition.index["width"], rendition.index["height"]
    enough = int(np.ceil(side / np.sqrt(share) / MULTIPLE)) * MULTIPLE
    height, width = int(heights.max()), int(widths.max())
    if widths.min() == width and heights.min() == height and height * width <= enough**2:
        return Size(height, width, channels)
    return Size(min(enough, height), min(enough, width), channels)


def place_for(setting: Setting, num_bytes: int, free: Memory, *, visits: float) -> Literal["host", "device"] | None:
    """Where to keep so many bytes, or None to decode at each visit.

    visits: to each picture, in the phase
    raises MachineError where they are asked to be kept and do not fit
    """
    room = {"host": free.host, "device": free.host if free.device is None else free.device}
    fits = {place: num_bytes <= SHARES[place] * room[place] for place in SHARES}
    if setting == "auto":
        # on the CPU the decoder's threads crop, and torch does not have to
        places = ("host",) if free.device is None else ("device", "host")
        return next((place for place in places if fits[place] and visits >= MIN_VISITS), None)
    if setting == "never":
        return None
    if not fits[setting]:
        got = f"{num_bytes / 2**30:,.1f} GiB of pixels, {room[setting] / 2**30:,.1f} GiB free"
        raise MachineError(
            f"keep pictures on the {setting}", got=got, need="room for them and the model", hint="--set data.keep=auto"
        )
    return setting


def in_host_memory(rendition: Rendition, size: Size) -> Rendition:
    """A raw rendition in memory, still empty: [N, height, width, channels]."""
    num_samples = len(rendition.index)
    index = np.array(rendition.index)
    index["width"], index["height"] = size.width, size.height
    pixels = np.empty((num_samples, *size), np.uint8)  # memory is taken as it is written
    return replace(rendition, kind="raw", index=index, pixels=pixels, rows=None, in_memory=True)


class OnDevice:
    """Pixels in a device's memory, still empty.

    pixels: [N, height, width, channels] uint8, on the device
    """

    def __init__(self, num_samples: int, size: Size, device: torch.device) -> None:
        self.pixels = torch.empty((num_samples, *size), dtype=torch.uint8, device=device)
        self._dtype = torch.float16 if device.type == "cuda" else torch.float32

    def crop(self, samples: Tensor, boxes: Tensor, flips: Tensor, height: int, width: int) -> Tensor:
        """The boxes of these samples, resized with antialiasing as Pillow's bilinear filter does it, and mirrored.

        samples: [n] int64      boxes: [n, 4] float32, left, top, width, height in kept pixels      flips: [n] bool
        -> [n, height, width, channels] uint8, all on the device
        """
        chosen = self.pixels[samples].to(self._dtype)
        num, full_height, full_width, channels = chosen.shape
        down = _weights(boxes[:, 1], boxes[:, 3], full_height, height)
        across = _weights(boxes[:, 0], boxes[:, 2], full_width, width)
        across = torch.where(flips[:, None, None], across.flip(1), across)
        rows = torch.bmm(down.to(self._dtype), chosen.view(num, full_height, -1))
        columns = rows.view(num, height, full_width, channels).transpose(1, 2).reshape(num, full_width, -1)
        cropped = torch.bmm(across.to(self._dtype), columns).view(num, width, height, channels).transpose(1, 2)
        return (cropped.float() + 0.5).clamp_(0, 255).to(torch.uint8).contiguous()


def _weights(low: Tensor, length: Tensor, source: int, target: int) -> Tensor:
    """[n, target, source]: what each source pixel adds to each target pixel; rows sum to 1.

    A triangle as wide as a target pixel, at least 2 source pixels: Pillow's antialiased bilinear filter.
    """
    scale = (length / target)[:, None, None]
    width = scale.clamp(min=1)
    places = torch.arange(target, device=low.device)[None, :, None] + 0.5
    centres = low[:, None, None] + places * scale
    sources = torch.arange(source, device=low.device)[None, None, :] + 0.5
    weights = (1 - (sources - centres).abs() / width).clamp(min=0)
    return weights / weights.sum(2, keepdim=True)


@dataclass(eq=False)
class Kept:
    """Where pictures are kept, and which are there already."""

    source: Rendition  # what they are decoded from
    size: Size
    place: Rendition | OnDevice
    asked: NDArray[np.bool_]  # [N]: which are there, or on their way
    num_stored: int = 0  # in host memory
    bad: set[int] = field(default_factory=set)  # those of the samples that turned out so

    @property
    def where(self) -> Literal["host", "device"]:
        return "device" if isinstance(self.place, OnDevice) else "host"

    @property
    def num_bytes(self) -> int:
        return self.size.bytes_for(len(self.asked))

    @property
    def is_complete(self) -> bool:
        """Whether all are there, in host memory."""
        return self.num_stored == len(self.asked)

    def missing(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of the samples that nobody has asked for before, each once."""
        found = np.unique(samples[~self.asked[samples]])
        self.asked[found] = True
        return found

    def store(self, samples: NDArray[np.int64], pixels: NDArray[np.uint8]) -> None:
        """Put decoded pictures into host memory: [n, height, width, channels]."""
        assert isinstance(self.place, Rendition)
        assert self.place.pixels is not None
        self.place.pixels[samples] = pixels
        self.num_stored += len(samples)

    @cached_property
    def _as_large_as_source(self) -> bool:
        widths, heights = self.source.index["width"], self.source.index["height"]
        return bool((widths == self.size.width).all() and (heights == self.size.height).all())

    def boxes(self, samples: NDArray[np.int64], boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Boxes of the source, in kept pixels: [n, 4]."""
        if self._as_large_as_source:
            return boxes
        rows = self.source.index[samples]
        across, down = self.size.width / rows["width"], self.size.height / rows["height"]
        return (boxes * np.stack([across, down, across, down], axis=1)).astype(np.float32)


def keep(
    rendition: Rendition,
    before: Kept | None,
    *,
    side: int,
    share: float,
    channels: int,
    visits: float,
    setting: Setting,
    free: Memory,
    device: torch.device,
) -> Kept | None:
    """Room for the pictures of a phase, or None where each is decoded at each visit. Raises as ``place_for``.

    before: what the phase before has kept: it is used again where it is the same
    """
    num_samples = len(rendition.index)
    if setting == "auto":  # where some already show that they cannot fit, nobody has to look at all
        least = size_for(
            replace(rendition, index=some_rows(rendition.index)), side=side, share=share, channels=channels
        )
        if place_for(setting, least.bytes_for(num_samples), free, visits=visits) is None:
            return None
    size = size_for(rendition, side=side, share=share, channels=channels)
    place = place_for(setting, size.bytes_for(num_samples), free, visits=visits)
    if place is None:
        return None
    if before and (before.source, before.size, before.where) == (rendition, size, place):
        return before
    room = OnDevice(num_samples, size, device) if place == "device" else in_host_memory(rendition, size)
    return Kept(rendition, size, room, np.zeros(num_samples, bool))
