"""Work spread over processes: jobs go in, their results come out in the same order, a bounded number in flight."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import types
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from eighteen.base.errors import MachineError

Job = TypeVar("Job")
Result = TypeVar("Result")


def in_order(function: Callable[[Job], Result], jobs: Iterable[Job], *, procs: int) -> Generator[Result, None, None]:
    """``map`` over ``procs`` processes; in this process if there is one only, or one job only.

    Close what is returned, if it is not read to its end: the processes end then.

    function: importable, from a module that is quick to import      jobs, results: picklable
    raises what a job raised, in its turn, and MachineError if a process was killed
    """
    jobs = iter(jobs)
    head = [job for _, job in zip(range(2), jobs, strict=False)]
    if procs <= 1 or len(head) < 2:
        yield from map(function, head)
        yield from map(function, jobs)
        return
    pool = ProcessPoolExecutor(procs, mp_context=multiprocessing.get_context("spawn"), initializer=_start)
    waiting: deque[Future[Result]] = deque()
    try:
        for job in _chain(head, jobs):
            waiting.append(_submit(pool, function, job))
            if len(waiting) > 2 * procs:  # enough that nobody waits, few enough that the results fit in memory
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise MachineError(
            f"work with {procs} processes",
            got="one of them was killed (out of memory?)",
            need="processes that live until the work is done",
            hint="the same command again, with --procs 1 if memory is short: what is finished is kept",
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _chain(head: list[Job], tail: Iterator[Job]) -> Iterator[Job]:
    yield from head
    yield from tail


def _submit(pool: ProcessPoolExecutor, function: Callable[[Job], Result], job: Job) -> Future[Result]:
    with _hidden_main():  # submit starts processes
        return pool.submit(function, job)


@contextmanager
def _hidden_main() -> Iterator[None]:
    """Let spawned processes not import ``__main__`` again: a script without the guard would start anew in each."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _start() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A pool's process waits on a queue that it holds open itself, so it would outlive a parent that was killed.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
