"""Batches on the device, in the order of the run: decoded ahead by threads, copied ahead to the device.

In: a split, a schedule, an order, and which rank of which world this is. Out: ``(Step, Batch)`` for each step of
training, or the batches of an evaluation. Which samples a batch has, and which part of each, is a pure function of seed
and position; threads and ranks only share the work.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace
from itertools import chain, takewhile
from types import TracebackType
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray

from eighteen.base.errors import DataError, RecipeError, Stalled, did_you_mean
from eighteen.base.hardware import available_bytes, num_cpus
from eighteen.base.order import Order
from eighteen.base.recipe import Augment, Data, Eval, Phase
from eighteen.base.schedule import Schedule, Step
from eighteen.base.world import World
from eighteen.data.crops import eval_boxes, moved, rectangle, train_boxes, train_flips
from eighteen.data.dataset import Rendition, Split
from eighteen.data.index import some_rows
from eighteen.data.kept import Kept, Memory, Setting, keep, place_for, size_for
from eighteen.data.maker import Batch, BatchMaker, Cut, Sending
from eighteen.data.prefetch import Ahead
from eighteen.data.tolerance import OnBad, refuse
from eighteen.data.views import ways

STEPS_TOGETHER = 8  # whose boxes and flips are drawn at once: one call of numpy takes as long for few as for many


class TrainLoader:
    """Iterates over (Step, Batch) from step ``start`` to the end of the schedule.

    ``replan`` gives it another schedule, from the next step on; it may have prepared batches of other phases in vain.
    ``retune`` changes how many threads decode, and how far they are ahead.

    Use it as a context manager: leaving it ends its threads. A failure in any thread is raised by ``next`` as it was.

    on_bad: called with each bad sample by ``next``, which raises what it raises; by default a DataError that names
        shard and sample. If it returns, the sample is left out of its batches; one of which nothing is left is an error

    augment: flip, min_ratio and max_ratio are done here, all else on the device by ``augment``      channels: 1 or 3
    rendition: a name, or "auto": the smallest that suffices, see ``choose_rendition``
    kept: where decoded pixels are kept, see ``kept``
    num_threads: that decode; by default this rank's share of the processors      prefetch: batches decoded ahead
    patience_s: how long ``next`` waits for a batch before it raises Stalled, with what it waits for; ask again to go on
    """

    def __init__(
        self,
        split: Split,
        schedule: Schedule,
        order: Order,
        world: World,
        *,
        augment: Augment,
        device: torch.device,
        channels: int,
        rendition: str = "auto",
        kept: Setting = "never",
        num_threads: int | None = None,
        prefetch: int = 3,
        patience_s: float | None = None,
        start: int = 0,
    ) -> None:
        self._split, self._schedule, self._order, self._world = split, schedule, order, world
        self._augment, self._rendition = augment, rendition
        self._lock = threading.Lock()  # over the next four
        self._next, self._drawn = start, start  # the step that comes next, and the first that is not drawn yet
        self._cuts_off: list[int] = []  # of each schedule after the first: the first step drawn before that it changed
        self._waited_before_s = 0.0
        self._kept: Setting = kept
        self._channels, self._device = channels, device
        self._free = free_memory(world, device)
        self.kept_bytes: dict[int, tuple[str, int] | None] = {}  # by phase: "host" or "device", and how much
        self._maker = BatchMaker(split, device, channels, num_threads or _share_of_cpus(world))
        self._prefetch, self._patience_s = prefetch, patience_s
        self._ahead: Ahead[tuple[int, Step, Sending]] | None = None
        self._reported_wait_s = 0.0
        self.on_bad: OnBad = refuse
        self._failure: DataError | None = None

    def __enter__(self) -> Self:
        self._run_ahead()
        return self

    def _run_ahead(self) -> None:
        self._waited_before_s += self._ahead.waited_s if self._ahead else 0.0
        patience = {"patience_s": self._patience_s, "late": self._stalled}
        self._ahead = Ahead(self._made(), depth=self._prefetch, **patience)

    @property
    def num_threads(self) -> int:
        """That decode."""
        return self._maker.num_threads

    def retune(self, *, num_threads: int | None = None, prefetch: int | None = None) -> None:
        """Decode with so many threads, and run so many batches ahead, from the next batch that is begun; the batches
        stay what they were.
        """
        self._maker.num_threads = num_threads or self._maker.num_threads
        self._prefetch = prefetch or self._prefetch
        if self._ahead:
            self._ahead.deepen(self._prefetch)

    def replan(self, schedule: Schedule) -> None:
        """Go on by another schedule. It must say of all steps taken what the one before did."""
        with self._lock:
            old, self._schedule = self._schedule, schedule
            drawn = range(self._next, min(self._drawn, schedule.num_steps))
            changed = next((number for number in drawn if not _same(old.at(number), schedule.at(number))), drawn.stop)
            self._cuts_off.append(changed)
            self._drawn = max(self._next, changed)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[tuple[Step, Batch]]:
        return self

    def __next__(self) -> tuple[Step, Batch]:
        assert self._ahead is not None, "use it as a context manager: with TrainLoader(...) as loader"
        if self._failure:
            raise self._failure
        step, batch = self._next_batch()
        if batch.places is not None:
            self._check(step, batch)
        return step, batch

    def _next_batch(self) -> tuple[Step, Batch]:
        while True:
            assert self._ahead is not None
            try:
                plan, step, sent = next(self._ahead)
            except StopIteration:
                if self._next >= self._schedule.num_steps:
                    raise
                self._run_ahead()  # it had come to the end of a shorter schedule
                continue
            batch = sent.receive()  # also one that is not used: what it brought is kept
            with self._lock:
                if step.number < min(self._cuts_off[plan:], default=step.number + 1):
                    self._next = step.number + 1
                    return self._schedule.at(step.number), batch

    def _check(self, step: Step, batch: Batch) -> None:
        """What becomes of a batch with bad samples."""
        try:
            for bad in batch.bad:
                self.on_bad(bad)
        except DataError as error:
            self._failure = error
            raise
        if not len(batch.ids):
            got, hint = "samples that are all bad", "eighteen check the dataset; bad.csv lists them"
            raise DataError(f"make this rank's batch of step {step.number}", got=got, need="a sound one", hint=hint)

    def waits(self) -> dict[str, float]:
        """Seconds since the last call: read_s, verify_s, decode_s and resize_s (summed over threads), copy_s, arrive_s
        (for shards that were not here yet), and wait_s, which the consumer waited for batches.
        """
        waited_s = self._waited_before_s + (self._ahead.waited_s if self._ahead else 0.0)
        since, self._reported_wait_s = waited_s - self._reported_wait_s, waited_s
        return {**self._maker.stages.take(), "wait_s": since}

    def close(self) -> None:
        """End all threads: at most the few pictures that are being decoded are waited for."""
        self._next = self._schedule.num_steps  # nothing comes any more
        self._maker.cancel()
        if self._ahead:
            self._ahead.close()
        self._maker.close()

    def _stalled(self) -> Stalled:
        slow, patience_s = self._maker.slowest(), self._patience_s or 0.0
        if awaited := self._maker.awaited:
            what, got = f"bring {awaited}", f"not all of it after {patience_s:g} s"
        elif slow is None or slow.seconds < patience_s / 10:  # no single picture keeps it
            what, got = "make the next batch", f"nothing for {patience_s:g} s"
        else:
            shard = slow.rendition.shards[slow.rendition.index[slow.sample]["shard"]]
            what = f"{slow.stage} sample {slow.sample} of {shard} in {slow.rendition.root}"
            got = f"no end of it for {slow.seconds:.1f} s"
        return Stalled(what, got=got, need="a disk that answers", hint="wait, or stop and go on later with --resume")

    def _made(self) -> Iterator[tuple[int, Step, Sending]]:
        """Steps and their batches, and which schedule each was drawn by."""
        steps = deque[tuple[int, Step]]()
        for sent in self._maker.make(self._cuts(steps)):
            yield *steps.popleft(), sent

    def _cuts(self, steps: deque[tuple[int, Step]]) -> Iterator[Cut]:
        """What this rank has to decode, step after step; each step is put behind ``steps``."""
        phase, rendition, kept = -1, None, None
        while drawn := self._draw():
            plan, following = drawn
            step = following[0]
            if rendition is None or step.phase != phase:
                phase, rendition = step.phase, self._rendition_for(step)
                kept = self._kept_for(step, rendition, kept)
            for step, cut in zip(following, self._cuts_for(following, rendition, kept), strict=True):
                steps.append((plan, step))
                yield cut

    def _draw(self) -> tuple[int, list[Step]] | None:
        """The next few steps, all of one phase, and the number of the schedule they are of; None at its end."""
        with self._lock:
            numbers = range(self._drawn, min(self._drawn + STEPS_TOGETHER, self._schedule.num_steps))
            if not numbers:
                return None
            steps = [self._schedule.at(number) for number in numbers]
            steps = list(takewhile(lambda step: step.phase == steps[0].phase, steps))
            self._drawn += len(steps)
            return len(self._cuts_off), steps

    def _rendition_for(self, step: Step) -> Rendition:
        return rendition_for(self._split, step.row, self._rendition)

    def _kept_for(self, step: Step, rendition: Rendition, before: Kept | None) -> Kept | None:
        """Where this phase's pictures are kept; what an earlier phase has kept is used again if it is the same."""
        kept = keep(
            rendition,
            before,
            side=step.size,
            share=_share_of(rendition, step.row),
            channels=self._channels,
            visits=self._schedule.visits(step.phase),
            setting=self._kept,
            free=self._free,
            device=self._device,
        )
        self.kept_bytes[step.phase] = kept and (kept.where, kept.num_bytes)
        return kept

    def _cuts_for(self, steps: list[Step], rendition: Rendition, kept: Kept | None) -> Iterator[Cut]:
        """What this rank has to decode for some steps of one phase."""
        first, mine = steps[0], self._world.slice(steps[0].batch)
        stream = self._order.at(first.first, first.batch * len(steps))
        samples, visits = (one.reshape(len(steps), -1)[:, mine.start : mine.stop] for one in stream)
        augment, who = self._augment, {"seed": self._order.seed, "visits": visits.ravel(), "samples": samples.ravel()}
        rendition.require_sound(who["samples"])
        boxes = train_boxes(
            rendition.index["width"][who["samples"]],
            rendition.index["height"][who["samples"]],
            **who,
            min_scale=first.row.min_scale,
            max_scale=first.row.max_scale,
            min_ratio=augment.min_ratio,
            max_ratio=augment.max_ratio,
        )
        flips = train_flips(**who, flip=augment.flip)
        for each in zip(samples, visits, boxes.reshape(*samples.shape, 4), flips.reshape(samples.shape), strict=True):
            yield Cut(rendition, *each, first.size, first.size, kept)


