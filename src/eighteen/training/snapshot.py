"""What a checkpoint holds, copied in the pause between two steps; it is then written while training goes on."""

from __future__ import annotations

import dataclasses
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eighteen.base.errors import MachineError
from eighteen.base.rundir import RunDir
from eighteen.training import checkpoint, copies
from eighteen.training.job import Job
from eighteen.training.recalibration import recalibrate
from eighteen.training.state import State, averaged_statistics, averaged_weights
from eighteen.training.writer import Saved


@dataclass(frozen=True, eq=False)
class Snapshot:
    """tensors: by part of the checkpoint, copies on the device they come from      facts: of its state.json
    copy_to: a path or URL, or ""
    copied: when the copies are made, on a GPU
    """

    run: RunDir
    tensors: dict[str, dict[str, Tensor]]
    facts: dict[str, Any]
    is_best: bool
    copy_to: str
    copied: torch.cuda.Event | None

    def write(self) -> Saved:
        """Write the checkpoint, delete those that are no longer kept, and copy it. Any thread may do it."""
        began = time.monotonic()
        with self._aside():
            path = checkpoint.save(self.run.checkpoints, tensors=self.tensors, state=self.facts)
        checkpoint.prune(self.run, keep=self.facts["best_checkpoint"])
        num_bytes = sum(file.stat().st_size for file in path.iterdir())
        seconds = time.monotonic() - began
        return Saved(path, self.facts["step"], num_bytes, seconds, self.is_best, self._copy(path))

    def _copy(self, path: Path) -> str | None:
        try:
            if self.copy_to:
                kept = {kept.name for kept in checkpoint.committed(self.run)}
                copies.copy(self.run, path, self.copy_to, kept=kept)
        except MachineError as error:
            return f"{error.tried}: {error.got}"
        return None

    def _aside(self) -> Any:
        """On a GPU the way to the host is a stream of its own: the steps do not wait for it."""
        if self.copied is None:
            return nullcontext()
        stream = torch.cuda.Stream()
        stream.wait_event(self.copied)
        return torch.cuda.stream(stream)


def take(this: Job, state: State, *, is_best: bool) -> Snapshot:
    """Copy what a checkpoint holds. All ranks have to call it, because they average their running statistics."""
    if is_best:
        state.best_checkpoint = checkpoint.name(state.step)
    with averaged_statistics(this, state) as own:
        tensors = {
            "model": _copies(state.model.state_dict()),
            "optimizer": _copies(checkpoint.optimizer_tensors(state.model, state.optimizer)),
        }
        if state.ema:
            with averaged_weights(state):
                recalibrate(this, state)
                tensors["ema"] = _copies(state.model.state_dict())
        if own is not None:
            tensors["ranks"] = {"statistics": own}
    facts = {
        "v": 1,
        "step": state.step,
        "cursor": dataclasses.asdict(this.order.cursor(state.plan.samples_before(state.step))),
        "seconds": state.seconds,
        "best_of": state.best_of,
        "best_top1": state.best_top1,
        "best_checkpoint": state.best_checkpoint,
        "evals_without_gain": state.evals_without_gain,
        "clock_s": state.clock.seconds,
        "energy_j": state.clock.joules,
        "revisions": [dataclasses.asdict(one) for one in state.revisions],
        "is_reached": state.is_reached,
        "card": state.card.to_json(),
    }
    copied = None
    if this.device.type == "cuda":
        copied = torch.cuda.Event()
        copied.record()
    copy_to = this.recipe.train.checkpoint_to if this.world.is_first else ""
    return Snapshot(this.run, tensors, facts, is_best, copy_to, copied)


def _copies(named: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in named.items()}
