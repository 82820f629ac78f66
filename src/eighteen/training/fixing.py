"""Takes up at the end of an epoch what the doctor has found safe to change, where the recipe lets it.

In: ``RUN/fixes.json``, which whoever watches the run writes. Out: another loader or smaller parts, on all ranks alike.
"""

from __future__ import annotations

from eighteen.base import fixes
from eighteen.base.events import Told
from eighteen.data.loader import TrainLoader
from eighteen.training import dist
from eighteen.training.job import Job
from eighteen.training.room import Room


class Fixing:
    """What holds already is taken up when it is made: a run that goes on has its fixes from the first step."""

    def __init__(self, this: Job, loader: TrainLoader, room: Room) -> None:
        self._this, self._loader, self._room = this, loader, room
        self._done: dict[str, int] = {}
        if this.recipe.train.fix:
            self._done = self._agreed()
            self._tune(self._done)

    def epoch_ended(self, next_step: int) -> list[Told]:
        """Apply what is new; the facts of a ``fixed`` event for it, if there is anything."""
        if not self._this.recipe.train.fix:
            return []
        new = {key: value for key, value in self._agreed().items() if self._done.get(key) != value}
        if not new:
            return []
        self._done |= new
        self._tune(new)
        if size := new.get("train.micro_batch"):
            self._room.shrink(next_step, size)
        return [("fixed", {"step": next_step, "fixes": new})]

    def _tune(self, new: dict[str, int]) -> None:
        self._loader.retune(num_threads=new.get("data.threads"), prefetch=new.get("data.prefetch"))

    def _agreed(self) -> dict[str, int]:
        """What the first rank reads: the others may see the file a moment later."""
        world = self._this.world
        return dist.share(fixes.asked(self._this.run) if world.is_first else None, world, self._this.device)
