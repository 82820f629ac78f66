"""The program, without its commands, and what they share: how they are asked and how they answer."""

from __future__ import annotations

import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from eighteen import __version__
from eighteen.base.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.console import Console

Changes = Annotated[tuple[str, ...], Parameter(name="--set", negative="", consume_multiple=False)]

app = App(
    name="eighteen",
    help="Train image classifiers as fast and as cheaply as the hardware allows.",
    version=lambda: _version(),
    help_format="plaintext",
)


def console(*, stderr: bool = False) -> Console:
    """What draws tables and progress."""
    from rich.console import Console

    return Console(stderr=stderr)


def to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


def warn(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr)


def says_yes(what: str, lines: Iterable[str], question: str, *, is_agreed: bool) -> bool:
    """Show what it is about, and whether somebody says yes; UsageError if nobody has, and nobody can be asked."""
    for line in lines:
        to_stderr(line)
    if is_agreed:
        return True
    if not sys.stdin.isatty():
        raise UsageError(what, got="nobody to ask, for there is no terminal", need="a yes to this", hint="--yes")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


@contextmanager
def tidily() -> Iterator[None]:
    """Let SIGTERM end what is measured as Ctrl-C does: the trainings that it has begun end too, and its folders go."""

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def numbers(flag: str, text: str) -> tuple[int, ...]:
    """``352,160`` as numbers; UsageError, which names the flag, for anything else."""
    try:
        return tuple(int(part) for part in text.split(",") if part)
    except ValueError:
        raise UsageError(flag, got=repr(text), need="numbers with commas between", hint=f"{flag} 352,160") from None


def _version() -> str:
    from eighteen.data.decoding import DECODER

    return f"eighteen {__version__}, decoder: {DECODER}"
