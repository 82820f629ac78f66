"""What a run's events and its dataset show: the facts from which the doctor draws.

In: events, as ``base.events`` lists them; a dataset's index. Out: frozen facts. Pure, and light at import.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from eighteen.base.events import Event
from eighteen.base.recipe import Recipe

MOST_S = 30.0  # of a run that trains, that a window looks back
STAGES = ("verify_s", "decode_s", "resize_s", "copy_s")  # of the loader's threads, but for reading


@dataclass(frozen=True)
class Window:
    """A stretch of training in one phase, seen from the first rank.

    seconds: in which ``images`` were trained on, pauses included
    data, communication, other: shares of it, as ``waits`` of a step event
    arrive: share of it for which shards were awaited that were still on their way to this machine
    read_s, work_s: seconds of the rank's threads for each of its pictures: reading, and all else
    own, others, throttled, stolen: processors, as ``machine.Usage`` tells; None: not told
    waits: of every rank (data, communication), as shares      is_kept: pictures stay in memory once decoded
    num_graphs: that torch.compile made meanwhile
    """

    phase: int
    size: int
    batch: int
    seconds: float
    images: int
    num_steps: int
    data: float
    communication: float
    other: float
    read_s: float
    work_s: float
    threads: int
    own: float | None
    others: float | None
    throttled: float | None
    memory_bytes: int
    is_kept: bool
    waits: Sequence[tuple[float, float]] = ()
    num_graphs: int = 0
    stolen: float | None = None
    arrive: float = 0.0

    @property
    def images_per_s(self) -> float:
        """Of all ranks, pauses left out."""
        return self.images / max(1e-9, self.seconds * (1 - self.other))


@dataclass(frozen=True)
class Setup:
    """What a run says at its start.

    cpus: processors that the ranks of the first machine may use together, a cgroup's quota counted; affinity: that they
        may run on
    bf16: whether the device computes in it
    """

    recipe: str
    model: str
    device: str
    precision: str
    world: int
    local_world: int
    cpus: float
    bf16: bool
    num_samples: int
    num_weights: int
    affinity: int = 0

    @property
    def is_cpu(self) -> bool:
        return self.device == "cpu"

    @property
    def rank_cpus(self) -> float:
        """Processors for each rank."""
        return self.cpus / self.local_world


@dataclass(frozen=True)
class Pauses:
    """What training stood still for, over ``seconds`` of it.

    save_s: that checkpoints took while training went on, too
    """

    seconds: float
    eval_s: float = 0.0
    num_evals: int = 0
    stall_s: float = 0.0
    save_s: float = 0.0
    num_saves: int = 0
    compile_s: float = 0.0
    num_skipped: int = 0


@dataclass(frozen=True)
class Pictures:
    """A dataset's train split, and how it lies to the validation split.

    side: mean, in pixels, of what is decoded for the phase's size; needed: that would suffice
    counts: samples of each class      copies, alike: pictures of the validation split that are also in train, or nearly
    looked_at: of the validation split, for those      fits: all decoded train pictures fit into memory
    """

    side: float
    needed: float
    counts: Sequence[int]
    classes: Sequence[str]
    copies: int = 0
    alike: Sequence[tuple[str, str]] = ()
    looked_at: int = 0
    fits: bool = False


@dataclass(frozen=True)
class Trials:
    """What only an experiment tells; empty where there was none.

    step_s: seconds of a rank's step of so many pictures      other_s: of one of ``batch`` in the other precision
    small_work_s: threads' seconds for each picture from a rendition that just suffices
    fed_s: seconds of a step of ``batch`` pictures that the loader makes meanwhile as it did, where processors compute
    others: processors that other processes had during these
    kept_s: of one whose pictures it only crops from memory      knee_s: of one of ``gains.knee`` pictures
    """

    batch: int = 0
    step_s: Mapping[int, float] = field(default_factory=dict)
    other_s: float | None = None
    small_work_s: float | None = None
    fed_s: float | None = None
    others: float | None = None
    kept_s: float | None = None
    knee_s: float | None = None


@dataclass(frozen=True)
class Evidence:
    setup: Setup
    window: Window | None = None
    pauses: Pauses | None = None
    pictures: Pictures | None = None
    trials: Trials = Trials()
    recipe: Mapping[str, Any] = field(default_factory=dict)
    is_network: bool = False  # the dataset's disk is another machine's
    memory_total: int | None = None  # of the GPU
    throttles: Sequence[str] = ()  # what holds GPUs' clocks down
    doubted: Sequence[tuple[str, str, str, float]] = ()  # (picture, label, likely class, its probability)
    num_labels: int = 0  # of validation pictures that were looked at for these


def keys(recipe: Recipe) -> dict[str, Any]:
    """The recipe's sections by dotted keys; of the phases the first."""
    tree = recipe.model_dump(mode="json")
    tree["phases.0"] = tree["phases"][0]
    sections = ("optim", "phases.0", "eval", "data", "train", "model")
    return {f"{section}.{key}": value for section in sections for key, value in tree[section].items()}


