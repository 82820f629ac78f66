"""``cut_short.py SIGNAL MOMENT WORDS``: runs ``eighteen WORDS``, and signals itself at a moment of a launch.

Moments are counted by what the launch does, not by a clock: before and after each thing that it asks of a machine or
sends there, but for looks, and with each event that it hears of.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from eighteen import cli
from eighteen.cloud.driver import Driver
from eighteen.cloud.remote import Remote

number, moment, words = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
moments = itertools.count(1)


def passes() -> None:
    if next(moments) == moment:
        os.kill(os.getpid(), number)


def counted(does: Callable[..., Any]) -> Callable[..., Any]:
    def does_so(remote: Remote, verb: str, *rest: Any, **more: Any) -> Any:
        if verb != "look":
            passes()
        answer = does(remote, verb, *rest, **more)
        if verb != "look":
            passes()
        return answer

    return does_so


def heard(does: Callable[..., Any]) -> Callable[..., Any]:
    def does_so(driver: Driver, first: Any) -> None:
        does(driver, first)
        for _ in first.events.splitlines():
            passes()

    return does_so


signal.signal(signal.SIGINT, signal.default_int_handler)  # also where whoever started us does not listen to it
Remote.ask, Remote.send, Driver._heard = counted(Remote.ask), counted(Remote.send), heard(Driver._heard)
sys.exit(cli.main(words))
