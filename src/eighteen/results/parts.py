"""What a machine is and takes for each part of a training, for people on a terminal and for programs as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from eighteen.advice.parts import Part, Parts, bus_bytes_per_s, figures
from eighteen.base.files import write_json
from eighteen.base.machine import Gpu, Machine
from eighteen.results.feeding import table
from eighteen.results.lines import MISSING, memory, percent

COLUMNS = ("part", "of", "seconds", "range", "n", "a second")


def show(found: Parts) -> RenderableType:
    head = f"{found.model} of {found.recipe}, {found.num_weights:,} weights, on {found.dataset}"
    how = f"{found.device} in {found.precision}, {found.threads} threads"
    missing = [f"{what}: not measured, {why}" for what, why in {**found.machine.unknown, **found.unmeasured}.items()]
    lines = "\n".join([*machine_lines(found.machine), "", head, how, ""])
    return Group(Text(lines), table(COLUMNS, map(cells, found.parts)), Text("\n" + "\n".join(missing)))


def machine_lines(found: Machine) -> Iterator[str]:
    quota = "" if found.quota is None else f", of which a cgroup grants the time of {found.quota:g}"
    clock = "" if found.mhz is None else f", {found.mhz:,.0f} MHz now"
    cores = "" if found.threads_per_core is None else f", {found.threads_per_core} a core"
    yield f"{found.processor}: {found.affinity} processors{cores}{quota}{clock}"
    if found.others_cpus is not None:
        yield f"others keep {found.others_cpus:.2f} processors busy; waited for one {percent(found.waiting, digits=0)}"
    shm = MISSING if found.shm_bytes is None else memory(found.shm_bytes)
    yield f"memory {memory(found.memory_bytes)}, free {memory(found.free_bytes)}; shared memory {shm}"
    network = ", over the network" if found.disk.is_network else ""
    yield f"runs on {found.disk.filesystem}{network}, free {memory(found.disk.free_bytes)}"
    yield from map(_gpu_line, found.gpus)


def cells(row: Part) -> list[str]:
    taken = row.seconds
    return [
        row.kind,
        _about(row),
        seconds(taken.median),
        f"{seconds(taken.low)}-{seconds(taken.high)}",
        f"{row.count}",
        _rate(row),
    ]


def seconds(value: float) -> str:
    """With three digits that say something: ``12.3 ms``."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if value * factor >= 1 or unit == "us":
            return f"{value * factor:.3g} {unit}"
    raise AssertionError


def write(found: Parts, path: Path) -> None:
    write_json(path, figures(found))


def _about(row: Part) -> str:
    about = dict(row.about)
    words = [f"{about.pop('size')} px"] if "size" in about else []
    words += [f"{about.pop(name)} {name}" for name in ("threads", "ranks") if name in about]
    words += [str(value) for value in about.values() if isinstance(value, str)]
    if row.kind == "all-reduce":
        words.append(memory(row.amount))
    return ", ".join(words)


def _rate(row: Part) -> str:
    if row.kind == "all-reduce":
        return f"bus {memory(bus_bytes_per_s(round(row.amount), row.about['ranks'], row.seconds.median))}"
    return memory(row.rate) if row.unit == "B" else f"{row.rate:,.0f} {row.unit}"


def _gpu_line(gpu: Gpu) -> str:
    facts = [
        gpu.name,
        f"driver {gpu.driver}",
        f"memory {memory(gpu.memory_bytes)}" if gpu.memory_bytes else "",
        f"in use {memory(gpu.used_bytes)}" if gpu.used_bytes is not None else "",
        f"{gpu.mhz:,.0f} of {gpu.max_mhz:,.0f} MHz" if gpu.mhz and gpu.max_mhz else "",
        f"{gpu.watts:,.0f} of {gpu.limit_watts:,.0f} W" if gpu.watts and gpu.limit_watts else "",
        f"{gpu.celsius:.0f} degrees C" if gpu.celsius is not None else "",
        f"PCIe {gpu.pcie:.0f} x{gpu.lanes:.0f}" if gpu.pcie and gpu.lanes else "",
        f"held down by {' and '.join(gpu.throttled)}" if gpu.throttled else "",
    ]
    return ", ".join(fact for fact in facts if fact)
