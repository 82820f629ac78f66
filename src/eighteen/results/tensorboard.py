"""TensorBoard files from events: a sink, and ``rebuild``, which makes them anew from a run's events.jsonl.

The x axis is the number of training samples seen, so that runs with other batches can be compared; the wall time is the
event's. Tags:

    train/loss  train/top1  train/top5  train/lr  train/images_per_s
    train/size  train/batch  train/epoch  train/skipped
    SPLIT/loss  SPLIT/top1  SPLIT/top5      (val/top1 ...; shares in [0, 1])
    SPLIT/top1_tta  SPLIT/top5_tta      (with test-time augmentation, where the recipe asks for it: at the end)
    time/STAGE      (shares of the time since the last step event: data, communication, compute ...)
    machine/memory_bytes  machine/cost_usd  machine/energy_j      (both of the run so far, where they are known)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

from tensorboard.compat.proto.event_pb2 import Event as Record  # pyright: ignore[reportAttributeAccessIssue]  # generated
from tensorboard.compat.proto.event_pb2 import SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from eighteen.base.errors import UsageError
from eighteen.base.events import Event, read

_TRAIN = ("loss", "top1", "top5", "lr", "images_per_s", "size", "batch", "epoch", "skipped")
_EVAL = ("loss", "top1", "top5", "top1_tta", "top5_tta")


class TensorBoard:
    """Call it with each event. Appends a new file to ``logdir``, as TensorBoard wants of a resumed run."""

    def __init__(self, logdir: Path) -> None:
        self._writer = EventFileWriter(str(logdir), flush_secs=10)
        self._resumed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def __call__(self, event: Event) -> None:
        self._resumed |= event["event"] == "resume"
        values = dict(scalars(event))
        if not values:
            return
        if self._resumed:
            self._forget_from(event)
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        self._writer.add_event(Record(wall_time=event["time_s"], step=event["samples"], summary=summary))

    def _forget_from(self, event: Event) -> None:
        """A resumed run went back to its checkpoint: TensorBoard drops what it has of these samples and later."""
        start = SessionLog(status=SessionLog.START)
        self._writer.add_event(Record(wall_time=event["time_s"], step=event["samples"], session_log=start))
        self._resumed = False


def scalars(event: Event) -> Iterator[tuple[str, float]]:
    """The (tag, value) pairs of an event; none if it says nothing about a number of samples."""
    if event.get("samples") is None:
        return
    if event["event"] == "step":
        yield from _numbers(event, "train", _TRAIN)
        yield from _numbers(event, "machine", ("memory_bytes", "cost_usd", "energy_j"))
        waits = event.get("waits") or {}
        yield from _numbers(waits, "time", tuple(waits))
    elif event["event"] == "eval":
        yield from _numbers(event, event.get("split") or "val", _EVAL)


def rebuild(events: Path, logdir: Path) -> int:
    """Write the TensorBoard files of a run anew from its events.jsonl; returns the number of events read.

    UsageError if logdir has TensorBoard files already, since all that lie in it would be shown as one run.
    """
    if any(logdir.glob("*.tfevents.*")):
        raise UsageError(
            f"rebuild TensorBoard files in {logdir}",
            got="a folder that has some",
            need="a new folder",
            hint=f"give {logdir}-2, or remove the old files",
        )
    count = 0
    with TensorBoard(logdir) as board:
        for event in read(events):
            board(event)
            count += 1
    return count


def _numbers(facts: Mapping[str, object], group: str, names: tuple[str, ...]) -> Iterator[tuple[str, float]]:
    for name in names:
        value = facts.get(name)
        if isinstance(value, int | float):
            yield f"{group}/{name}", float(value)
