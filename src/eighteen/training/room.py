"""Steps that fit into memory: one that does not is taken again in parts half as large, and so are all after it whose
pictures are as large.

The global batch stays, so rates and numbers of steps do too. How large parts are from which step and size on is kept in
``RUN/room.json``: whoever goes on with the run, from whichever checkpoint, does what was done before. A rank that is
not alone cannot take a step again, since the others are in the middle of it: it writes this down and ends with
OutOfMemory, and whoever started the ranks starts them again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from eighteen.base.errors import MachineError, OutOfMemory
from eighteen.base.events import Told
from eighteen.base.files import write_json
from eighteen.base.schedule import Step
from eighteen.data.maker import Batch
from eighteen.training.job import Job
from eighteen.training.parts import Slices
from eighteen.training.state import State
from eighteen.training.step import train_step

LEAST = 2  # samples of a part: batch norm takes no statistics of one


class Room:
    """warn: called with a line for people when parts become smaller; until it is set they are kept in ``told``"""

    def __init__(self, this: Job, state: State) -> None:
        self._this, self._state, self._halvings = this, state, read(this.run.room)
        self.told: list[Told] = []
        self.warn: Callable[[str], object] = lambda text: self.told.append(("warning", {"text": text}))

    def step(self, batch: Batch, now: Step, *, count_hits: bool, asks: tuple[bool, ...]) -> Tensor:
        """``train_step``, in parts that fit. MachineError where even the smallest do not."""
        while True:
            now = self._fitting(now)
            try:
                return train_step(self._this, self._state, batch, now, count_hits=count_hits, asks=asks)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                said = str(error).strip().splitlines()[0]
            self._take_back()  # only now, when nothing of what was computed is held by the error any more
            self._halve(now, said)

    def shrink(self, step: int, size: int) -> None:
        """From this step on take parts of at most so many pictures of any size; all ranks are told the same."""
        if isinstance(self._state.parts, Slices) and size >= LEAST:
            self._keep(step, 0, size)

    def _fitting(self, now: Step) -> Step:
        """The step in parts that are known to fit."""
        parts = [size for step, side, size in self._halvings if step <= now.number and side <= now.size]
        if not parts or 0 < now.micro_batch <= min(parts):
            return now
        return replace(now, row=now.row.model_copy(update={"micro_batch": min(parts)}))

    def _take_back(self) -> None:
        """What a step that was broken off has changed."""
        state = self._state
        state.optimizer.zero_grad(set_to_none=state.drops_gradients)
        state.parts.take_back()
        if self._this.device.type == "cuda":
            torch.cuda.empty_cache()

    def _halve(self, now: Step, said: str) -> None:
        world = self._this.world
        share = world.slice(now.batch)
        whole = share.stop - share.start
        size = min(now.micro_batch or whole, whole) if isinstance(self._state.parts, Slices) else 0
        tried = f"take step {now.number} in parts of {size or 'a virtual worker'}"
        if size // 2 < LEAST:
            need, hint = "memory for it", "a smaller model or size, or more --set train.virtual_workers"
            raise MachineError(tried, got=said, need=need, hint=hint)
        self._keep(now.number, now.size, size // 2)
        text = f"memory ran out at step {now.number}: parts of {size // 2} pictures from here on"
        if world.size > 1:
            need, hint = "memory for it", f"eighteen train --resume {self._this.run.path}, which takes smaller ones"
            raise OutOfMemory(tried, got=said, need=need, hint=hint)
        self.warn(text)

    def _keep(self, step: int, side: int, size: int) -> None:
        self._halvings.append((step, side, size))
        write_json(self._this.run.room, {"v": 1, "halvings": self._halvings})


def is_out_of_memory(error: BaseException) -> bool:
    """A GPU has a type for it, the CPU only words."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error)


def read(path: Path) -> list[tuple[int, int, int]]:
    """(step, side, size of parts), from that step on and for pictures of that side or more; none where the file is not
    there or says something else.
    """
    try:
        rows = json.loads(path.read_text("utf-8"))["halvings"]
        found = [(int(step), int(side), int(size)) for step, side, size in rows]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [one for one in found if min(one) >= 0 and one[-1] >= LEAST]