def eval_batches(
    split: Split,
    settings: Eval,
    world: World,
    *,
    device: torch.device,
    channels: int,
    num_threads: int | None = None,
    rendition: str = "auto",
    on_bad: OnBad = refuse,
    samples: NDArray[np.int64] | None = None,
) -> Generator[Batch, None, None]:
    """This rank's batches of a split, or of these of its samples: central crops, every sample exactly once over all
    ranks.

    Batches are the same at any world size, and rank r takes batches r, r + size ...; so a rank may have none. With
    ``settings.rect`` a batch holds pictures of like aspect ratio and is cropped to their mean: short side ``size``,
    both sides rounded to multiples of 32, at most twice as long as short. With ``settings.tta`` a batch also has what
    ``views`` makes its views of.

    on_bad: as of ``TrainLoader``; a batch of which nothing is left is none
    """
    stored = choose_rendition(split, rendition, size=settings.size, share=settings.crop**2, square=True)
    maker = BatchMaker(split, device, channels, num_threads or _share_of_cpus(world))
    cuts = _eval_cuts(stored, settings, samples)[world.rank :: world.size]
    ahead = Ahead(maker.make(chain.from_iterable(cuts)), depth=2)
    try:
        for sent in zip(*[ahead] * (1 + len(ways(settings.tta, settings.size))), strict=True):
            crops = [one.receive() for one in sent]
            for bad in {bad.sample: bad for crop in crops for bad in crop.bad}.values():
                on_bad(bad)
            batch = _sound_in_all(*crops)
            if len(batch.ids):
                yield batch
    finally:
        maker.cancel()
        ahead.close()
        maker.close()


