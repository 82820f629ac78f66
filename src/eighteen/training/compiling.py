"""The model compiled before the first step, for every size and share of a batch that the run will have.

What is met later and was not compiled, a batch that lost bad samples, say, goes through the model as it is: nothing is
compiled while a run trains.

The compiler keeps its work in ~/.cache/eighteen/compiled ($XDG_CACHE_HOME, or wherever $TORCHINDUCTOR_CACHE_DIR says),
in formats of its own that can run code: a folder of the user's alone, as whoever can write there runs code as they.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from eighteen.base.events import Told
from eighteen.data.augment import normalise
from eighteen.training.heartbeat import Heartbeat
from eighteen.training.job import Job
from eighteen.training.state import State

CACHE = "TORCHINDUCTOR_CACHE_DIR"
# Pixels of a size that a GPU must still train on for "auto" to compile for it. Not measured here: we take it that a
# ResNet-50 trains on some 125 million a second on an H100, saves a fifth of that and compiles in about a minute.
PER_SECOND = 125e6
PAYS_FROM = 320 * PER_SECOND
CAPTURED = 64  # pixels: the largest size whose passes are captured


class Shape(NamedTuple):
    """What one phase brings: pictures of ``size`` in batches of ``batch``, of which a forward pass of this rank has one
    of ``counts``, and pixels that this rank will see of them."""

    size: int
    batch: int
    counts: tuple[int, ...]
    pixels: float


class Compiled(nn.Module):
    """A net that is compiled for some shapes of its pictures, [N, C, H, W], and stays as it is for all others."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.eager = net
        self.shapes: dict[torch.Size, Callable[[Tensor], Tensor]] = {}  # in a dict the net has no second child
        self._by_mode: dict[str | None, Callable[[Tensor], Tensor]] = {}

    def add(self, shape: torch.Size, mode: str | None = None) -> None:
        """Compile for this shape when it is first seen; mode: torch.compile's."""
        if mode not in self._by_mode:
            self._by_mode[mode] = torch.compile(self.eager, dynamic=False, mode=mode)
        self.shapes[shape] = self._by_mode[mode]

    def forward(self, images: Tensor) -> Tensor:
        return self.shapes.get(images.shape, self.eager)(images)


def compile_ahead(this: Job, state: State, pulse: Heartbeat) -> list[Told]:
    """Compile the net that steps call, forward and backward, for what is left of the run and where it pays, and tell
    size, batch and seconds of each. Weights, statistics, gradients and random numbers are afterwards what they were.

    With a compiler that is missing or fails the run goes on without, and says so.
    """
    if not (shapes := [shape for shape in shapes_left(this, state) if pays(this, shape)]):
        return []
    net, told = Compiled(state.net), list[Told]()
    with _quietly(), _as_it_was(state, this.device):
        for shape in shapes:
            began = time.monotonic()
            pulse.doing("compile")
            try:
                for count in shape.counts:
                    net.add(torch.Size((count, this.channels, shape.size, shape.size)), mode_for(this, shape))
                    _pass(this, state, net, count, shape.size)
            except Exception as error:  # compilers raise anything
                net.shapes.clear()
                why = str(error).strip().splitlines() or [type(error).__name__]
                text = f"compile the model for {shape.size} px: {why[0]}; going on without: see train.compile"
                return [*told, ("warning", {"text": text})]
            told.append(("compile", {"size": shape.size, "batch": shape.batch, "seconds": time.monotonic() - began}))
    state.net = net
    state.train_mode()
    return told


def pays(this: Job, shape: Shape) -> bool:
    """Whether to compile for a shape, as ``train.compile`` says. "auto": on a GPU, if there is enough to come.

    Never by itself on a CPU, where convolutions already are what takes the time (see docs/training.md), nor where
    somebody wants the same bits: those of a compiled net are others, and a machine without a compiler has them not.
    """
    train = this.recipe.train
    if train.compile != "auto":
        return train.compile
    return this.device.type == "cuda" and not (train.exact or train.deterministic) and shape.pixels >= PAYS_FROM


