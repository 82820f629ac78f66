"""Rules of the doctor's about pictures that come too late, or at too high a price. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator

from eighteen.advice import gains
from eighteen.advice.evidence import Evidence, Window
from eighteen.advice.finding import LEAST_SHARE, Finding, Gain, around, fixed

OVERSIZED = 1.5  # times the side that suffices
IDLE_THREADS = 0.6  # of the time at work: below it, threads are not what is short
SLOW_READS = 0.5  # of the loader's time


def feeding(seen: Evidence) -> Iterator[Finding]:
    """Training waits for pictures: of the reasons there can be, the one to begin with."""
    setup, now = seen.setup, seen.window
    if not now or now.is_kept or now.data < LEAST_SHARE or now.read_s + now.work_s == 0:
        return
    waited = f"{now.data:.0%} of the time no picture was ready"
    spent = 1000 * (now.read_s + now.work_s)
    if now.arrive > now.data / 2:
        yield Finding(
            "arriving",
            "training waits for shards that are still on their way to this machine",
            "the first epoch goes as fast as they come: the network, or where they come from, is the narrowest part",
            f"{waited}; the loader waited {now.arrive:.0%} of it for shards",
            "eighteen pack --renditions, so that fewer bytes have to come; or a place nearer by",
            around(1 / max(0.05, 1 - now.data), by=0.5),
        )
        return
    each = f"a thread takes {spent:.2g} ms for one, {now.read_s / (now.read_s + now.work_s):.0%} of it for reading"
    if now.read_s > SLOW_READS * (now.read_s + now.work_s):
        yield _slow_disk(seen, now, f"{waited}; {each}")
        return
    all_threads = max(1, int(setup.rank_cpus))
    if gains.busy_threads(setup, now) < IDLE_THREADS:
        fix = {"data.prefetch": min(64, 2 * int(seen.recipe.get("data.prefetch", 3)))}
        yield Finding(
            "short-prefetch",
            "batches come late, though the threads that decode have time left",
            "batches take unequally long; with more of them made ahead, a slow one is not waited for",
            f"{waited}; the threads work {gains.busy_threads(setup, now):.0%} of the time",
            fixed(fix),
            Gain(1.0, 1 / max(0.05, 1 - now.data / 2), 1 / max(0.05, 1 - now.data)),
            fix,
            is_safe=True,
        )
    elif now.threads < all_threads:
        fix = {"data.threads": all_threads}
        yield Finding(
            "few-threads",
            f"{now.threads} of {all_threads} threads decode pictures",
            "each thread decodes one picture at a time; the other processors have nothing to do",
            f"{waited}; {each}",
            fixed(fix),
            around(gains.of_loader(setup, now, seen.trials, threads=all_threads, read_s=now.read_s, work_s=now.work_s)),
            fix,
            is_safe=True,
        )
    elif setup.is_cpu and gains.idle(setup, now) < LEAST_SHARE:
        return  # all processors are busy: large_pictures and decoding say whether less work would do
    elif not (seen.pictures and _is_oversized(seen)):
        yield Finding(
            "decoding",
            f"all {now.threads} threads decode pictures, and the steps still wait for them",
            "decoding is the narrowest part: more processors, fewer bytes, or pixels that are kept would widen it",
            f"{waited}; {each}",
            fixed({"data.keep": "host"}) + ", if the pictures fit into memory; or eighteen pack --renditions",
            around(1 / max(0.05, 1 - now.data), by=0.5),
        )


def keeping(seen: Evidence) -> Iterator[Finding]:
    """The same pictures are decoded in every epoch, though all would fit into memory."""
    now, pictures = seen.window, seen.pictures
    if not (now and pictures and pictures.fits) or now.is_kept or pictures.side == 0 or _too_many(seen):
        return
    if seen.recipe.get("data.keep") != "never" or seen.recipe.get("phases.0.epochs", 1) < 2:
        return
    fix = {"data.keep": "auto"}
    yield Finding(
        "not-kept",
        "every epoch reads and decodes the same pictures again, though they fit into memory",
        "data.keep is never; pictures that are kept decoded are only cropped after the first epoch",
        f"{1000 * (now.read_s + now.work_s):.2g} ms of a thread for each picture; {now.data:.0%} of the time waiting",
        fixed(fix),
        around(gains.of_kept(seen.setup, now, seen.trials), by=0.4),
        fix,
    )


def large_pictures(seen: Evidence) -> Iterator[Finding]:
    """Far more pixels are decoded than the size needs: a rendition has them already made smaller."""
    now, pictures = seen.window, seen.pictures
    if not (now and pictures) or now.is_kept or not _is_oversized(seen) or _too_many(seen):
        return
    small = seen.trials.small_work_s
    work = now.work_s * (pictures.needed / pictures.side) ** 2 if small is None else small
    gain = gains.of_loader(seen.setup, now, seen.trials, read_s=now.read_s, work_s=work)
    how = "measured on some of them" if small is not None else "by their pixels"
    side = 16 * math.ceil(pictures.needed / 16)
    yield Finding(
        "large-pictures",
        f"pictures of about {pictures.side:.0f} px are decoded where {pictures.needed:.0f} px would do",
        "a rendition keeps the pictures smaller, made once when they are packed; training reads the smallest that does",
        f"{1000 * now.work_s:.2g} ms of a thread for each picture, {1000 * work:.2g} from a rendition ({how})",
        f"eighteen pack SOURCE DATASET --renditions {side} --force",
        around(gain, by=0.2 if small is not None else 0.5),
    )


def many_threads(seen: Evidence) -> Iterator[Finding]:
    """Threads beyond the processors take turns, and memory."""
    setup, now = seen.setup, seen.window
    if not now or now.is_kept or not _too_many(seen):
        return
    if now.read_s > SLOW_READS * (now.read_s + now.work_s):
        return  # they wait for the disk most of the time
    fix = {"data.threads": max(1, int(setup.rank_cpus))}
    yield Finding(
        "many-threads",
        f"{now.threads} threads decode on {setup.rank_cpus:g} processors",
        "they take processors from each other, and on a CPU from the step: whoever waits for one waits longer",
        f"{_of(now.own)} of {setup.cpus:g} processors in use by the run",
        fixed(fix),
        None,
        fix,
        is_safe=True,
    )


def _slow_disk(seen: Evidence, now: Window, evidence: str) -> Finding:
    """Reads that each take long overlap: with threads enough to hide them, pictures come as fast as they are needed."""
    setup = seen.setup
    step_rate = now.images_per_s / setup.world / max(0.05, 1 - now.data)  # of a rank that never waits
    wanted = min(64, max(2 * now.threads, math.ceil(step_rate * (now.read_s + now.work_s))))
    fix = {"data.threads": wanted}
    gain = gains.of_loader(setup, now, seen.trials, threads=wanted, read_s=now.read_s, work_s=now.work_s)
    return Finding(
        "network-disk" if seen.is_network else "slow-disk",
        "training waits for the disk" + (", which is another machine's" if seen.is_network else ""),
        "a thread that waits for a read does nothing else; more of them wait at the same time",
        evidence,
        f"{fixed(fix)}; or copy the dataset to a local disk, once",
        Gain(1.0, gain, 1 / max(0.05, 1 - now.data)),
        fix,
        is_safe=True,
    )


def _too_many(seen: Evidence) -> bool:
    """Whether threads wait for processors: what each takes for a picture then says little."""
    return seen.window is not None and seen.window.threads > 2 * max(1.0, seen.setup.rank_cpus)


def _is_oversized(seen: Evidence) -> bool:
    pictures = seen.pictures
    return pictures is not None and pictures.side > OVERSIZED * pictures.needed


def _of(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1f}"
