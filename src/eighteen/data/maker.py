"""Batches out of cuts: which pictures, and which part of each, go in; pixels and labels on the device come out.

The threads of a decoder do the work; while one batch is waited for, the next is in work already. Where pixels are kept,
a batch decodes only those pictures that no batch before it has, whole, and is cropped from what is kept.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from time import perf_counter
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eighteen.base.errors import DataError
from eighteen.data.dataset import Rendition, Split
from eighteen.data.decoder import Pending, Slow, Timings
from eighteen.data.decoding import decoder
from eighteen.data.kept import Kept, OnDevice
from eighteen.data.prefetch import Sent, Slot, Transfer
from eighteen.data.tolerance import Bad
from eighteen.data.whole import are_whole, take

IN_WORK = 2  # batches that are decoded at a time, so that no thread idles at the end of one


@dataclass(frozen=True, eq=False)
class Batch:
    """This rank's part of a batch; N may be 0 where there are more ranks than pairs of samples.

    images: [N, C, H, W] uint8, channels_last, on the device      labels: [N] int64, on the device
    ids, visits: [N] int64, on the host: which samples, and how often each had been seen before
    places: [N] int64, on the host: where each would be if no sample were bad; None where none is
    bad: samples that are left out, those of them that no batch before has named
    moved: in evaluation, the same samples cropped elsewhere: each as images
    """

    images: Tensor
    labels: Tensor
    ids: Tensor
    visits: Tensor
    places: Tensor | None = None
    bad: tuple[Bad, ...] = ()
    moved: tuple[Tensor, ...] = ()

    def row(self, place: int) -> int:
        """The row of the sample that has this place, or of the next one that is not left out."""
        return place if self.places is None else int(torch.searchsorted(self.places, place))


class Cut(NamedTuple):
    """What a batch is made of: N samples of a rendition, their boxes and flips, and the size they are brought to.

    places: where each was before bad samples were left out; None where none was
    """

    rendition: Rendition
    samples: NDArray[np.int64]
    visits: NDArray[np.int64]
    boxes: NDArray[np.float32]
    flips: NDArray[np.bool_]
    width: int
    height: int
    kept: Kept | None
    places: NDArray[np.int64] | None = None

    def sound(self, is_sound: NDArray[np.bool_]) -> Cut:
        """Those of the samples for which it is true."""
        places = np.arange(len(self.samples)) if self.places is None else self.places
        parts = (self.samples, self.visits, self.boxes, self.flips, places)
        samples, visits, boxes, flips, places = (part[is_sound] for part in parts)
        return self._replace(samples=samples, visits=visits, boxes=boxes, flips=flips, places=places)


class Sending(Protocol):
    """A batch that is on its way to the device."""

    def receive(self) -> Batch: ...


class BatchMaker:
    """Makes batches, with the threads and the memory that takes.

    channels: 1 or 3      num_threads: that decode; another number counts from the next batch on
    """

    def __init__(self, split: Split, device: torch.device, channels: int, num_threads: int) -> None:
        self.stages = _Stages()
        self._split, self._labels, self._channels = split.name, split.labels, channels
        self._transfer = Transfer(device, num_slots=IN_WORK + 1)
        self.num_threads, self._used_threads = num_threads, num_threads  # the first may be changed by another thread
        self._decoder = decoder(num_threads)
        self.awaited: str | None = None  # a file that is not here yet
        self._is_cancelled = False

    def make(self, cuts: Iterable[Cut]) -> Iterator[Sending]:
        """Batches in the order of their cuts."""
        in_work = deque[_Filling]()
        for cut in cuts:
            lacking = cut.rendition.lacking(cut.samples)
            if lacking or self.num_threads != self._used_threads:
                while in_work:
                    yield self._end(in_work.popleft())
            if lacking:
                self._await(cut.rendition, lacking)
            if self.num_threads != self._used_threads:
                self._change_threads(self.num_threads)
            in_work.append(self._begin(cut))
            if len(in_work) == IN_WORK:
                yield self._end(in_work.popleft())
        while in_work:
            yield self._end(in_work.popleft())

    def _change_threads(self, count: int) -> None:
        """Others decode from here on; nothing is being decoded."""
        self._decoder.close()
        self._decoder, self._used_threads = decoder(count), count

    def _await(self, rendition: Rendition, lacking: list[str]) -> None:
        """Files of a rendition that are still on their way."""
        assert rendition.arriving
        began, self.awaited = perf_counter(), f"{lacking[0]} from {rendition.arriving.url}"
        rendition.arriving.wait(lacking, goes_on=lambda: not self._is_cancelled)
        self.stages.add(arrive_s=perf_counter() - began)
        self.awaited = None

    def slowest(self) -> Slow | None:
        return self._decoder.slowest()

    def cancel(self) -> None:
        self._is_cancelled = True
        self._decoder.cancel()

    def close(self) -> None:
        self._decoder.close()

    def _begin(self, cut: Cut) -> _Filling:
        kept = cut.kept
        if kept is None:
            return self._fill(cut)
        if kept.is_complete and isinstance(kept.place, Rendition):
            return self._fill(_from_kept(cut, kept, kept.place))
        return self._fill(_lacking(cut, kept), then=cut)

    def _fill(self, cut: Cut, then: Cut | None = None, bad: tuple[Bad, ...] = ()) -> _Filling:
        began = perf_counter()
        slot = self._transfer.slot((len(cut.samples), cut.height, cut.width, self._channels))
        self.stages.add(copy_s=perf_counter() - began)
        out = slot.images.numpy()
        if are_whole(cut.rendition, cut.boxes, out):
            return _Filling(cut, slot, take(cut.rendition, cut.samples, cut.flips, out), then, bad)
        pending = self._decoder.start(cut.rendition, cut.samples, cut.boxes, cut.flips, out)
        return _Filling(cut, slot, pending, then, bad)

    def _end(self, filling: _Filling) -> Sending:
        cut, slot, pending, then, bad = filling
        filled = pending.result()
        self.stages.add(**vars(filled.timings))
        if filled.bad:
            bad += tuple(self._bad(cut, place, error) for place, error in sorted(filled.bad.items()))
        if then is None or then.kept is None:
            if filled.bad:
                cut, slot = _sound(cut, slot, [*filled.bad])
            return _Arriving(self._send(slot, cut), cut, bad)
        kept = then.kept
        kept.bad.update(one.sample for one in bad)
        if isinstance(kept.place, OnDevice):
            then = _without_bad(then, kept)
            parts = (cut.samples, then.samples, kept.boxes(then.samples, then.boxes), then.flips)
            return _ArrivingParts(self._send(slot, then, *parts), then, kept.place, bad)
        kept.store(cut.samples, slot.images.numpy())
        return self._end(self._fill(_from_kept(then, kept, kept.place), bad=bad))

    def _bad(self, cut: Cut, place: int, error: DataError) -> Bad:
        rendition, sample = cut.rendition, int(cut.samples[place])
        shard = rendition.shards[rendition.index[sample]["shard"]]
        return Bad(self._split, rendition.name, shard, sample, rendition.origin(sample) or "", error)

    def _send(self, slot: Slot, cut: Cut, *others: NDArray[Any]) -> Sent:
        began = perf_counter()
        sent = self._transfer.send(slot, *(torch.from_numpy(one) for one in (self._labels[cut.samples], *others)))
        self.stages.add(copy_s=perf_counter() - began)
        return sent


class _Filling(NamedTuple):
    """Pictures that are being decoded: a batch, or what is not kept yet of the batch that comes ``then``."""

    cut: Cut
    slot: Slot
    pending: Pending
    then: Cut | None
    bad: tuple[Bad, ...] = ()  # that were found before


def _lacking(cut: Cut, kept: Kept) -> Cut:
    """The pictures of a batch that are not kept yet, whole."""
    samples = kept.missing(cut.samples)
    rows, nothing = kept.source.index[samples], np.zeros(len(samples), np.int64)
    boxes = np.stack([nothing, nothing, rows["width"], rows["height"]], axis=1).astype(np.float32)
    return Cut(kept.source, samples, nothing, boxes, nothing.astype(bool), kept.size.width, kept.size.height, None)


def _from_kept(cut: Cut, kept: Kept, place: Rendition) -> Cut:
    """The same batch, out of pictures that are kept."""
    cut = _without_bad(cut, kept)
    return cut._replace(rendition=place, boxes=kept.boxes(cut.samples, cut.boxes), kept=None)


def _without_bad(cut: Cut, kept: Kept) -> Cut:
    if not kept.bad:
        return cut
    is_sound = ~np.isin(cut.samples, [*kept.bad])
    return cut if is_sound.all() else cut.sound(is_sound)


def _sound(cut: Cut, slot: Slot, bad: list[int]) -> tuple[Cut, Slot]:
    """A batch without its bad samples: the rows of the others move up."""
    is_sound = np.ones(len(cut.samples), bool)
    is_sound[bad] = False
    sound = cut.sound(is_sound)
    images = slot.images[: len(sound.samples)]
    images.numpy()[...] = slot.images.numpy()[is_sound]
    return sound, replace(slot, images=images)


class _Arriving(NamedTuple):
    """A ``Sending`` of pictures."""

    sent: Sent
    cut: Cut
    bad: tuple[Bad, ...]

    def receive(self) -> Batch:
        images, labels = self.sent.receive()
        return _batch(images, labels, self.cut, self.bad)


class _ArrivingParts(NamedTuple):
    """A ``Sending`` of the pictures that the device lacks, and of which parts of which pictures make the batch."""

    sent: Sent
    cut: Cut
    place: OnDevice
    bad: tuple[Bad, ...]

    def receive(self) -> Batch:
        lacking, labels, lacking_ids, ids, boxes, flips = self.sent.receive()
        self.place.pixels[lacking_ids] = lacking
        images = self.place.crop(ids, boxes, flips, self.cut.height, self.cut.width)
        return _batch(images, labels, self.cut, self.bad)


def _batch(images: Tensor, labels: Tensor, cut: Cut, bad: tuple[Bad, ...]) -> Batch:
    places = None if cut.places is None else torch.from_numpy(cut.places)
    ids, visits = torch.from_numpy(cut.samples), torch.from_numpy(cut.visits)
    return Batch(images.permute(0, 3, 1, 2), labels, ids, visits, places, bad)


class _Stages:
    """Seconds by stage, added by one thread and taken by another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds = dict.fromkeys((*(field.name for field in fields(Timings)), "copy_s", "arrive_s"), 0.0)

    def add(self, **seconds: float) -> None:
        with self._lock:
            for stage, more in seconds.items():
                self._seconds[stage] += more

    def take(self) -> dict[str, float]:
        with self._lock:
            taken, self._seconds = self._seconds, dict.fromkeys(self._seconds, 0.0)
        return taken