def choose_rendition(split: Split, name: str, *, size: int, share: float, square: bool) -> Rendition:
    """The rendition of that name, or for "auto" the smallest whose crops, on average, need not be enlarged to ``size``.

    Where even the crops of "full" are smaller than that, only one whose crops are no smaller than those will do.
    share: mean share of a picture's area that a crop has, or of its central square if ``square``
    raises RecipeError if there is no rendition of that name
    """
    if name != "auto":
        require_renditions(split, {"data.rendition": name})
        return split.renditions[name]
    sides = {key: _mean_crop_side(one, share, square) for key, one in split.renditions.items()}
    enough = min(float(size), sides["full"])
    return split.renditions[min((key for key in sides if sides[key] >= enough), key=sides.__getitem__)]


def _same(one: Step, other: Step) -> bool:
    """Whether their batches are the same; the rates need not be."""
    return (one.phase, one.first) == (other.phase, other.first)


def require_renditions(split: Split, wanted: Mapping[str, str]) -> None:
    """RecipeError, with how to add them, if the split lacks renditions; wanted: key of the recipe -> name."""
    valid = ["auto", *split.renditions]
    missing = {key: name for key, name in wanted.items() if name not in valid}
    if not missing:
        return
    key, name = next(iter(missing.items()))
    hint = did_you_mean(name, valid)
    if name.isdecimal():
        sides = sorted({int(one) for one in [*valid, *missing.values()] if one.isdecimal()})
        root = split.renditions["full"].root
        hint = f"eighteen pack SOURCE {root} --renditions {','.join(map(str, sides))} --force, or --set {key}=auto"
    raise RecipeError(key, got=repr(name), need=f"one of {', '.join(valid)}", hint=hint)