def setup(start: Event) -> Setup:
    """Of a ``start`` event; runs of before it told of processors are taken to have had one a rank."""
    facts = {"local_world": start["world"], "cpus": float(start["world"]), "bf16": False, "affinity": 0, **start}
    return Setup(**{name: facts[name] for name in Setup.__dataclass_fields__})


def window(events: Sequence[Event], *, most_s: float | None = None) -> Window | None:
    """Of the phase that took longest, or of the last ``most_s`` of the last phase; None before two step events.

    A phase's first step event is where its time begins: it waited for the first batch.
    """
    kept = {one["phase"]: one.get("kept") for one in events if one["event"] == "phase"}
    steps = [one for one in events if one["event"] == "step"]
    by_phase: dict[int, list[tuple[Event, Event]]] = {}
    for before, now in pairwise(steps):
        if before["phase"] == now["phase"] and now["step"] > before["step"]:
            by_phase.setdefault(now["phase"], []).append((before, now))
    if not by_phase:
        return None
    phase = steps[-1]["phase"] if most_s else max(by_phase, key=lambda key: sum(map(_seconds, by_phase[key])))
    pairs = by_phase.get(phase, [])
    if most_s:
        newest = steps[-1]["time_s"]
        pairs = [pair for pair in pairs if newest - pair[0]["time_s"] <= most_s]
    return _window(pairs, kept.get(phase) is not None) if pairs else None


def _seconds(pair: tuple[Event, Event]) -> float:
    return pair[1]["time_s"] - pair[0]["time_s"]


def _window(pairs: Sequence[tuple[Event, Event]], is_kept: bool) -> Window:
    seconds = sum(map(_seconds, pairs))
    last = pairs[-1][1]
    images = sum(now["samples"] - before["samples"] for before, now in pairs)
    mine = images / max(1, len(last.get("ranks", {}).get("data", [0])))

    def mean(of: Any) -> float:
        return sum(_seconds(pair) * of(pair[1]) for pair in pairs) / max(1e-9, seconds)

    def cpus(name: str) -> float | None:
        return mean(lambda one: one["cpus"][name]) if all(name in one["cpus"] for _, one in pairs) else None

    def stage(*names: str) -> float:
        return sum(now["stages"][name] for _, now in pairs for name in names) / max(1.0, mine)

    ranks = range(len(last.get("ranks", {}).get("data", [])))
    return Window(
        phase=last["phase"],
        size=last["size"],
        batch=last["batch"],
        seconds=seconds,
        images=images,
        num_steps=sum(now["step"] - before["step"] for before, now in pairs),
        data=mean(lambda one: one["waits"]["data"]),
        communication=mean(lambda one: one["waits"]["communication"]),
        other=mean(lambda one: one["waits"]["other"]),
        read_s=stage("read_s"),
        work_s=stage(*STAGES),
        threads=last["threads"],
        own=cpus("own"),
        others=cpus("others"),
        throttled=cpus("throttled"),
        memory_bytes=last["memory_bytes"],
        is_kept=is_kept,
        waits=[
            (
                mean(lambda one, r=rank: one["ranks"]["data"][r]),
                mean(lambda one, r=rank: one["ranks"]["communication"][r]),
            )
            for rank in ranks
        ],
        stolen=cpus("stolen"),
        arrive=sum(now["stages"].get("arrive_s", 0.0) for _, now in pairs) / max(1e-9, seconds),
        num_graphs=last.get("graphs", 0) - pairs[0][0].get("graphs", 0),
    )


def pauses(events: Sequence[Event]) -> Pauses | None:
    """Of all that was told since the last ``start``; None before the first step event."""
    began = max((place for place, one in enumerate(events) if one["event"] == "start"), default=0)
    events = events[began:]
    steps = [one["time_s"] for one in events if one["event"] == "step"]
    if not steps:
        return None
    of = {kind: [one for one in events if one["event"] == kind] for kind in ("eval", "checkpoint", "compile", "skip")}
    return Pauses(
        seconds=max(1e-9, events[-1]["time_s"] - events[0]["time_s"]),
        eval_s=sum(one["seconds"] for one in of["eval"]),
        num_evals=len(of["eval"]),
        stall_s=sum(one["stall_s"] for one in of["checkpoint"]),
        save_s=sum(one["seconds"] for one in of["checkpoint"]),
        num_saves=len(of["checkpoint"]),
        compile_s=sum(one["seconds"] for one in of["compile"]),
        num_skipped=len(of["skip"]),
    )
