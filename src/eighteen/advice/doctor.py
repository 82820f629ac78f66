"""Why the GPUs wait, or the processors: what a run has told -> findings, the dearest first. Pure.

Each rule is a function that looks at one thing and yields what it finds; its page in docs/doctor/ says how it reckons.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from eighteen.advice import accuracy, gains, starving
from eighteen.advice.evidence import Evidence
from eighteen.advice.finding import LEAST_SHARE, Finding, Gain, around, fixed

SKEW = 0.1  # of the time: the rank that all wait for waits so much less than the others
DOUBLED = 1.15  # times as fast with twice the batch: a quarter of a step is not for its pictures
SMALL, LARGE = 1.3, 1.2  # times as fast a larger batch, or smaller parts, must be: both change what is learned
LOCAL_BYTES_S = 250e6  # that gradients travel between processes of a machine, at least: what is slower are waits
FULL = 0.92  # of a GPU's memory
SCALING = 0.8  # of what more processors could bring, that they do
EVAL_SHARE = 0.02  # of the time, that evaluations may well take

Rule = Callable[[Evidence], Iterator[Finding]]


def diagnose(seen: Evidence) -> list[Finding]:
    """All findings; those that cost time first, by how much."""
    found = [finding for rule in RULES for finding in rule(seen)]
    worth = [one for one in found if one.gain is None or one.share >= LEAST_SHARE]
    return sorted(worth, key=lambda one: -one.share)


def neighbours(seen: Evidence) -> Iterator[Finding]:
    """Other processes take processors that the run would use."""
    setup, now = seen.setup, seen.window
    if not now or not now.own or not now.others or now.others < LEAST_SHARE * setup.cpus:
        return
    if now.own + now.others < 0.85 * setup.cpus or not (setup.is_cpu or now.data >= LEAST_SHARE):
        return  # there is room for all
    gain = around(gains.of_neighbours(setup, now, seen.trials), by=0.4)
    why = "threads that compute together wait for the one whose processor is taken"
    evidence = f"{now.own:.1f} processors in use by the run, {now.others:.1f} by others"
    if (now.stolen or 0.0) > now.others / 2:
        yield Finding(
            "stolen",
            f"other virtual machines have {now.stolen:.1f} of this one's {setup.cpus:g} processors",
            why,
            f"{evidence}; stolen time in /proc/stat",
            "a machine with processors of its own, or another hour",
            gain,
        )
        return
    yield Finding(
        "neighbours",
        f"other processes keep {now.others:.1f} of {setup.cpus:g} processors busy",
        why,
        evidence,
        "top, to see which; end them, or give this run processors of its own with taskset",
        gain,
    )


def quota(seen: Evidence) -> Iterator[Finding]:
    """A cgroup takes processors away for part of the time."""
    now = seen.window
    if not now or not now.own or not now.throttled or now.throttled < LEAST_SHARE * now.own:
        return
    yield Finding(
        "quota",
        f"a cgroup grants the time of {seen.setup.cpus:g} processors, and stops the run when that is used up",
        "threads are stopped in the middle of their work, all at the same moment",
        f"{now.own:.1f} processors in use; threads stood still for the time of {now.throttled:.1f}",
        "a larger share of processors: docker run --cpus, resources.limits.cpu",
        around(1 + SCALING * (max(seen.setup.affinity, now.own + now.throttled) / now.own - 1), by=0.5),
    )


def batch_size(seen: Evidence) -> Iterator[Finding]:
    """A batch below the knee keeps the device waiting for the host; one far above it falls out of caches."""
    now, trials = seen.window, seen.trials
    if not now or len(trials.step_s) < 2 or trials.batch not in trials.step_s:
        return
    speeds = {size: size / seconds for size, seconds in trials.step_s.items()}
    knee = gains.knee(seen.setup, trials)
    gain = gains.of_knee(seen.setup, now, trials)
    shown = ", ".join(f"{rate:,.0f} at {size}" for size, rate in sorted(speeds.items()))
    if _doubled(seen) >= DOUBLED and knee > trials.batch and gain >= SMALL:
        times = knee // trials.batch
        yield Finding(
            "small-batch",
            f"a step of {trials.batch} pictures a rank is too small for the device",
            "what a step takes beside its pictures is the same for few as for many",
            f"images/s of a step alone: {shown}",
            f"--batch {now.batch * times}, which scales the learning rates too",
            around(gain),
            {"batch": now.batch * times},
        )
    elif knee < trials.batch and gain >= LARGE:
        fix = {"train.micro_batch": knee}
        yield Finding(
            "large-batch",
            f"a step of {trials.batch} pictures a rank is slower than its parts",
            "beyond some size a step only takes more memory, and on a CPU falls out of the caches",
            f"images/s of a step alone: {shown}",
            fixed(fix) + " (batch norm then takes its statistics over so many)",
            around(gain),
            fix,
        )


def communication(seen: Evidence) -> Iterator[Finding]:
    """Ranks wait for each other: for a slow one of them, or for the link."""
    setup, now = seen.setup, seen.window
    if not now or setup.world < 2 or not now.waits:
        return
    waits = [waited for _, waited in now.waits]
    slow = min(range(len(waits)), key=waits.__getitem__)
    others = [waited for rank, waited in enumerate(waits) if rank != slow]
    skew = min(others) - waits[slow]
    if skew >= SKEW:
        where = f"rank {slow} (on machine {slow // setup.local_world})"
        yield Finding(
            "slow-rank",
            f"all ranks wait for {where}",
            "a step ends when the slowest rank's gradients are there",
            f"rank {slow} waits {waits[slow]:.0%} of its time for others, these at least {min(others):.0%} for it",
            f"look at what else runs where {where} is, at its disk, and at its GPU's clock (nvidia-smi -q -d CLOCK)",
            around(1 / max(0.05, 1 - skew), by=0.3),
        )
        return
    share = sum(waits) / len(waits)
    step_s = now.seconds * (1 - now.other) / max(1, now.num_steps)
    sent = 4 * setup.num_weights
    if setup.is_cpu and setup.world == setup.local_world:
        share = min(share, 2 * sent / LOCAL_BYTES_S / step_s)  # processes that share processors wait now and then
    if share / 2 < LEAST_SHARE:
        return  # twice the batch would not save more than that
    link = "between machines" if setup.world > setup.local_world else "between this machine's ranks"
    rate = 2 * (setup.world - 1) / setup.world * sent / max(1e-9, share * step_s)
    halved = 1 / (share / 2 + (1 - share) / _doubled(seen))
    yield Finding(
        "communication",
        f"ranks wait {share:.0%} of the time until gradients have travelled {link}",
        "each step sends as many bytes as the model has weights, however few pictures it has",
        f"{sent / 2**20:,.0f} MiB in {1000 * share * step_s:.3g} ms that nothing hid: {rate / 2**20:,.0f} MiB/s",
        f"--batch {2 * now.batch}, which sends half as often; eighteen bench, for what the link can do",
        Gain(1.0, halved, max(halved, 1 / max(0.05, 1 - share))),
    )


def evaluations(seen: Evidence) -> Iterator[Finding]:
    """Evaluations take more of the time than they tell."""
    taken = seen.pauses
    if not taken or not taken.num_evals:
        return
    share = taken.eval_s / taken.seconds
    every = int(seen.recipe.get("eval.every", 1))
    times = max(2, math.ceil(share / (1 - min(share, 0.95)) / EVAL_SHARE))
    fix = {"eval.every": every * times}
    yield Finding(
        "evaluations",
        f"evaluations take {share:.0%} of the time",
        "nothing is learned meanwhile; the last epoch is evaluated in any case",
        f"{taken.num_evals} of them in {taken.seconds:.0f} s, {taken.eval_s / taken.num_evals:.2g} s each",
        fixed(fix),
        around(1 / (1 - share * (1 - 1 / times))),
        fix,
    )


def checkpoints(seen: Evidence) -> Iterator[Finding]:
    """Saving stops training, or takes its processors."""
    taken = seen.pauses
    if not taken or taken.num_saves < 2:
        return
    busy = taken.save_s / seen.setup.cpus if seen.setup.is_cpu else 0.0
    share = min(0.9, (taken.stall_s + busy) / taken.seconds)
    minutes = float(seen.recipe.get("train.checkpoint_minutes", 5.0))
    fix = {"train.checkpoint_minutes": 5.0} if minutes < 1 else {"train.checkpoint": "phase"}
    yield Finding(
        "checkpoints",
        f"checkpoints take {share:.0%} of the time",
        "training stands still while weights are copied, and shares its processors and disk while they are written",
        f"{taken.num_saves} in {taken.seconds:.0f} s; {taken.stall_s:.2g} s standing still, {taken.save_s:.2g} writing",
        fixed(fix),
        around(1 / (1 - share), by=0.5),
        fix,
    )


def precision(seen: Evidence) -> Iterator[Finding]:
    """float32 where the device computes in bfloat16."""
    setup, now, trials = seen.setup, seen.window, seen.trials
    if setup.precision != "fp32" or not setup.bf16:
        return
    fix = {"train.precision": "auto"}
    gain, shown = None, "not measured"
    if now and trials.other_s and trials.batch in trials.step_s:
        ratio = trials.other_s / trials.step_s[trials.batch]
        gain = around(gains.of_steps(setup, now, ratio))
        shown = f"a step takes {1000 * trials.step_s[trials.batch]:.3g} ms, in bfloat16 {1000 * trials.other_s:.3g}"
    yield Finding(
        "float32",
        "the model computes in float32 on a device that computes in bfloat16",
        "bfloat16 halves the bytes and, where the device has instructions for it, the time; weights stay float32",
        shown,
        fixed(fix),
        gain,
        fix,
    )


def compiling(seen: Evidence) -> Iterator[Finding]:
    taken = seen.pauses
    if not taken or not taken.compile_s:
        return
    share = taken.compile_s / taken.seconds
    fix = {"train.compile": False}
    yield Finding(
        "compiling",
        f"compiling the model took {share:.0%} of the time",
        "it pays back over many steps; the cache of torch.compile keeps it for the next run of the same shapes",
        f"{taken.compile_s:.0f} of {taken.seconds:.0f} s",
        f"{fixed(fix)}, or fewer sizes and batches",
        Gain(1 / (1 + share), 1 / (1 - min(share, 0.9)), 1 / (1 - min(share, 0.9))),
        fix,
    )


def recompiling(seen: Evidence) -> Iterator[Finding]:
    """torch.compile makes another graph in the middle of training: a shape, or something in the model, changes."""
    now = seen.window
    if now and now.num_graphs > 0:
        fix = {"train.compile": False}
        yield Finding(
            "recompiles",
            f"torch.compile made {now.num_graphs} more graphs in the middle of training",
            "each takes seconds in which nothing is learned; sizes and batches of the recipe are compiled ahead",
            f"in {now.num_steps} steps of {now.size} px in batches of {now.batch}",
            f"TORCH_LOGS=recompiles eighteen train ..., to see why; or {fixed(fix)}",
            None,
            fix,
        )


def memory(seen: Evidence) -> Iterator[Finding]:
    """A GPU's memory nearly full, or hardly used while it waits for pictures."""
    now, total = seen.window, seen.memory_total
    if not now or not total:
        return
    share = now.memory_bytes / total
    if share > FULL:
        fix = {"train.micro_batch": max(2, now.batch // seen.setup.world // 2)}
        yield Finding(
            "memory-full",
            f"{share:.0%} of the GPU's memory is in use",
            "the next larger size, evaluation or a neighbour on the GPU may find none left",
            f"{now.memory_bytes / 2**30:.1f} of {total / 2**30:.1f} GiB",
            fixed(fix),
            None,
            fix,
            is_safe=True,
        )
    elif share < 0.5 and now.data >= LEAST_SHARE and not now.is_kept:
        fix = {"data.keep": "device"}
        yield Finding(
            "memory-unused",
            f"{1 - share:.0%} of the GPU's memory is free while it waits for pictures",
            "decoded pictures that fit there are decoded once, and cropped on the GPU",
            f"{now.memory_bytes / 2**30:.1f} of {total / 2**30:.1f} GiB in use; {now.data:.0%} of the time waiting",
            fixed(fix),
            None,
            fix,
        )


def throttling(seen: Evidence) -> Iterator[Finding]:
    if seen.throttles:
        yield Finding(
            "throttling",
            f"the GPU's clock is held down by {' and '.join(seen.throttles)}",
            "a GPU that is too hot, or has too little power, computes more slowly than it can",
            "nvidia-smi, at this moment",
            "nvidia-smi -q -d PERFORMANCE,POWER,TEMPERATURE",
        )


RULES: tuple[Rule, ...] = (
    starving.feeding,
    starving.keeping,
    starving.large_pictures,
    starving.many_threads,
    neighbours,
    quota,
    batch_size,
    communication,
    evaluations,
    checkpoints,
    precision,
    compiling,
    recompiling,
    memory,
    throttling,
    accuracy.learning_rate,
    accuracy.imbalance,
    accuracy.leakage,
    accuracy.label_errors,
)


def _doubled(seen: Evidence) -> float:
    """How many times as fast pictures are computed in a batch of twice as many, where that was tried."""
    step_s, own = seen.trials.step_s, seen.trials.batch
    return 2 * step_s[own] / step_s[2 * own] if {own, 2 * own} <= step_s.keys() else 1.0
