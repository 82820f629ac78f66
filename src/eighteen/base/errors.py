"""What can go wrong, as types: each error knows its exit code and its four parts.

EighteenError                      1  a bug, if it is raised as itself
├── UsageError (ValueError)        2  a command, an argument or a Python call
│   └── RecipeError                2  a key or value of a recipe
├── DataError (ValueError)         3  sources or a dataset that cannot be used
├── MachineError                   4  this machine cannot do what was asked
│   ├── OutOfMemory                4  a step does not fit; smaller parts of a batch may
│   ├── Stalled                    4  pictures are late; whoever waits may go on waiting
│   └── Unwritable                 3  the disk of a run that is under way cannot be written to
├── Diverged                       5  the loss was not finite three steps in a row
├── BudgetSpent                    6  time or money ended before the target
├── PeerLost                       7  another rank is gone
└── Stopped                       75  stopped and saved: the same command again goes on
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable

FULL = {errno.ENOSPC, errno.EDQUOT}
UNWRITABLE = FULL | {errno.EACCES, errno.EEXIST, errno.EIO, errno.ENOTDIR, errno.EPERM, errno.EROFS}


class EighteenError(Exception):
    """An error that a person reads: what was tried, what we got, what is valid, what to type next.

    Printed as::

        RecipeError: phases[1].size: got 190, need a multiple of 32.
          Try: eighteen train photos.e18 --set phases.1.size=192
    """

    exit_code = 1

    def __init__(self, tried: str, *, got: str, need: str, hint: str) -> None:
        super().__init__(tried, got, need, hint)
        self.tried, self.got, self.need, self.hint = tried, got, need, hint

    def __str__(self) -> str:
        return f"{type(self).__name__}: {self.tried}: got {self.got}, need {self.need}.\n  Try: {self.hint}"


class UsageError(EighteenError, ValueError):
    exit_code = 2


class RecipeError(UsageError):
    pass


class DataError(EighteenError, ValueError):
    exit_code = 3


class MachineError(EighteenError):
    exit_code = 4


class OutOfMemory(MachineError):
    pass


class Stalled(MachineError):
    pass


class Unwritable(MachineError):
    exit_code = 3


class Diverged(EighteenError):
    exit_code = 5


class BudgetSpent(EighteenError):
    exit_code = 6


class PeerLost(EighteenError):
    exit_code = 7


class Stopped(EighteenError):
    exit_code = 75


def exit_code_of(error: BaseException) -> int:
    """What a run that ends with this error returns."""
    if isinstance(error, EighteenError):
        return error.exit_code
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        return Unwritable.exit_code
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def did_you_mean(word: str, valid: Iterable[str]) -> str:
    """The hint for a mistyped word: ``did you mean 'size'?`` or, if nothing is close, the valid words."""
    valid = sorted(valid)
    close = difflib.get_close_matches(word, valid, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"one of {', '.join(valid)}"
