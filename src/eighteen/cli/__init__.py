"""The command line: parse, call one function, print.

What a command does stands in ``api`` and below; here stands only how it is asked for and shown.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable
from typing import NoReturn

from cyclopts import CycloptsError, MissingArgumentError, UnusedCliTokensError

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
        return _show(_misread(error))
    except EighteenError as error:
        return _show(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has gone, e.g. head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return 0


def _misread(error: CycloptsError) -> UsageError:
    """What the command line lacks, has too much, or spells otherwise, in our four parts."""
    command = " ".join(["eighteen", *(error.command_chain or ())])
    said, _, near = str(error).partition(" Available commands: ")[0].partition(" Did you mean ")
    got = said[:1].lower() + said[1:].rstrip(".")
    if isinstance(error, UnusedCliTokensError):
        got = f"{' '.join(error.unused_tokens or ())} as well"
    elif isinstance(error, MissingArgumentError) and error.argument:
        option = error.keyword or next((token.keyword for token in error.argument.tokens), None)
        got = f"{option} without its value" if option else f"no {error.argument.name.lstrip('-').upper()}"
    hint = f"did you mean {near}" if near else f"{command} --help"
    return UsageError(command, got=got, need="what its help shows", hint=hint)


def _show(error: EighteenError) -> int:
    print(error, file=sys.stderr)
    return error.exit_code
