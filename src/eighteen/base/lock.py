"""One process at a time trains a run: it holds a lock on ``RUN/lock``, which the kernel frees however it dies.

The file says who holds it, for people, and stays where it is when nobody does.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from eighteen.base.errors import UsageError
from eighteen.base.rundir import RunDir

ATTEMPTS, PAUSE_S = 3, 0.05  # whoever only asks holds the lock too, for a moment


@contextmanager
def held(run: RunDir) -> Iterator[bool]:
    """Hold the run's lock while the block lasts; UsageError, naming its process, if another one does.

    Gives False where the file system knows no locks: then nothing is held, and nobody else is noticed.
    """
    with _opened(run.lock, os.O_RDWR | os.O_CREAT) as descriptor:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt == ATTEMPTS:
                    got, hint = f"one that {_who(run.lock)} is training", f"eighteen stop {run.path}"
                    raise UsageError(f"train {run.path}", got=got, need="a run at rest", hint=hint) from None
                time.sleep(PAUSE_S)
            except OSError:
                yield False
                return
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
        yield True


def holder(run: RunDir) -> str | None:
    """Who trains the run now, as ``process 123 on HOST``, or None.

    Where the file system knows no locks, a run that says it is training is believed.
    """
    if not run.lock.exists():
        return None
    with _opened(run.lock, os.O_RDONLY) as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _who(run.lock)
        except OSError:
            return _who(run.lock) if run.status.exists() and run.read_status()["state"] == "training" else None
    return None


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until no other process is in such a block for this folder; where it knows no locks, don't."""
    with _opened(folder, os.O_RDONLY) as descriptor:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


@contextmanager
def alone_if_free(path: Path) -> Iterator[bool]:
    """Gives whether no other process is in such a block for this file, which is made, and none is waited for."""
    with _opened(path, os.O_RDWR | os.O_CREAT) as descriptor:
        yield _is_locked(descriptor, fcntl.LOCK_EX)


@contextmanager
def used(folder: Path) -> Iterator[bool]:
    """Keep others from being ``alone`` in a folder as long as the block lasts; gives whether it is still there."""
    with _opened(folder, os.O_RDONLY) as descriptor:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield folder.exists() and os.path.samestat(folder.stat(), os.fstat(descriptor))


@contextmanager
def unused(folder: Path) -> Iterator[bool]:
    """Gives whether nobody is in a ``used`` block for a folder, and keeps it so; without waiting."""
    with _opened(folder, os.O_RDONLY) as descriptor:
        yield _is_locked(descriptor, fcntl.LOCK_EX)


def _is_locked(descriptor: int, how: int) -> bool:
    """Whether it is now ours; as if it were where the file system knows no locks."""
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


@contextmanager
def _opened(path: Path, how: int) -> Iterator[int]:
    descriptor = os.open(path, how, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _who(path: Path) -> str:
    process, _, host = path.read_text("utf-8").strip().partition(" ")
    return f"process {process} on {host}" if host else "another process"
