"""Each part of a training alone, measured on this machine: disk, decoding, copies, steps, all-reduce, checkpoints.

In: a recipe and a packed dataset. Out: ``Parts``. Nothing is assumed: what cannot be measured is said, with the reason.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from eighteen.advice import wires
from eighteen.advice.by_hand import ByHand
from eighteen.advice.ceilings import synchronize
from eighteen.advice.feeding import Pass, Setting, Task, thread_counts
from eighteen.advice.parts import Part, Parts, part
from eighteen.advice.passes import make_pass, some
from eighteen.advice.trial import trial
from eighteen.base import machine, rundir
from eighteen.base.errors import MachineError
from eighteen.base.hardware import num_cpus
from eighteen.base.recipe import Phase, Recipe
from eighteen.base.world import World
from eighteen.data.dataset import Dataset, Rendition
from eighteen.data.kept import in_host_memory, size_for
from eighteen.data.loader import choose_rendition
from eighteen.training import dist
from eighteen.training import snapshot as snapshots
from eighteen.training import state as states
from eighteen.training.job import Job, job
from eighteen.training.train import torch_settings

BLOCK = 4 * 2**20  # bytes of a read in sequence
MOST_BLOCKS, MOST_SAMPLES = 64, 256
LEAST, MOST = 3, 20  # repeats
PART_S = 2.0  # after which a part is not repeated any more, once it was often enough
DECODED = 256  # pictures of a pass
MOST_RANKS = 8  # processes that are started to see what several take

Progress = Callable[[int, int, int], object]


def measure(
    recipe: Recipe,
    data: Dataset,
    world: World,
    *,
    runs_dir: Path = Path(),
    part_s: float = PART_S,
    trials: Sequence[int] = (),
    on_progress: Progress = lambda *_: None,
) -> Parts:
    """All parts of training this recipe on this dataset's train split.

    world: of ranks that somebody has started, which all call this; alone, all-reduce is measured between new processes
    runs_dir: where checkpoints are written      part_s: how long a part is repeated, once it was often enough
    trials: also whole runs of a few steps, on so many ranks each
    """
    parts: list[Part] = []
    unmeasured: dict[str, str] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix=".eighteen-", dir=runs_dir)))
        stack.enter_context(dist.connected(world, dist.device_of(world)))
        run = rundir.create(folder, "bench", recipe=recipe, command="", environment={})
        this = job(recipe, data, run, world)
        stack.enter_context(torch_settings(this))
        by_hand = ByHand(this)
        num_weights = sum(weight.numel() for weight in by_hand.model.parameters())
        gradient_bytes = 4 * sum(weight.numel() for weight in by_hand.model.parameters() if weight.requires_grad)
        rows = {phase.sizes[0]: phase for phase in recipe.flat_phases}
        work: list[tuple[str, Callable[[], Iterator[Part]]]] = [
            ("disk", lambda: _disk(data.splits["train"].renditions["full"], part_s)),
            ("decode", lambda: _decode(data, rows, recipe.data.rendition, this.channels, part_s)),
            ("copy", lambda: _copy(this, rows, part_s)),
            ("step", lambda: _steps(this, by_hand, rows, part_s)),
            ("evaluate", lambda: _evaluate(this, by_hand, part_s)),
            ("checkpoint", lambda: _checkpoint(this, part_s)),
            ("all-reduce", lambda: _all_reduce(this, gradient_bytes)),
        ]
        on_cpu = this.device.type == "cpu"
        work += [("run", partial(trial, recipe, data, ranks=ranks, on_cpu=on_cpu, runs_dir=folder)) for ranks in trials]
        for done, (kind, parts_of) in enumerate(work):
            on_progress(done, len(work), 0)
            try:
                parts.extend(parts_of())
            except (MachineError, OSError, RuntimeError) as error:
                unmeasured[kind] = error.got if isinstance(error, MachineError) else str(error).splitlines()[0]
        on_progress(len(work), len(work), 0)
        return Parts(
            machine.look(folder),
            data.path.name,
            recipe.name,
            recipe.model.name,
            num_weights,
            torch.cuda.get_device_name(this.device) if this.device.type == "cuda" else "cpu",
            str(this.dtype or torch.float32).removeprefix("torch."),
            torch.get_num_threads(),
            parts,
            unmeasured,
        )


def ranks_here() -> list[int]:
    """1, 2, 4 ... and all GPUs of this machine, or processes where there is none."""
    return thread_counts(torch.cuda.device_count() or min(num_cpus(), MOST_RANKS))


def repeated(work: Callable[[], object], part_s: float, device: torch.device | None = None) -> list[float]:
    """Seconds of each time, after one that does not count."""
    times, ends = list[float](), time.monotonic() + part_s
    while len(times) < 1 + LEAST or (len(times) <= MOST and time.monotonic() < ends):
        _wait(device)
        began = time.perf_counter()
        work()
        _wait(device)
        times.append(time.perf_counter() - began)
    return times[1:]


def _wait(device: torch.device | None) -> None:
    if device:
        synchronize(device)


def _disk(rendition: Rendition, part_s: float) -> Iterator[Part]:
    """Blocks of the shards one after the other, then samples anywhere; cold where the kernel drops what it keeps."""
    shards = [rendition.root / shard for shard in rendition.shards]
    places = [(path, at) for path in shards for at in range(0, path.stat().st_size - BLOCK + 1, BLOCK)]
    if places:
        yield _reads("in sequence", [(*place, BLOCK) for place in places[:MOST_BLOCKS]], part_s)
    rng = np.random.default_rng(18)
    chosen = rng.permutation(len(rendition.index))[:MOST_SAMPLES]
    rows = rendition.index[chosen]
    samples = [(shards[row["shard"]], int(row["offset"]), int(row["length"])) for row in rows]
    yield _reads("by sample", samples, part_s)


def _reads(how: str, places: Sequence[tuple[Path, int, int]], part_s: float) -> Part:
    files = {path: os.open(path, os.O_RDONLY) for path, _, _ in places}
    try:
        for file in files.values():
            _drop(file)
        is_cold = [_is_cold(files[path], at) for path, at, _ in places]
        times, ends = list[float](), time.monotonic() + part_s
        for path, at, length in places:
            began = time.perf_counter()
            os.pread(files[path], length, at)
            times.append(time.perf_counter() - began)
            if time.monotonic() > ends:
                break
    finally:
        for file in files.values():
            os.close(file)
    state = "cold" if all(is_cold) else "partly cold" if any(is_cold) else "warm, or the kernel does not say"
    mean_bytes = sum(length for _, _, length in places[: len(times)]) / len(times)
    return part("disk", times, mean_bytes, "B", how=how, state=state)


def _drop(file: int) -> None:
    """Ask the kernel to forget what it keeps of a file. It need not."""
    with suppress(OSError, AttributeError):
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)


def _is_cold(file: int, at: int) -> bool:
    """Whether a read there has to wait for the disk."""
    try:
        os.preadv(file, [bytearray(1)], at, os.RWF_NOWAIT)
    except OSError as error:
        return error.errno == errno.EAGAIN
    except AttributeError:  # no Linux
        return False
    return False


def _decode(data: Dataset, rows: dict[int, Phase], rendition: str, channels: int, part_s: float) -> Iterator[Part]:
    """Passes of the loader, at each phase's size, with one thread, two, four ... all; with one also over pixels that
    are kept in memory.
    """
    split = some(data.splits["train"], DECODED)
    for size, row in rows.items():
        share, is_square = (row.min_scale + row.max_scale) / 2, row.min_scale == 1.0
        read = choose_rendition(split, row.rendition or rendition, size=size, share=share, square=is_square)
        task, whole = Task(f"crop {size}", size, True), split
        settings = [Setting(task, read.name, threads) for threads in thread_counts(num_cpus())]
        if read.kind == "jpeg":
            kept = in_host_memory(read, size_for(read, side=size, share=share, channels=channels))
            whole = replace(split, renditions={**split.renditions, "kept": kept})
            settings.append(Setting(task, "kept", 1))
        one_pass = partial(make_pass, whole, batch=min(DECODED, row.batch), channels=channels)
        for setting in settings:
            passes = _passes(partial(one_pass, setting), part_s)
            yield part(
                "decode",
                [one.wall_s for one in passes],
                passes[0].num_pictures,
                "pictures",
                size=size,
                threads=setting.num_threads,
                rendition=setting.rendition,
                cpu_s=sum(one.cpu_s for one in passes) / len(passes) / passes[0].num_pictures,
            )


def _passes(one_pass: Callable[[], Pass], part_s: float) -> list[Pass]:
    """As ``repeated``, of what takes the time by itself."""
    found, ends = list[Pass](), time.monotonic() + part_s
    while len(found) < 1 + LEAST or (len(found) <= MOST and time.monotonic() < ends):
        found.append(one_pass())
    return found[1:]


def _copy(this: Job, rows: dict[int, Phase], part_s: float) -> Iterator[Part]:
    """A batch of each size from pinned memory to the device."""
    if this.device.type == "cpu":
        raise MachineError("copy to the device", got="the CPU is the device", need="a GPU", hint="")
    for size, row in rows.items():
        share = row.batch // this.world.size
        batch = torch.zeros(share, size, size, this.channels, dtype=torch.uint8, pin_memory=True)
        times = repeated(lambda of=batch: of.to(this.device, non_blocking=True), part_s, this.device)
        yield part("copy", times, batch.nbytes, "B", size=size)


def _steps(this: Job, by_hand: ByHand, rows: dict[int, Phase], part_s: float) -> Iterator[Part]:
    """Forward, backward and optimiser on noise, one rank's share of each phase's batch."""
    for size, row in rows.items():
        share = max(2, row.batch // this.world.size)
        share = min(share, row.micro_batch or share)
        images = torch.randint(0, 256, (share, this.channels, size, size), dtype=torch.uint8, device=this.device)
        images = images.contiguous(memory_format=torch.channels_last)
        labels = torch.randint(0, this.num_classes, (share,), device=this.device)
        times: dict[str, list[float]] = {"forward": [], "backward": [], "optimizer": []}

        def step(images: torch.Tensor = images, labels: torch.Tensor = labels, times=times) -> None:
            marks = [_now(this.device)]
            for each in by_hand.parts(images, labels):
                each()
                marks.append(_now(this.device))
            for name, before, after in zip(times, marks[:-1], marks[1:], strict=True):
                times[name].append(after - before)

        whole = repeated(step, part_s, this.device)
        yield part("step", whole, share, "pictures", size=size, of="all")
        for name, taken in times.items():
            yield part("step", taken[1:], share, "pictures", size=size, of=name)


def _now(device: torch.device) -> float:
    synchronize(device)
    return time.perf_counter()


def _evaluate(this: Job, by_hand: ByHand, part_s: float) -> Iterator[Part]:
    settings = this.recipe.final_eval
    shape = (settings.batch, this.channels, settings.size, settings.size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=this.device)
    by_hand.model.eval()
    with torch.inference_mode():
        times = repeated(lambda: by_hand.forward(images), part_s, this.device)
    by_hand.train_mode()
    yield part("evaluate", times, settings.batch, "pictures", size=settings.size)


def _checkpoint(this: Job, part_s: float) -> Iterator[Part]:
    """Of a run on one rank, by the first."""
    if not this.world.is_first:
        return
    alone = replace(this, world=World())
    state, sizes = states.start(alone, with_init=False), list[int]()

    def save() -> None:
        sizes.append(snapshots.take(alone, state, is_best=False).write().num_bytes)
        state.step = min(state.step + 1, state.plan.num_steps)  # a short recipe has fewer than there are repeats

    times = repeated(save, part_s)
    yield part("checkpoint", times, sizes[-1], "B")


def _all_reduce(this: Job, gradient_bytes: int) -> Iterator[Part]:
    if this.world.size > 1:
        counts = {this.world.size: wires.between(this.world, this.device, gradient_bytes)}
    else:
        _, *several = ranks_here()
        if not several:
            raise MachineError("reduce", got="one processor: no second rank to reduce with", need="two", hint="")
        on_cpu = this.device.type == "cpu"
        counts = {ranks: wires.here(ranks, gradient_bytes, on_cpu=on_cpu) for ranks in several}
    for ranks, found in counts.items():
        for num_bytes, times in found.items():
            where = "machines" if this.world.size > this.world.local_size else "here"
            yield part("all-reduce", times, num_bytes, "B", ranks=ranks, where=where)
