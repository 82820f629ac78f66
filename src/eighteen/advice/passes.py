"""Passes of the loader over pictures of a dataset, with an eye on the clocks; ``feeding`` says what they amount to.

In: a packed dataset. Every setting (task, rendition, threads) goes over the same pictures, in turns with the others, so
that whatever else the machine does meanwhile disturbs all alike.
"""

from __future__ import annotations

import ctypes
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from eighteen.advice.feeding import TASKS, Feeding, Pass, Passes, Setting, Task, rows
from eighteen.base.errors import MachineError
from eighteen.base.order import Order
from eighteen.base.recipe import Augment, Eval, parse
from eighteen.base.schedule import schedule
from eighteen.base.world import World
from eighteen.data import dataset as datasets
from eighteen.data import native
from eighteen.data.crops import eval_boxes, train_boxes, train_flips
from eighteen.data.dataset import Rendition, Split
from eighteen.data.decoding import DECODER
from eighteen.data.loader import Batch, TrainLoader, eval_batches

CPU, AUGMENT, SEED = torch.device("cpu"), Augment(), 18
MIN_SCALE = 0.08  # of random crops: as torchvision's RandomResizedCrop, and whoever compares loaders
EVAL_CROP = 0.875  # 224 of 256

Progress = Callable[[int, int, int], object]  # passes done, of how many, 0


