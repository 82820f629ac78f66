"""What happened in a run, as facts: one versioned JSON object a line in ``events.jsonl``.

The truth that every display derives from. Every event has ``v`` (format version), ``event`` (its kind) and ``time_s``
(seconds since the epoch). The kinds and their facts:

    start       recipe, dataset, classes, num_samples, num_steps, epochs, world, local_world, cpus, affinity, device,
                precision, bf16, decoder, model, num_weights, energy: what measures it
    resume      step, epoch, checkpoint
    restart     attempt, reason, world, step, stacks: ranks were lost, and all are started again
    phase       phase, size, batch, epoch, step
    step        step, num_steps, epoch, phase, size, batch, samples, loss, top1, top5, lr, images_per_s, waits, stages,
                skipped, memory_bytes, eta_s, threads, cpus, ranks, graphs, cost_usd, energy_j
    eval        step, epoch, samples, split, size, rect, loss, top1, top5, tta, top1_tta, top5_tta, num_samples,
                seconds, best, cost_usd, energy_j
    epoch       step, epoch, samples, hours, top1, top5, cost_usd, energy_j
    checkpoint  step, path, bytes, seconds, best
    tuned       threads, micro_batch, batch, measured, left, seconds, cached
    calibrated  seconds, cached, step_s, eval_s, end_s
    budget      step, seconds, spent_s, factor, every, num_steps, epochs, speed_ratio, expected_s
    reached     step, top1, seconds, cost_usd, energy_j
    skip        step, streak: a step with a non-finite loss changed no weight
    notice      cloud, what, when, goes
    warning     text
    finding     code, what, why, evidence, command, gain, fix, is_safe, fixed
    fixed       step, fixes
    end         reason, step, num_taken, top1, top5, tta, top1_tta, top5_tta, best_top1, seconds, exit_code, clock_s,
                cost_usd, energy_j, reached

top1 and top5 are shares in [0, 1] except in ``epoch``, which has percent as the 2018 program printed it, and null
where an epoch was not evaluated. ``waits`` are shares of the time since the last step event, ``stages`` seconds of
the loader's threads in it, of which there are ``threads`` a rank, ``cpus`` who used the first rank's machine
(``machine.Usage``), ``ranks`` what each rank waited for, where there are several, ``graphs`` how many graphs
torch.compile has made.
``cost_usd``, which is not there without a price, and ``energy_j``, null where it is not measured, are of the whole
run so far.

A run that was killed goes on from its last checkpoint: what follows a ``resume`` replaces all that was told of its step
and later ones before (``standing``).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

VERSION = 1
STOP = "stop"  # what an ``on_event`` callback returns to end the run as Ctrl-C would

Event = dict[str, Any]
Told = tuple[str, dict[str, Any]]  # kind and facts of an event to be
OnEvent = Callable[[Event], object]


def event(kind: str, **facts: Any) -> Event:
    return {"v": VERSION, "event": kind, "time_s": time.time(), **facts}


def append(path: Path, happened: Event) -> None:
    """Write one event as one line, in one write, so that a reader never sees half of one."""
    line = json.dumps(happened, ensure_ascii=False, allow_nan=False, default=str) + "\n"
    with path.open("ab", buffering=0) as file:
        file.write(line.encode())


def read(path: Path) -> Iterator[Event]:
    """All whole events of a file, in order; a last line that is still being written is left out."""
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)


def last(path: Path, *kinds: str) -> Event | None:
    """The last event of one of these kinds; None if there is none, or no file."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    marks = [f'"event": "{kind}"'.encode() for kind in kinds]
    for line in reversed(lines):
        if any(mark in line for mark in marks):
            try:
                return json.loads(line)
            except ValueError:  # the write that the run was killed in
                continue
    return None


def mend(path: Path) -> None:
    """Cut off the line that a run was killed in the middle of, before another is written behind it."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)


def standing(events: Iterable[Event]) -> list[Event]:
    """What counts: without what was told of steps that were done again after a resume."""
    kept: list[Event] = []
    for one in events:
        if one["event"] == "resume":
            kept = [before for before in kept if _stands(before, one["step"])]
        kept.append(one)
    return kept


def _stands(before: Event, step: int) -> bool:
    """Whether an event still counts when the run goes back to ``step`` finished steps."""
    if before["event"] in ("resume", "checkpoint", "end"):  # which tell of so many steps that are done
        return before.get("step", 0) <= step  # the end of a run that lost a peer may not know
    return before.get("step", -1) < step


class Follower:
    """Reads events as they are written: each call of ``new`` returns those that came since the last."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0

    def new(self) -> list[Event]:
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            whole, _, _ = file.read().rpartition(b"\n")
        if not whole:
            return []
        self._offset += len(whole) + 1
        return [json.loads(line) for line in whole.split(b"\n")]