def kept_bytes(
    split: Split, row: Phase, settings: Data, *, channels: int, visits: int, free: Memory
) -> tuple[Literal["host", "device"], int] | None:
    """Where a phase of one size keeps decoded pictures, and in how many bytes; None where each visit decodes them.

    visits: to each picture, in the phase      Raises MachineError where they are asked to be kept and do not fit
    """
    stored, (side,) = rendition_for(split, row, settings.rendition), row.sizes
    size = size_for(stored, side=side, share=_share_of(stored, row), channels=channels)
    num_bytes = size.bytes_for(split.num_samples)
    where = place_for(settings.keep, num_bytes, free, visits=visits)
    return where and (where, num_bytes)


def free_memory(world: World, device: torch.device) -> Memory:
    """That this rank may take: its share of the machine's, and its device's."""
    on_device = None
    if device.type == "cuda":  # torch keeps what was freed, for itself
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        on_device = torch.cuda.mem_get_info(device)[0] + kept
    return Memory(available_bytes() // world.local_size, on_device)


def rendition_for(split: Split, row: Phase, name: str) -> Rendition:
    """What a phase reads. name: what the recipe says where the phase does not"""
    square = row.min_scale == 1.0
    return choose_rendition(split, row.rendition or name, size=row.sizes[0], share=_mean_share(row), square=square)


def _mean_share(row: Phase) -> float:
    """Of a picture's area, or of its central square, that a phase's crops have."""
    return (row.min_scale + row.max_scale) / 2


def _share_of(rendition: Rendition, row: Phase) -> float:
    """Of the pictures' areas, that a phase's crops have."""
    return _mean_share(row) * (_square_share(rendition) if row.min_scale == 1.0 else 1.0)


def _square_share(rendition: Rendition) -> float:
    """What the central squares have of the pictures' areas, on average."""
    widths, heights = _some_sides(rendition)
    return float((np.minimum(widths, heights) / np.maximum(widths, heights)).mean()) if len(widths) else 1.0


def _mean_crop_side(rendition: Rendition, share: float, square: bool) -> float:
    widths, heights = _some_sides(rendition)
    areas = np.minimum(widths, heights) ** 2 if square else widths * heights
    return float(np.sqrt(areas * share).mean()) if len(areas) else 0.0


def _some_sides(rendition: Rendition) -> NDArray[np.float64]:
    """Widths and heights of some pictures, evenly spread: enough for a mean, and a million take a while."""
    rows = some_rows(rendition.index)
    return np.stack([rows["width"], rows["height"]]).astype(np.float64)


def _sound_in_all(batch: Batch, *others: Batch) -> Batch:
    """One batch of several crops of the same samples, of those that could be decoded in all."""
    crops = [batch, *others]
    if any(crop.places is not None for crop in crops):
        for crop in crops:
            batch = _only(batch, torch.isin(batch.ids, crop.ids))
        crops = [_only(crop, torch.isin(crop.ids, batch.ids)) for crop in crops]
    return replace(crops[0], moved=tuple(crop.images for crop in crops[1:]))


def _only(batch: Batch, rows: torch.Tensor) -> Batch:
    """rows: [N] bool"""
    on_device = rows.to(batch.images.device)
    images, labels = batch.images[on_device], batch.labels[on_device]
    return replace(batch, images=images, labels=labels, ids=batch.ids[rows], visits=batch.visits[rows])


def _eval_cuts(rendition: Rendition, settings: Eval, wanted: NDArray[np.int64] | None) -> list[list[Cut]]:
    """The central crops of each batch, and behind them those for the ``ways`` they are moved."""
    widths, heights = np.asarray(rendition.index["width"]), np.asarray(rendition.index["height"])
    wanted = np.arange(len(widths)) if wanted is None else wanted
    rendition.require_sound(wanted)
    ratios = widths[wanted] / heights[wanted] if settings.rect else np.ones(len(wanted))
    order = np.argsort(ratios, kind="stable")
    by_ratio, ratios = wanted[order], ratios[order]
    cuts = []
    for first in range(0, len(by_ratio), settings.batch):
        samples = by_ratio[first : first + settings.batch]
        width = height = settings.size
        if settings.rect:
            width, height = rectangle(settings.size, float(ratios[first : first + settings.batch].mean()))
        boxes = eval_boxes(widths[samples], heights[samples], crop=settings.crop, ratio=width / height)
        nothing = np.zeros(len(samples), np.int64)
        others = [moved(boxes, widths[samples], heights[samples], way) for way in ways(settings.tta, settings.size)]
        cuts.append(
            [
                Cut(rendition, samples, nothing, each, nothing.astype(bool), width, height, None)
                for each in (boxes, *others)
            ]
        )
    return cuts


def _share_of_cpus(world: World) -> int:
    return max(1, num_cpus() // world.local_size)
