"""The command line: parse, call one function, print.

What a command does stands in ``api`` and below; here stands only how it is asked for and shown.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable
from typing import NoReturn

from cyclopts import CycloptsError

from eighteen.base.errors import EighteenError, UsageError
from eighteen.base.hardware import let_threads_sleep
from eighteen.base.world import from_environment, leave
from eighteen.cli import advice, bench, dataset, demo, launch, machines, prices, recipes, results, run  # noqa: F401  # each has its commands
from eighteen.cli.app import app

INTERRUPTED = 128 + signal.SIGINT


def entry() -> NoReturn:
    """The program ``eighteen``."""
    signal.signal(
        signal.SIGUSR1, signal.SIG_IGN
    )  # it asks a run to save: one that has not begun yet does not die of it
    exit_code = main()
    # tearing Python down takes 0.7 s with torch, and 2 to 3 s on busy cores, which a run's time would have to leave
    if from_environment().size > 1 or "torch" in sys.modules:
        leave(exit_code)
    sys.exit(exit_code)


def main(arguments: Iterable[str] | None = None) -> int:
    """Run one command; returns its exit code. An error is shown in its four parts, a bug with its traceback."""
    let_threads_sleep()
    try:
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        got, need = str(error).rstrip("."), "a command as --help shows it"
        hint = " ".join(["eighteen", *(error.command_chain or ()), "--help"])
        return _show(UsageError("read the command line", got=got, need=need, hint=hint))
    except EighteenError as error:
        return _show(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has gone, e.g. head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return 0


def _show(error: EighteenError) -> int:
    print(error, file=sys.stderr)
    return error.exit_code