def bench(
    path: Path,
    *,
    threads: Sequence[int],
    num_pictures: int = 1024,
    batch: int = 256,
    num_repeats: int = 5,
    with_bare: bool = False,
    on_progress: Progress = lambda *_: None,
) -> Feeding:
    """Measure the loader on the train split of a dataset: each task on each rendition with each number of threads.

    num_pictures: of a pass, rounded up to whole batches      with_bare: also decode them without a loader
    raises DataError for the dataset, MachineError if ``with_bare`` and the native decoder is not built
    """
    if with_bare and native.library() is None:
        hint = "apt-get install g++ libjpeg-dev, then install eighteen again"
        raise MachineError("decode without the loader", got="no native decoder", need="it built", hint=hint)
    open_s, first_batch_s = time_to_first_batch(path, batch=batch)
    dataset = datasets.open(path)
    split = some(dataset.splits["train"], -(-num_pictures // batch) * batch)
    kinds = (False, True) if with_bare else (False,)
    settings = [
        Setting(task, rendition, num_threads, bare)
        for rendition in split.renditions
        for task in TASKS
        for num_threads in threads
        for bare in kinds
    ]
    one_pass = partial(make_pass, split, batch=batch, channels=dataset.channels)
    passes = in_turns(settings, one_pass, num_repeats=num_repeats, on_progress=on_progress)
    read_bytes = {name: float(one.index["length"].mean()) for name, one in split.renditions.items()}
    found = rows(passes, read_bytes=read_bytes)
    return Feeding(DECODER, split.num_samples, batch, num_repeats, open_s, first_batch_s, found)


def in_turns(
    settings: Sequence[Setting],
    one_pass: Callable[[Setting], Pass],
    *,
    num_repeats: int,
    on_progress: Progress = lambda *_: None,
) -> Passes:
    """``num_repeats`` rounds of a pass a setting, each in an order of its own, after a round that does not count."""
    passes: dict[Setting, list[Pass]] = {setting: [] for setting in settings}
    draw, total = random.Random(SEED), len(settings) * (1 + num_repeats)
    for turn in range(1 + num_repeats):
        for place, setting in enumerate(draw.sample(settings, len(settings)), start=1):
            passes[setting].append(one_pass(setting))
            on_progress(turn * len(settings) + place, total, 0)
    return {setting: done[1:] for setting, done in passes.items()}


def make_pass(split: Split, setting: Setting, *, batch: int, channels: int = 3) -> Pass:
    """Go through a split once, on the CPU, and look at the clocks before and after."""
    prepare = _bare if setting.bare else _training if setting.task.is_random else _evaluation
    work = prepare(split, setting, batch, channels)
    before_bytes = forget_peak_memory()
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    stages_s = work()
    cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    if setting.bare:
        cpu_s -= stages_s.pop("verify_s")
    peak_bytes = memory_bytes("VmHWM")
    grown_bytes = None if peak_bytes is None or before_bytes is None else peak_bytes - before_bytes
    return Pass(split.num_samples, wall_s, cpu_s, stages_s, grown_bytes)


def some(split: Split, count: int) -> Split:
    """So many samples of a split, spread over all of it; repeated where it has fewer."""
    chosen = np.arange(count) * max(1, split.num_samples // count) % split.num_samples
    renditions = {name: one.of(chosen) for name, one in split.renditions.items()}
    return Split(split.name, count, split.labels[chosen], renditions, split.source)


def time_to_first_batch(path: Path, *, batch: int = 256, size: int = 224) -> tuple[float, float]:
    """Seconds to open a dataset, and from there to the first training batch, decoded by all processors there are."""
    began = time.perf_counter()
    dataset = datasets.open(path)
    opened = time.perf_counter()
    with training(dataset.splits["train"], size=size, batch=batch, channels=dataset.channels) as loader:
        next(loader)
        return opened - began, time.perf_counter() - opened


def training(
    split: Split,
    *,
    size: int,
    batch: int,
    epochs: float = 1.0,
    channels: int = 3,
    rendition: str = "auto",
    num_threads: int | None = None,
) -> TrainLoader:
    """The loader of a training that does nothing but crop at random, on the CPU."""
    tree = {"name": "feeding", "model": {"name": "none"}, "eval": {"size": size}}
    phases = [{"epochs": epochs, "size": size, "batch": batch, "min_scale": MIN_SCALE}]
    recipe = parse({**tree, "optim": {"batch": batch, "lr": [[0, 1.0], [epochs, 0.0]]}, "phases": phases})
    return TrainLoader(
        split,
        schedule(recipe, split.num_samples),
        Order(SEED, split.num_samples),
        World(),
        augment=AUGMENT,
        device=CPU,
        channels=channels,
        rendition=rendition,
        num_threads=num_threads,
    )


def evaluation(
    split: Split,
    *,
    size: int,
    batch: int,
    channels: int = 3,
    rendition: str = "auto",
    num_threads: int | None = None,
) -> Iterator[Batch]:
    """The batches of an evaluation, on the CPU."""
    settings, how = Eval(size=size, crop=EVAL_CROP, batch=batch), {"rendition": rendition, "num_threads": num_threads}
    return eval_batches(split, settings, World(), device=CPU, channels=channels, **how)


def memory_bytes(field: str) -> int | None:
    """Of this process, VmRSS: now, VmHWM: at its height so far; None where there is no /proc."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), None)


def forget_peak_memory() -> int | None:
    """Give back what was freed, let VmHWM begin anew, and say what is left: bytes; None where the system cannot."""
    try:
        ctypes.CDLL(None).malloc_trim(0)  # of glibc
        Path("/proc/self/clear_refs").write_text("5")  # proc(5)
    except (AttributeError, OSError):
        return None
    return memory_bytes("VmRSS")


Work = Callable[[], dict[str, float]]  # goes through the pictures, returns the seconds of each stage


def _training(split: Split, setting: Setting, batch: int, channels: int) -> Work:
    def work() -> dict[str, float]:
        kind = {"size": setting.task.size, "batch": batch, "channels": channels}
        with training(split, **kind, rendition=setting.rendition, num_threads=setting.num_threads) as loader:
            for _ in loader:
                pass
            waits = loader.waits()
        return {stage: seconds for stage, seconds in waits.items() if stage not in ("wait_s", "arrive_s")}

    return work


def _evaluation(split: Split, setting: Setting, batch: int, channels: int) -> Work:
    def work() -> dict[str, float]:
        kind = {"size": setting.task.size, "batch": batch, "channels": channels}
        for _ in evaluation(split, **kind, rendition=setting.rendition, num_threads=setting.num_threads):
            pass
        return {}

    return work


def _bare(split: Split, setting: Setting, batch: int, channels: int) -> Work:
    """What the decoder alone takes for the pictures that the loader would make: all else is prepared here."""
    rendition, size = split.renditions[setting.rendition], setting.task.size
    store = np.frombuffer(b"".join(rendition.read(sample) for sample in range(split.num_samples)), np.uint8)
    wanted = _wanted(rendition, setting.task, store)
    out = np.zeros((batch, size, size, channels), np.uint8)

    def work() -> dict[str, float]:
        assert store.size, "what `wanted` points to"  # and kept as long as this function is
        total: dict[str, float] = {}
        decoder = native.NativeDecoder(setting.num_threads)
        for first in range(0, split.num_samples, batch):
            samples = np.arange(first, min(first + batch, split.num_samples))
            timings = decoder.fill(rendition, samples, wanted[samples], out[: len(samples)]).result().whole()
            total = {stage: total.get(stage, 0.0) + seconds for stage, seconds in asdict(timings).items()}
        decoder.close()
        return total

    return work


def _wanted(rendition: Rendition, task: Task, store: NDArray[np.uint8]) -> NDArray[np.void]:
    """All samples of a rendition whose bytes lie one after the other in ``store``: [N] of native.SAMPLE."""
    rows, samples = rendition.index, np.arange(len(rendition.index))
    wanted = native.described(rendition, samples)
    wanted["offset"] = store.ctypes.data + np.cumsum(rows["length"]) - rows["length"]
    wanted["file"] = native.MEMORY
    if not task.is_random:
        wanted["box"] = eval_boxes(rows["width"], rows["height"], crop=EVAL_CROP)
        return wanted
    visits = np.zeros_like(samples)
    wanted["box"] = train_boxes(
        rows["width"],
        rows["height"],
        seed=SEED,
        visits=visits,
        samples=samples,
        min_scale=MIN_SCALE,
        min_ratio=AUGMENT.min_ratio,
        max_ratio=AUGMENT.max_ratio,
    )
    wanted["mirror"] = train_flips(seed=SEED, visits=visits, samples=samples)
    return wanted
