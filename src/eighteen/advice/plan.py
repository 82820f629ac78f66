"""What a training would take: time, money, energy, disk and memory, on this machine and on those that can be rented.

A task (a recipe laid over a number of samples), rates and offers go in, plans come out, each with how sure it is and
why. Pure. docs/plan.md has the formulas and where their constants come from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date

from eighteen.advice.devices import Device
from eighteen.advice.offers import Offer
from eighteen.advice.rates import Rates, at_size, value_at_size
from eighteen.base.budget import Costs, duration
from eighteen.base.recipe import Phase, Recipe
from eighteen.base.schedule import Schedule

VIEWS = {"none": 1, "flip": 2, "crops": 6}  # of a picture, by test-time augmentation
KEPT_SHARE = {"host": 0.5, "device": 0.4}  # of memory that pixels may take, as ``data.kept`` has it
MIN_VISITS = 2
KEPT_MULTIPLE = 32  # of a kept picture's side
FEWEST = 16  # pictures of a rank on a GPU, below which a step takes no less
OVERLAP = 0.8  # of the backward pass, behind which gradients travel between GPUs; on processors they share the time
NETWORK_SHARE = 0.8  # of a network's published speed
HOP_S = 25e-6  # between two machines, of a tree of them
CHECKPOINTS = 3  # that are kept: the last two and the best
GRADIENT_BYTES = 4  # of a weight


@dataclass(frozen=True)
class Estimate:
    expected: float
    low: float
    high: float

    def scaled(self, by: float) -> Estimate:
        return Estimate(self.expected * by, self.low * by, self.high * by)


# Nobody has measured these yet, so they are assumed, and told so.
BOOT_S = Estimate(180.0, 60.0, 600.0)  # until a rented machine runs our command
LOSSES_A_DAY = Estimate(1.0, 0.0, 4.0)  # of a spot machine, where nothing is published
UNKNOWN_NETWORK_BYTES_S = NETWORK_SHARE * 10e9 / 8  # by which the dataset comes, where nothing is published
# Between machines of a cloud more may pass than from its store: S3 sends 5 Gbit/s over a connection (AWS, Maximizing
# Amazon S3 transfer throughput to Amazon EC2 instances, repost.aws), of which ``data.arriving`` has eight.
STORE_BYTES_S = 8 * 5e9 / 8
NONE = Estimate(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Task:
    """What is to be trained.

    num_bytes: of the dataset      side: of its pictures, in pixels      is_whole: raw pictures of one tiny size
    """

    recipe: Recipe
    schedule: Schedule
    num_val: int
    num_bytes: float
    side: int
    is_whole: bool = False

    @property
    def num_samples(self) -> int:
        return self.schedule.num_samples


@dataclass(frozen=True)
class Machine:
    """One of those that train together.

    watts: of its GPUs together      network_bytes_s: to the others; both None if that is not known
    offer: None for this machine
    """

    name: str
    ranks: int
    cpus: float
    memory_bytes: float
    device_bytes: float = 0.0
    watts: float | None = None
    network_bytes_s: float | None = None
    offer: Offer | None = None

    @property
    def is_here(self) -> bool:
        return self.offer is None


@dataclass(frozen=True)
class Times:
    """Seconds. start: from the command to the first step, and from the last to the end; a rented machine's boot too

    staging: bringing the dataset there      waiting: steps that wait for pictures      communication: and for ranks
    """

    start: float
    staging: float
    steps: float
    waiting: float
    communication: float
    evaluation: float
    checkpoints: float
    interruptions: float

    @property
    def total(self) -> float:
        return sum(vars(self).values())


@dataclass(frozen=True)
class Plan:
    """usd, kwh: None where price or power is not known      memory_bytes: of a rank, at its most

    disk_bytes: of each machine      basis: where the rates come from      notes: what else is worth knowing
    """

    where: str
    machines: int
    ranks: int
    is_spot: bool
    times: Times
    seconds: Estimate
    usd: Estimate | None
    kwh: Estimate | None
    disk_bytes: float
    memory_bytes: float
    basis: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refused:
    """What cannot be planned, and why."""

    where: str
    why: str


@dataclass(frozen=True)
class Known:
    """What the plans are made from: rates of this machine, and of each GPU by its name."""

    here: Rates
    gpus: Mapping[str, Rates] = field(default_factory=dict)
    devices: Mapping[str, Device] = field(default_factory=dict)


def plans(
    task: Task,
    known: Known,
    here: Sequence[Machine],
    offers: Sequence[Offer],
    *,
    counts: Sequence[int] = (1,),
    today: date,
) -> tuple[list[Plan], list[Refused]]:
    """Of this machine, each way it can be used, and of every offer, on demand and spot, so many machines at a time."""
    made: list[Plan] = []
    refused: list[Refused] = []

    def add(machine: Machine, rates: Rates, count: int, *, is_spot: bool = False) -> None:
        if why := cannot(task, machine, count):
            refused.append(Refused(machine.name + (f" x {count}" if count > 1 else ""), why))
        else:
            made.append(plan(task, rates, machine, count, is_spot=is_spot, today=today))

    for machine in here:
        add(machine, known.here, 1)
    for offer in offers:
        device, rates = known.devices.get(offer.gpu), known.gpus.get(offer.gpu)
        if device is None or rates is None:
            refused.append(Refused(offer.name, f"nothing is known of {offer.gpu}: neither measured nor published"))
            continue
        for count in counts:
            add(rented(offer, device), rates, count)
            if offer.spot_usd_h is not None and not cannot(task, rented(offer, device), count):
                add(rented(offer, device), rates, count, is_spot=True)
    return made, refused


def rented(offer: Offer, device: Device) -> Machine:
    network = offer.network_gbit_s and NETWORK_SHARE * offer.network_gbit_s / 8 * 1e9
    return Machine(
        name=offer.name,
        ranks=offer.gpus,
        cpus=offer.cpus,
        memory_bytes=offer.memory_gib * 2**30,
        device_bytes=device.memory_gb * 1e9,
        watts=device.watts * offer.gpus,
        network_bytes_s=network,
        offer=offer,
    )


def cannot(task: Task, machine: Machine, count: int) -> str | None:
    """Why so many of these machines cannot train this; None if they can."""
    ranks, smallest = machine.ranks * count, min(phase.batch for phase in task.recipe.phases)
    if smallest < 2 * ranks:
        return f"a batch of {smallest:,} cannot be shared by {ranks:,} ranks: at least 2 pictures for each"
    if count > 1 and machine.network_bytes_s is None:
        return "how fast its network is between machines is not published"
    return None


def plan(task: Task, rates: Rates, machine: Machine, count: int, *, is_spot: bool = False, today: date) -> Plan:
    """So many of one kind of machine together."""
    ranks = machine.ranks * count
    firm = _times(task, rates, machine, count)
    losses = _losses(machine, count, firm.total) if is_spot else NONE
    lost_s = firm.start + _between_checkpoints(task, firm.total) / 2
    times = replace(firm, interruptions=losses.expected * lost_s)
    seconds = _estimate(times, _off(task, rates, machine), machine, losses, lost_s)
    offer = machine.offer
    price = None if offer is None else offer.spot_usd_h if is_spot else offer.usd_h
    return Plan(
        where=machine.name,
        machines=count,
        ranks=ranks,
        is_spot=is_spot,
        times=times,
        seconds=seconds,
        usd=None if price is None else seconds.scaled(count * price / 3600),
        kwh=None if machine.watts is None else seconds.scaled(count * machine.watts / 3.6e6),
        disk_bytes=task.num_bytes + CHECKPOINTS * rates.checkpoint_bytes,
        memory_bytes=_memory(task, rates, machine, ranks),
        basis=rates.basis,
        notes=tuple(_notes(task, rates, machine, ranks, is_spot, today)),
    )


def _times(task: Task, rates: Rates, machine: Machine, count: int) -> Times:
    """Without interruptions."""
    own, rows = rates.ranks(machine.ranks), task.recipe.flat_phases
    each = [_step(task, rates, machine, count, row) for row in rows]
    compute, waiting, communication = (_total(task, seconds) for seconds in zip(*each, strict=True))
    start = rates.start[own] + rates.end[own] + (len(rows) - 1) * rates.phase[own]
    store = min(machine.network_bytes_s or UNKNOWN_NETWORK_BYTES_S, STORE_BYTES_S)
    return Times(
        start=start if machine.is_here else start + BOOT_S.expected,
        staging=0.0 if machine.is_here else task.num_bytes / store,
        steps=compute - _saved_by_keeping(task, rates, machine),
        waiting=waiting,
        communication=communication,
        evaluation=_evaluation(task, rates, machine, count),
        checkpoints=_num_saved_epochs(task) * rates.save[own] if rates.is_cpu else 0.0,
        interruptions=0.0,
    )


def _off(task: Task, rates: Rates, machine: Machine) -> tuple[float, float]:
    """How much less and more what is computed may take, as shares: by where rates come from, and how steps differed."""
    spread = max(rates.step(machine.ranks, row.sizes[0]).spread for row in task.recipe.flat_phases)
    less, more = (math.hypot(share, spread) for share in rates.sure)
    return less, more


def _estimate(times: Times, off: tuple[float, float], machine: Machine, losses: Estimate, lost_s: float) -> Estimate:
    """The sum, and how low and high it may be; a start here is known, that of a rented machine is not."""
    own = times.steps + times.waiting + times.communication + times.evaluation
    boot = NONE if machine.is_here else BOOT_S
    low = times.total - off[0] * own - (boot.expected - boot.low) - (losses.expected - losses.low) * lost_s
    high = times.total + off[1] * own + (boot.high - boot.expected) + (losses.high - losses.expected) * lost_s
    return Estimate(times.total, max(0.0, low), high)


def _step(task: Task, rates: Rates, machine: Machine, count: int, row: Phase) -> tuple[float, float, float]:
    """Of one phase: what it computes, and waits for pictures and for other ranks, in seconds."""
    size, share = row.sizes[0], row.batch / (machine.ranks * count)
    line = rates.step(machine.ranks, size)
    whole = line.of(share if rates.is_cpu else max(share, FEWEST))
    waiting, communication = line.data * whole, line.communication * whole
    compute = max(0.0, whole - waiting - communication)
    hidden = 0.0 if rates.is_cpu else OVERLAP * rates.backward * compute
    communication += max(0.0, _travel(rates, machine, count) - hidden)
    if not (machine.is_here or task.is_whole or _is_kept(task, machine, row)):
        decode = share * machine.ranks * value_at_size(rates.decode, size) / machine.cpus
        waiting = max(waiting, decode - compute)
    return compute, waiting, communication


def _travel(rates: Rates, machine: Machine, count: int) -> float:
    """Seconds that gradients are under way, beyond what steps on as many ranks of one machine were measured with."""
    num_bytes = GRADIENT_BYTES * rates.num_weights
    travel = 0.0
    if rates.ranks(machine.ranks) != machine.ranks:
        travel = rates.all_reduce_s(num_bytes, machine.ranks)
    if count > 1:
        assert machine.network_bytes_s, "cannot() says so first"
        travel += 2 * math.ceil(math.log2(count)) * HOP_S
        travel += 2 * (count - 1) / count * num_bytes / machine.network_bytes_s
    return travel


def _total(task: Task, steps: Sequence[float]) -> float:
    """Of all steps, by what one of each phase takes."""
    return duration(task.schedule, 0, Costs(tuple(steps), (0.0,) * len(steps), 0.0), every=1)


def _is_kept(task: Task, machine: Machine, row: Phase) -> bool:
    """Whether a phase's pixels are kept in memory, so that each picture is decoded once."""
    if task.recipe.data.keep == "never" or row.epochs < MIN_VISITS:
        return False
    return _kept_bytes(task, row) <= max(
        KEPT_SHARE["device"] * machine.device_bytes, KEPT_SHARE["host"] * machine.memory_bytes / machine.ranks
    )