def mode_for(this: Job, shape: Shape) -> str | None:
    """On one GPU the kernels of tiny pictures are shorter than their launches: those of a pass are captured as a CUDA
    graph and launched together. Not where ranks exchange gradients on the way, or a step takes several passes.
    """
    is_whole = shape.counts == (shape.batch,) and this.world.size == 1
    return "reduce-overhead" if this.device.type == "cuda" and is_whole and shape.size <= CAPTURED else None


def shapes_left(this: Job, state: State) -> list[Shape]:
    """Of the steps still to come, in their order, each once. Where the run has a time there will be as many as fit,
    which is only measured later, with the net that is compiled or not.
    """
    steps: dict[tuple[int, int, int], int] = {}
    for row, count in state.plan.steps_from(state.step):
        key = (row.sizes[0], row.batch, row.micro_batch or 0)
        steps[key] = steps.get(key, 0) + count
    pixels = {key: key[0] ** 2 * key[1] * count / this.world.size for key, count in steps.items()}
    scale = 1.0
    if this.recipe.budget.seconds and pixels:  # by what the clock had before, which all ranks know alike
        scale = PER_SECOND * (this.recipe.budget.seconds - state.clock.before_s) / sum(pixels.values())
    return [
        Shape(size, batch, tuple(sorted(state.parts.counts(batch, most))), scale * pixels[size, batch, most])
        for size, batch, most in steps
    ]


def _pass(this: Job, state: State, net: nn.Module, count: int, size: int) -> None:
    """Forward and backward as a step does it, and nothing travels to other ranks."""
    pixels = torch.zeros(count, this.channels, size, size, dtype=torch.uint8, device=this.device)
    images = normalise(pixels.contiguous(memory_format=torch.channels_last), state.card.mean, state.card.std)
    labels = torch.zeros(count, dtype=torch.int64, device=this.device)
    with state.net.no_sync() if isinstance(state.net, DistributedDataParallel) else nullcontext():
        with torch.autocast(this.device.type, this.dtype, enabled=this.dtype is not None):
            logits = net(images)
        F.cross_entropy(logits.float(), labels, reduction="sum").backward()


@contextmanager
def _as_it_was(state: State, device: torch.device) -> Iterator[None]:
    """What a forward and a backward pass change, put back at the end."""
    buffers = [(buffer, buffer.clone()) for buffer in state.model.buffers()]
    gradients = [(weight, one := weight.grad, None if one is None else one.clone()) for weight in state.weights]
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        for buffer, before in buffers:
            buffer.copy_(before)
        for weight, gradient, before in gradients:
            weight.grad = gradient
            if gradient is not None and before is not None:
                gradient.copy_(before)


@contextmanager
def _quietly() -> Iterator[None]:
    """The compiler with our cache, room for all shapes, and none of its processes left behind."""
    import torch._dynamo.config  # takes seconds
    from torch._inductor.async_compile import shutdown_compile_workers
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    chosen = os.environ.get(CACHE)
    if chosen in (None, default_cache_dir()) and (cache := _cache()):  # torch itself sets it once it is loaded
        os.environ[CACHE] = str(cache)
    settings: dict[str, Any] = {"recompile_limit": 10_000, "accumulated_recompile_limit": 100_000}
    try:
        with ExitStack() as stack:
            stack.enter_context(torch._dynamo.config.patch(**settings))
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")  # of the compiler about itself
            yield
    finally:
        shutdown_compile_workers()
        os.environ.pop(CACHE, None)
        if chosen is not None:
            os.environ[CACHE] = chosen


def _cache() -> Path | None:
    """Where compiled kernels are kept between runs; None, and torch keeps them for a while, if nothing can be there."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eighteen" / "compiled"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None
