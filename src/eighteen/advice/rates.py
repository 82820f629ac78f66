"""What a kind of machine takes for each part of a training, at any size, batch and number of ranks.

Measured parts go in, or what is published of a GPU; seconds come out, and how sure they are. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from eighteen.advice.devices import Device
from eighteen.advice.parts import Part, Parts

# How much less and more than expected it may be, as shares of that, by where a figure comes from; beside the parts' own
# spread, ``Line.spread``.
MEASURED = 0.10, 0.10  # on the machine itself: what benchmarks/planning.py asks for
ELSEWHERE = 0.25, 0.25  # on a machine with the same GPUs and other processors
PUBLISHED = 0.50, 1.00  # nowhere: published runs took 0.9 to 2.1 times as long (benchmarks/published_runs.py)
BETWEEN = 0.10  # more for a size that was not measured, but lies between some

# ResNet-50 at 224 px, of which one picture takes 24.3 GFLOP and moves 355 MB (docs/speed.md), trains at 0.43 (A100) and
# 0.47 (V100) of the speed that the longer of both would allow: NVIDIA's own figures, in devices.csv.
RESNET50 = 24.3e9, 355e6
EFFICIENCY = 0.45
STEP_S = 0.005  # of a GPU at least: to start some thousand kernels
FORWARD = 1 / 3  # of a step's time
LINK_SHARE = 0.8  # of a link's published bandwidth that an all-reduce reaches
LATENCY_S = 30e-6  # of an all-reduce between GPUs of one machine


@dataclass(frozen=True)
class Work:
    """What the model does for one picture in training: its arithmetic, and the bytes its activations move."""

    flops: float
    num_bytes: float


@dataclass(frozen=True)
class Line:
    """A step at one size: ``fixed`` and ``picture`` for each picture of a rank, seconds or bytes.

    spread: of what was measured, as a share of it
    data, communication: shares of the step in which it waited for pictures, and for the other ranks
    """

    fixed: float
    picture: float
    spread: float = 0.0
    data: float = 0.0
    communication: float = 0.0

    def of(self, pictures: float) -> float:
        return self.fixed + self.picture * pictures


@dataclass(frozen=True)
class Rates:
    """Seconds, by number of ranks of one machine: 1, and what else was measured.

    sure: by what share steps may take less, and more
    steps, memory: by size, of a rank's own pictures      evals: of one picture when all ranks share them, by size
    decode, kept: processor seconds of one picture, by size: out of its file, and where its pixels are kept
    latency_s, bus_bytes_per_s: of an all-reduce within the machine      backward: the share of a step that it has
    """

    device: str
    basis: str
    sure: tuple[float, float]
    cpus: float
    num_weights: int
    checkpoint_bytes: float
    steps: Mapping[int, Mapping[int, Line]]
    memory: Mapping[int, Mapping[int, Line]]
    evals: Mapping[int, Mapping[int, float]]
    start: Mapping[int, float]
    phase: Mapping[int, float]
    save: Mapping[int, float]
    end: Mapping[int, float]
    decode: Mapping[int, float]
    kept: Mapping[int, float]
    latency_s: float = 0.0
    bus_bytes_per_s: float = math.inf
    backward: float = 1 - FORWARD

    @property
    def is_cpu(self) -> bool:
        return self.device == "cpu"

    def ranks(self, wanted: int) -> int:
        """The measured number of ranks to go by: this one, or the next smaller."""
        return max(each for each in self.steps if each <= wanted)

    def step(self, ranks: int, size: int) -> Line:
        return at_size(self.steps[self.ranks(ranks)], size)

    def all_reduce_s(self, num_bytes: float, ranks: int) -> float:
        """Within a machine: a latency, and what each link of a ring carries (docs/machine.md)."""
        return 0.0 if ranks == 1 else self.latency_s + 2 * (ranks - 1) / ranks * num_bytes / self.bus_bytes_per_s


def at_size(lines: Mapping[int, Line], size: int) -> Line:
    """The line of a size, measured or between those that are, by what grows with the pixels and what does not."""
    if size in lines:
        return lines[size]
    pixels = {each: float(each) ** 2 for each in lines}
    fixed = sum(one.fixed for one in lines.values()) / len(lines)
    picture = _through([(pixels[each], one.picture) for each, one in lines.items()], float(size) ** 2)
    nearest = lines[min(lines, key=lambda each: abs(each - size))]
    return replace(nearest, fixed=fixed, picture=picture, spread=nearest.spread + BETWEEN)


def value_at_size(values: Mapping[int, float], size: int) -> float:
    return at_size({each: Line(0.0, value) for each, value in values.items()}, size).picture


def measured(parts: Parts, *, basis: str, sure: tuple[float, float] = MEASURED) -> Rates:
    """Of the machine whose parts were measured, with trials (``advice.trial``). Raises ValueError without them."""
    runs = [one for one in parts.parts if one.kind == "run"]
    counts = sorted({one.about["ranks"] for one in runs if one.about["of"] == "step"})
    if 1 not in counts:
        raise ValueError(parts.unmeasured.get("run", "no trial of a whole run among its parts"))
    by_ranks = {ranks: [one for one in runs if one.about["ranks"] == ranks] for ranks in counts}

    def once(of: str) -> dict[int, float]:
        """Of what happens once in a run, or with several phases: the median; none of it takes nothing."""
        found = {ranks: (one for one in each if one.about["of"] == of) for ranks, each in by_ranks.items()}
        return {ranks: next((one.seconds.median for one in each), 0.0) for ranks, each in found.items()}

    decodes = [one for one in parts.parts if one.kind == "decode" and one.about["threads"] == 1]
    decode, kept = (
        {one.about["size"]: one.about["cpu_s"] for one in decodes if (one.about["rendition"] == "kept") == is_kept}
        for is_kept in (False, True)
    )
    latency_s, bus_bytes_per_s = _wires(parts)
    return Rates(
        device=parts.device,
        basis=basis,
        sure=sure,
        cpus=parts.machine.cpus,
        num_weights=parts.num_weights,
        checkpoint_bytes=next(one.amount for one in runs if one.about["of"] == "save"),
        steps={ranks: _lines(each, ranks, _seconds) for ranks, each in by_ranks.items()},
        memory={ranks: _lines(each, ranks, _memory) for ranks, each in by_ranks.items()},
        evals={ranks: _evals(each, parts) for ranks, each in by_ranks.items()},
        start=once("start"),
        phase=once("phase"),
        save=once("save"),
        end=once("end"),
        decode=decode,
        kept=kept,
        latency_s=latency_s,
        bus_bytes_per_s=bus_bytes_per_s,
        backward=_backward(parts),
    )


def published(known: Rates, device: Device, work: Mapping[int, Work], *, like: Device | None = None) -> Rates:
    """Of a machine with GPUs that were not measured.

    known: of any machine: what does not depend on GPUs is taken from there
    like: the GPU that ``known`` was measured on, by whose published figures steps are then scaled; without it they come
        from the model's arithmetic and bytes alone
    """
    if like is not None:
        ratio = {size: roof_s(device, one) / roof_s(like, one) for size, one in work.items()}
        steps = {
            size: replace(known.step(1, size), picture=known.step(1, size).picture * by) for size, by in ratio.items()
        }
        basis = f"scaled from {like.gpu} by published figures"
    else:
        share = efficiency(device)
        steps = {size: Line(STEP_S, roof_s(device, one) / share) for size, one in work.items()}
        basis = "published figures alone"
    return replace(
        known,
        device=device.gpu,
        basis=basis,
        sure=PUBLISHED,
        steps={1: steps},
        memory={1: {size: _device_memory(known, one) for size, one in work.items()}},
        evals={1: {size: FORWARD * line.picture for size, line in steps.items()}},
        latency_s=LATENCY_S,
        bus_bytes_per_s=LINK_SHARE * device.link_gb_s / 2 * 1e9,
        backward=1 - FORWARD,
    )


def roof_s(device: Device, work: Work) -> float:
    """Of one picture at least: its arithmetic or its bytes, whichever takes longer (docs/speed.md)."""
    return max(work.flops / (1e12 * device.tflop_s), work.num_bytes / (1e9 * device.gb_s))


def efficiency(device: Device) -> float:
    """The share of that speed which training reaches: as published for ResNet-50, on this GPU or on others."""
    if device.resnet50_images_s is None:
        return EFFICIENCY
    return device.resnet50_images_s * roof_s(device, Work(*RESNET50))


def _device_memory(known: Rates, work: Work) -> Line:
    """Weights, gradients, momentum and their average in float32, and a gigabyte that CUDA takes; activations: a seventh
    of what a picture moves, since each is moved some seven times (``roofline.NORM_PASSES``).
    """
    return Line(4 * 4.0 * known.num_weights + 1e9, work.num_bytes / 7)


def _lines(parts: Iterable[Part], ranks: int, value: Callable[[Part], float]) -> dict[int, Line]:
    """By size, through what was measured with several batches; about its spread the largest says most."""
    by_size: dict[int, list[Part]] = {}
    for one in parts:
        if one.about["of"] == "step":
            by_size.setdefault(one.about["size"], []).append(one)
    lines = {}
    for size, each in by_size.items():
        largest = max(each, key=lambda one: one.amount)
        points = [(one.amount / ranks, value(one)) for one in each]
        fixed = min(_through(points, 0.0), value(largest)) if len(points) > 1 else 0.0
        taken = largest.seconds
        spread = (taken.high - taken.low) / 2 / taken.median / math.sqrt(largest.count)
        shares = {name: largest.about[name] for name in ("data", "communication")}
        lines[size] = Line(fixed, (value(largest) - fixed) * ranks / largest.amount, spread, **shares)
    return lines


def _seconds(one: Part) -> float:
    return one.seconds.median


def _memory(one: Part) -> float:
    return one.about["memory_bytes"]


def _evals(runs: Iterable[Part], parts: Parts) -> dict[int, float]:
    """Of a picture, by size; where there was nothing to evaluate, what a forward pass takes."""
    told = {one.about["size"]: one.seconds.median / one.amount for one in runs if one.about["of"] == "evaluate"}
    forward = (one for one in parts.parts if one.kind == "evaluate")
    return told or {one.about["size"]: one.seconds.median / one.amount for one in forward}


def _wires(parts: Parts) -> tuple[float, float]:
    """Latency, and bytes a second that each link of a ring carries, between the most ranks that were measured here."""
    found = [one for one in parts.parts if one.kind == "all-reduce" and one.about["where"] == "here"]
    if not found:
        return 0.0, math.inf
    most = max(one.about["ranks"] for one in found)
    small, *_, large = sorted((one for one in found if one.about["ranks"] == most), key=lambda one: one.amount)
    travel = max(1e-9, large.seconds.median - small.seconds.median)
    return small.seconds.median, 2 * (most - 1) / most * large.amount / travel


def _backward(parts: Parts) -> float:
    """The share of a step that the backward pass has."""
    whole, back = (
        sum(one.seconds.median for one in parts.parts if one.kind == "step" and one.about["of"] == of)
        for of in ("all", "backward")
    )
    return back / whole if whole else 1 - FORWARD


def _through(points: list[tuple[float, float]], at: float) -> float:
    """The value at ``at`` of the straight line nearest to the points; through the origin where there is one place."""
    mean_x, mean_y = (sum(each) / len(points) for each in zip(*points, strict=True))
    square = sum((x - mean_x) ** 2 for x, _ in points)
    if square == 0:
        return mean_y * at / mean_x
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / square
    return max(0.0, mean_y + slope * (at - mean_x))
