"""Situations that make training slow, made on purpose, and healthy ones: drawn from a seed, so that none is tuned on.

Each is a training as a person would start it, something done to it or its machine, what the doctor should say first,
and the cure: the same training without what was done.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NET = "eighteen.training.compact:CompactNet"
Spoil = Callable[[subprocess.Popen[bytes]], AbstractContextManager[None]]  # what goes on beside a training


@contextmanager
def nothing(_process: subprocess.Popen[bytes]) -> Iterator[None]:
    yield


@dataclass(frozen=True)
class Situation:
    """right: codes, any of which is right as the first finding; empty: there should be none

    options: of ``eighteen train``      env: of its process      ranks: processes that train
    spoil: goes on while it trains      prefix: a command in front, such as ``ip netns exec``
    cure: what is changed to see the gain, given the fix that was found; None: as that fix says
    """

    name: str
    data: str
    right: frozenset[str]
    options: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    ranks: int = 1
    spoil: Spoil = nothing
    quota: float | None = None
    link_mbit: int | None = None
    cure: Callable[[Situation, Mapping[str, Any]], Situation] | None = None


def drawn(seed: int) -> Iterator[Situation]:
    """One of each kind."""
    draw = random.Random(seed)
    for kind in KINDS:
        yield kind(draw)


def _options(
    draw: random.Random, *, batch: int, size: int, widths: Sequence[int] = (), epochs: int = 1000, **more: object
) -> list[str]:
    """widths: of a compact net; none: one that takes no time      epochs: with one, pictures are not kept in memory"""
    keys = {
        "phases": f"[{{epochs={epochs}, size={size}, batch={batch}, min_scale=0.35}}]",
        "optim.lr": f"[[0, 0.01], [{epochs}, 0.01]]",
        "optim.ema": 0,
        "augment": "{brightness=0.0, contrast=0.0}",
        "optim.batch": batch,
        "eval": f"{{size={size}, every=1000}}",
        **({"model.args.widths": list(widths)} if widths else {}),
        "train.seed": draw.randrange(1000),
        **more,
    }
    net = [] if widths else ["--model", "nets:pooled"]
    return ["--recipe", "small", *net, *(word for key, value in keys.items() for word in ("--set", f"{key}={value}"))]


def _with(situation: Situation, *options: str) -> Situation:
    return replace(situation, options=[*situation.options, *options])


def _set(**changes: object) -> Callable[[Situation, Mapping[str, Any]], Situation]:
    words = [word for key, value in changes.items() for word in ("--set", f"{key.replace('__', '.')}={value}")]
    return lambda one, _fix: _with(one, *words)


SMALL_NETS = ((8, 16), (12, 24), (8, 16, 32))
NETS = ((32, 64, 128), (24, 48, 96), (32, 64))


def few_threads(draw: random.Random) -> Situation:
    options = _options(draw, batch=64, size=draw.choice((96, 104, 112)), epochs=1, data__threads=1)
    return Situation("few-threads", "dense", frozenset({"few-threads"}), _dots(options), cure=_set(data__threads=2))


def many_threads(draw: random.Random) -> Situation:
    size, count = draw.choice((96, 104, 112)), draw.choice((12, 16, 24, 32))
    options = _options(draw, batch=64, size=size, epochs=1, data__threads=count)
    return Situation("many-threads", "dense", frozenset({"many-threads"}), _dots(options), cure=_set(data__threads=2))


def slow_disk(draw: random.Random) -> Situation:
    env = {"SLOW_READ_MS": f"{draw.uniform(6, 25):.1f}"}
    options = _options(draw, batch=64, size=64, widths=draw.choice(SMALL_NETS), epochs=1)
    more = _set(data__threads=16)
    return Situation("slow-disk", "middle", frozenset({"slow-disk"}), options, env=env, cure=more)


def neighbour(draw: random.Random) -> Situation:
    count = draw.choice((1, 2))
    options = _options(draw, batch=64, size=64, widths=draw.choice(NETS))
    alone = lambda one, _fix: replace(one, spoil=nothing)  # noqa: E731
    right = frozenset({"neighbours"})
    return Situation("neighbours", "middle", right, options, spoil=lambda _: burning(count), cure=alone)


def small_batch(draw: random.Random) -> Situation:
    batch = draw.choice((2, 3, 4, 6))
    options = _options(draw, batch=batch, size=draw.choice((32, 48)), widths=draw.choice(NETS))
    return Situation("small-batch", "middle", frozenset({"small-batch"}), options)


def large_pictures(draw: random.Random) -> Situation:
    size = draw.choice((32, 48, 64))
    options = _options(draw, batch=32, size=size, widths=draw.choice(SMALL_NETS), epochs=1)
    small = lambda one, _fix: replace(one, data="huge-small")  # noqa: E731
    right = frozenset({"large-pictures"})
    return Situation("large-pictures", "huge", right, options, cure=small)


def checkpoints(draw: random.Random) -> Situation:
    minutes = draw.choice((0.0001, 0.001, 0.002))
    options = _options(draw, batch=256, size=48, widths=(32, 64, 128, 256), train__checkpoint_minutes=minutes)
    rarely = _set(train__checkpoint_minutes=5.0)
    return Situation("checkpoints", "middle", frozenset({"checkpoints"}), _dots(options), cure=rarely)


def evaluations(draw: random.Random) -> Situation:
    options = _options(draw, batch=draw.choice((200, 400)), size=48, widths=draw.choice(NETS))
    options = [*options, "--set", "eval.every=1"]
    return Situation("evaluations", "many-val", frozenset({"evaluations"}), options, cure=_set(eval__every=1000))


def not_kept(draw: random.Random) -> Situation:
    size = draw.choice((96, 104, 112))
    options = _options(draw, batch=64, size=size, data__keep="never")
    right = frozenset({"not-kept"})
    return Situation("not-kept", "few", right, _dots(options), cure=_set(data__keep="auto"))


def slow_rank(draw: random.Random) -> Situation:
    stopped_s, running_s = draw.uniform(0.15, 0.3), draw.uniform(0.15, 0.3)
    options = _options(draw, batch=64, size=64, widths=draw.choice(NETS))
    rank = draw.choice((0, 1))
    spoil = lambda process: pulses(process, rank, stopped_s, running_s)  # noqa: E731
    free = lambda one, _fix: replace(one, spoil=nothing)  # noqa: E731
    return Situation("slow-rank", "middle", frozenset({"slow-rank"}), options, ranks=2, spoil=spoil, cure=free)


def slow_link(draw: random.Random) -> Situation:
    options = _options(draw, batch=32, size=32, widths=(32, 64, 128, 256))
    mbit = draw.choice((60, 100, 150))
    twice = lambda one, _fix: _with(one, "--batch", "64")  # noqa: E731  # what the finding says to type
    right = frozenset({"communication"})
    return Situation("communication", "middle", right, options, ranks=2, link_mbit=mbit, cure=twice)


def little_quota(draw: random.Random) -> Situation:
    options = _options(draw, batch=64, size=64, widths=draw.choice(NETS))
    whole = lambda one, _fix: replace(one, quota=None)  # noqa: E731
    return Situation("quota", "middle", frozenset({"quota"}), options, quota=draw.uniform(0.6, 1.3), cure=whole)


def healthy(draw: random.Random) -> Situation:
    """With a batch of 64 of such nets four times as many can really be 1.4 times as fast."""
    options = _options(draw, batch=draw.choice((128, 256)), size=draw.choice((48, 64)), widths=draw.choice(NETS))
    return Situation("healthy", draw.choice(("middle", "many-val")), frozenset(), options)


def healthy_tiny(draw: random.Random) -> Situation:
    options = _options(draw, batch=draw.choice((128, 256)), size=32, widths=draw.choice(NETS))
    return Situation("healthy", "raw", frozenset(), [*options, "--set", "model.args.stem_stride=2"])


def healthy_ranks(draw: random.Random) -> Situation:
    options = _options(draw, batch=draw.choice((128, 256)), size=64, widths=draw.choice(NETS))
    return Situation("healthy", "middle", frozenset(), options, ranks=2)


KINDS = (
    few_threads,
    many_threads,
    slow_disk,
    neighbour,
    small_batch,
    large_pictures,
    checkpoints,
    evaluations,
    not_kept,
    slow_rank,
    slow_link,
    little_quota,
    healthy,
    healthy_tiny,
    healthy_ranks,
)


def _dots(options: Sequence[str]) -> list[str]:
    return [word.replace("__", ".", 1) for word in options]


@contextmanager
def burning(count: int) -> Iterator[None]:
    """So many processes that do nothing but keep a processor busy."""
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(_ended(subprocess.Popen([sys.executable, "-c", "while True: pass"])))
        yield


@contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def pulses(process: subprocess.Popen[bytes], rank: int, stopped_s: float, running_s: float) -> Iterator[None]:
    """Stop one of a training's ranks again and again for a moment."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(running_s):
            for child in children(process.pid):
                if rank_of(child) == rank:
                    os.kill(child, signal.SIGSTOP)
                    time.sleep(stopped_s)
                    os.kill(child, signal.SIGCONT)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def rank_of(pid: int) -> int | None:
    try:
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    return next((int(word[5:]) for word in words if word.startswith(b"RANK=")), None)
