"""One rank of a run that ``ranks`` started: ``python -m eighteen.training.rank RUN DATASET``."""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import signal
import sys
from pathlib import Path

from eighteen.base import recipe as recipes
from eighteen.base import rundir, world
from eighteen.base.clock import command_began
from eighteen.base.errors import EighteenError, Unwritable
from eighteen.base.files import unwritable_is_said
from eighteen.base.world import FILE_STORE, leave
from eighteen.data import dataset as datasets
from eighteen.training.heartbeat import Heartbeat
from eighteen.training.ranks import SUPERVISOR, beat_file, error_file, stack_file
from eighteen.training.train import train

PR_SET_PDEATHSIG = 1  # sys/prctl.h


def main(arguments: list[str]) -> int:
    """One rank of ``RUN DATASET``."""
    die_with(int(os.environ[SUPERVISOR]))
    run, data = rundir.open(arguments[0]), datasets.open(arguments[1], brings=True)
    recipe = recipes.load(str(run.recipe))
    here, meeting = world.from_environment(), Path(os.environ[FILE_STORE]).parent
    stacks = stack_file(meeting, here.rank).open("w")  # open until the very end: the signal may come at any time
    faulthandler.register(signal.SIGUSR2, stacks)
    pulse = Heartbeat(beat_file(meeting, here.rank), hang_s=recipe.train.hang_s)
    try:
        with unwritable_is_said(run.path, hint=f"df -h {run.path}; then the same command again", kind=Unwritable):
            train(recipe, data, run, here, pulse=pulse, began=command_began())
    except EighteenError as error:
        told = json.dumps([type(error).__name__, [error.tried, error.got, error.need, error.hint]])
        error_file(meeting, here.rank).write_text(told, "utf-8")
        return error.exit_code
    return 0


def die_with(supervisor: int) -> None:
    """Let the kernel end this process when that one ends, however it does: nobody else would, and it would write on."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:  # it ended before we asked
        os._exit(1)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