def _kept_bytes(task: Task, row: Phase) -> float:
    share = (row.min_scale + row.max_scale) / 2
    enough = math.ceil(row.sizes[0] / math.sqrt(share) / KEPT_MULTIPLE) * KEPT_MULTIPLE
    return 3.0 * task.num_samples * min(enough, task.side) ** 2


def _saved_by_keeping(task: Task, rates: Rates, machine: Machine) -> float:
    """Seconds that steps on processors do not take because pictures are decoded once: trials decode each time."""
    if not rates.is_cpu or task.is_whole or not rates.kept:
        return 0.0
    saved = 0.0
    for row in task.recipe.flat_phases:
        if _is_kept(task, machine, row):
            size, again = row.sizes[0], (row.epochs - 1) * task.num_samples
            saved += again * max(0.0, value_at_size(rates.decode, size) - value_at_size(rates.kept, size))
    return saved / rates.cpus


def _evaluation(task: Task, rates: Rates, machine: Machine, count: int) -> float:
    """Of all evaluations, and what statistics taken anew for averaged weights take."""
    if not task.num_val:
        return 0.0
    recipe = task.recipe
    own, evals = rates.ranks(machine.ranks), rates.evals[rates.ranks(machine.ranks)]
    apart = count * machine.ranks / own
    pictures = task.num_val + min(recipe.optim.recalibrate, task.num_samples)

    def once(size: int) -> float:
        busy = pictures * value_at_size(evals, size) / apart
        if machine.is_here:
            return busy
        return max(busy, pictures * value_at_size(rates.decode, size) / (machine.cpus * count))

    each = tuple(once(recipe.eval_in(row).size) for row in recipe.flat_phases)
    more = (VIEWS[recipe.final_eval.tta] - 1) * each[-1] if recipe.final_eval.tta != "none" else 0.0
    return duration(task.schedule, 0, Costs((0.0,) * len(each), each, 0.0, more), every=recipe.eval.every)


