"""How many times as fast a run would be with another loader, or with faster steps: the model behind foretold gains.

In: what a run said of itself, and a window of it. Out: gains, to be compared with what a fix brings. Pure.
"""

from __future__ import annotations

import math

from eighteen.advice.evidence import Setup, Trials, Window

WAITS = 0.05  # of the time: with less, steps do not wait for pictures
LEAST_FREE = 0.5  # of the processors: the scheduler gives a run that wants them its share, however many others do
KNEE = 0.95  # of the best images/s
LEAST_STEPS = 20  # of an epoch: with fewer a model learns too little from it
GONE = 0.2  # of what the others took: with less they are no longer there
KEPT_WORK = 0.3  # of a picture's decoding: what cropping it from memory takes
MOST_SLACK = 1.5  # times the threads' seconds that were counted: what a decoder takes between pictures at most


def of_loader(
    setup: Setup, now: Window, trials: Trials, *, threads: int | None = None, read_s: float, work_s: float
) -> float:
    """How many times as fast a rank is whose loader has so many threads, which take so long for each picture."""
    better = _images_per_s(setup, now, trials, threads or now.threads, read_s, work_s)
    return better / _images_per_s(setup, now, trials, now.threads, now.read_s, now.work_s)


def of_steps(setup: Setup, now: Window, ratio: float) -> float:
    """The gain where a step takes so much of its time; on a CPU what is decoded meanwhile stays as it is."""
    is_shared = setup.is_cpu and not now.is_kept
    decoding = now.work_s * now.images_per_s / setup.world / setup.rank_cpus if is_shared else 0.0
    others = min(0.95, now.data + now.communication + now.other + decoding)
    return 1 / (others + (1 - others) * ratio)


def knee(setup: Setup, trials: Trials) -> int:
    """The fewest pictures of a rank's step with which each is as good as cheapest, of those that were tried."""
    most = setup.num_samples // setup.world // LEAST_STEPS
    speeds = {size: size / seconds for size, seconds in trials.step_s.items() if size <= max(trials.batch, most)}
    return min(size for size, rate in speeds.items() if rate >= KNEE * max(speeds.values()))


def of_knee(setup: Setup, now: Window, trials: Trials) -> float:
    """The gain with ``knee`` pictures: as steps alone show, or, if that is less, as steps do that the loader feeds."""
    size, own = knee(setup, trials), trials.batch
    alone = of_steps(setup, now, own / size * trials.step_s[size] / trials.step_s[own])
    if not (trials.fed_s and trials.knee_s):
        return alone
    ratio = own / size * trials.knee_s / trials.fed_s
    talk = now.communication  # for each step, however many pictures it has
    fed = 1 / (now.other + talk * own / size + (1 - now.other - talk) * ratio)
    return min(alone, fed, _so_far(setup, now, size / trials.knee_s))


def of_kept(setup: Setup, now: Window, trials: Trials) -> float:
    """The gain where decoded pictures are kept: as such steps show, or else by what cropping takes."""
    if not (trials.fed_s and trials.kept_s):
        return of_loader(setup, now, trials, read_s=0.0, work_s=KEPT_WORK * now.work_s)
    still = now.other + now.communication
    gain = 1 / (still + (1 - still) * trials.kept_s / trials.fed_s)
    return min(gain, _so_far(setup, now, trials.batch / trials.kept_s))


def of_neighbours(setup: Setup, now: Window, trials: Trials) -> float:
    """The gain without the others: as steps show that were tried when they had gone, or else by what they took."""
    others, own = now.others or 0.0, now.own or 1e-9
    if trials.fed_s and trials.others is not None and trials.others < GONE * others:
        return max(1.0, _so_far(setup, now, trials.batch / trials.fed_s))
    return min(1 + others / own, setup.cpus / max(0.25, setup.cpus - others))


def _so_far(setup: Setup, now: Window, rate: float) -> float:
    """How many times as fast a rank of so many images/s is, as far as it is not standing still."""
    return 1 / (now.other + (1 - now.other) * now.images_per_s / setup.world / rate)


def busy_threads(setup: Setup, now: Window) -> float:
    """The share of their time that the threads which decode do so."""
    return now.images_per_s / setup.world * (now.read_s + now.work_s) / max(1, now.threads)


def idle(setup: Setup, now: Window) -> float:
    """The share of the processors that nobody uses."""
    return 1.0 if now.own is None else 1 - (now.own + (now.others or 0.0)) / setup.cpus


def _images_per_s(setup: Setup, now: Window, trials: Trials, threads: int, read_s: float, work_s: float) -> float:
    """The narrowest of three: steps that wait for nothing; threads; and processors, which on a CPU decode and compute.
    It is for comparing with what it says of the loader as it is.
    """
    each_s = (read_s + work_s) * _slack(setup, now)
    free = max(LEAST_FREE * setup.rank_cpus, setup.rank_cpus - (now.others or 0.0) / setup.local_world)
    processors = free / max(1e-9, work_s + _compute_s(setup, now))
    return min(_steps_alone(setup, now, trials), threads / max(1e-9, each_s), processors)


def _steps_alone(setup: Setup, now: Window, trials: Trials) -> float:
    """Images/s of a rank's steps that wait for no picture; on a CPU also without threads that decode beside them."""
    waiting = now.data / max(1e-9, 1 - now.other)
    so_far = now.images_per_s / setup.world / max(0.05, 1 - waiting)
    if not setup.is_cpu:
        return so_far
    if step_s := trials.step_s.get(trials.batch):
        return max(so_far, trials.batch / step_s)
    return so_far if idle(setup, now) > WAITS else math.inf  # then processors are the narrowest


def _slack(setup: Setup, now: Window) -> float:
    """How much longer a thread is at a picture than was counted, as the rate shows where threads are the narrowest."""
    counted = busy_threads(setup, now)
    return min(MOST_SLACK, max(1.0, 1 / counted)) if now.data >= WAITS and counted > 0 else 1.0


def _compute_s(setup: Setup, now: Window) -> float:
    """Processors' seconds of this rank for each of its pictures, the loader's left out; 0 where a GPU computes."""
    if not setup.is_cpu or now.own is None:
        return 0.0
    own = now.own / max(0.1, 1 - now.other) / setup.local_world
    return max(0.0, own / max(1e-9, now.images_per_s / setup.world) - now.work_s)
