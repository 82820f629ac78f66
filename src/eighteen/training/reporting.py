"""What a run tells: steps, evaluations and checkpoints become events, and what the ranks agreed on becomes known.

The first rank writes; the others only read what all of them summed up.
"""

from __future__ import annotations

import resource
import sys
import time
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from eighteen.base.errors import EighteenError, Stopped
from eighteen.base.events import STOP, OnEvent
from eighteen.base.schedule import Step
from eighteen.data.loader import TrainLoader
from eighteen.data.reference import DECODER
from eighteen.training.evaluate import Evaluation
from eighteen.training.job import Job
from eighteen.training.state import State, save

HEARTBEAT_S = 1.0


class Outcome(NamedTuple):
    """What one step found out, summed over the ranks: loss (summed over samples), hits where they were counted, and how many ranks ask for what."""

    loss: float
    top1: float
    top5: float
    skipped: float
    stop: float
    save: float


class Reader:
    """Reads the outcome of a step one step late, so that the device is never waited for."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu, self._pending = device.type == "cuda", None

    def push(self, step: Step, outcome: Tensor) -> tuple[Step, Outcome] | None:
        """Hand in this step's [6] outcome; get back the one before it."""
        event = None
        if self._on_gpu:
            outcome = outcome.to("cpu", non_blocking=True)  # into pinned memory
            event = torch.cuda.Event()
            event.record()
        before, self._pending = self.flush(), (step, outcome, event)
        return before

    def flush(self) -> tuple[Step, Outcome] | None:
        """The outcome not read yet, if there is one."""
        if self._pending is None:
            return None
        (step, outcome, event), self._pending = self._pending, None
        if event is not None:
            event.synchronize()
        return step, Outcome(*outcome.tolist())


class Reporter:
    """Turns what happens into events, for as long as the block lasts; leaves an ``end`` event however it is left.

    streak: steps in a row that changed no weight; stop_agreed, save_agreed: what some rank asked for and all now know.
    """

    def __init__(self, this: Job, state: State, loader: TrainLoader, on_event: OnEvent | None) -> None:
        self._this, self._state, self._loader, self._on_event = this, state, loader, on_event
        self._reader = Reader(this.device)
        self._interval = _Interval()
        self._heartbeat_at = self._saved_at = time.monotonic()
        self._cost_done, self._cost_left = 0.0, sum(_cost(this.plan.at(number)) for number in range(state.step, this.plan.num_steps))
        self._phase: int | None = None
        self._last: Evaluation | None = None
        self._is_best = False
        self._stop_asked = False
        self.streak = self.skipped = 0
        self.stop_agreed = self.save_agreed = False

    def __enter__(self) -> Self:
        this, split = self._this, self._this.data.splits["train"]
        if self._state.step:
            self.event("resume", step=self._state.step)
        self.event(
            "start",
            recipe=this.recipe.name,
            dataset=str(this.data.path),
            classes=this.num_classes,
            num_samples=split.num_samples,
            num_steps=this.plan.num_steps,
            epochs=this.recipe.epochs,
            world=this.world.size,
            device=torch.cuda.get_device_name(this.device) if this.device.type == "cuda" else "cpu",
            precision="bf16" if this.dtype else "fp32",
            decoder=DECODER,
            model=this.recipe.model.name,
            num_weights=sum(weight.numel() for weight in self._state.model.parameters()),
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _traceback: object) -> None:
        if error is not None:
            code = error.exit_code if isinstance(error, EighteenError) else 130 if isinstance(error, KeyboardInterrupt) else 1
            self._end(type(error).__name__, code)

    def event(self, kind: str, **facts: Any) -> None:
        if not self._this.world.is_first:
            return
        happened = self._this.run.event(kind, **facts)
        if self._on_event and self._on_event(happened) == STOP:
            self._stop_asked = True

    def memory_bytes(device: torch.device) -> int:
    """Most memory in use so far: on the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _cost(step: Step) -> float:
    """What a step costs in proportion to others: its pixels."""
    return step.batch * step.size**2