def _num_saved_epochs(task: Task) -> int:
    """How many epochs end with a checkpoint; those of phases are in what a phase's first step takes."""
    return math.floor(task.recipe.epochs) if task.recipe.train.checkpoint == "epoch" else 0


def _between_checkpoints(task: Task, busy_s: float) -> float:
    num = max(_num_saved_epochs(task), len(task.recipe.flat_phases))
    return min(60 * task.recipe.train.checkpoint_minutes, busy_s / num)


def _losses(machine: Machine, count: int, busy_s: float) -> Estimate:
    """How often spot machines are taken back meanwhile."""
    told = machine.offer and machine.offer.spot_losses_a_day
    a_day = LOSSES_A_DAY if told is None else Estimate(told, told / 2, 2 * told)
    return a_day.scaled(count * busy_s / 86400)


def _memory(task: Task, rates: Rates, machine: Machine, ranks: int) -> float:
    """Of a rank at its most: measured at the sizes and batches of the trial, or counted."""
    rows = task.recipe.flat_phases
    lines = rates.memory[rates.ranks(machine.ranks)]
    steps = max(at_size(lines, row.sizes[0]).of(row.batch / ranks) for row in rows)
    kept = max((_kept_bytes(task, row) for row in rows if _is_kept(task, machine, row)), default=0.0)
    return steps + (0.0 if task.is_whole else kept)


def _notes(task: Task, rates: Rates, machine: Machine, ranks: int, is_spot: bool, today: date) -> list[str]:
    notes = []
    room = machine.device_bytes or machine.memory_bytes / machine.ranks
    if _memory(task, rates, machine, ranks) > room:
        notes.append("does not fit into memory at once: steps are taken in parts, which is slower")
    if machine.offer and machine.offer.is_stale(today):
        notes.append(f"price of {machine.offer.date:%Y-%m-%d}")
    if machine.offer and machine.network_bytes_s is None:
        notes.append("network not published: 10 Gbit/s assumed to bring the dataset")
    if is_spot and machine.offer and machine.offer.spot_losses_a_day is None:
        notes.append(f"how often it is taken back is not published: {LOSSES_A_DAY.expected:g} a day assumed")
    if not rates.is_cpu and min(row.batch for row in task.recipe.phases) / ranks < FEWEST:
        notes.append(f"fewer than {FEWEST} pictures a rank: more ranks are no faster")
    return notes
