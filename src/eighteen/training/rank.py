"""One rank of a run that ``ranks`` started: ``python -m eighteen.training.rank RUN DATASET``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from eighteen.base import recipe as recipes
from eighteen.base import rundir, world
from eighteen.base.errors import EighteenError, Unwritable
from eighteen.base.files import unwritable_is_said
from eighteen.base.world import FILE_STORE, leave
from eighteen.data import dataset as datasets
from eighteen.training.train import train


def main(arguments: list[str]) -> int:
    """One rank of ``RUN DATASET``."""
    run, data = rundir.open(arguments[0]), datasets.open(arguments[1])
    recipe = recipes.load(str(run.recipe))
    here = world.from_environment()
    try:
        with unwritable_is_said(run.path, hint=f"df -h {run.path}; then the same command again", kind=Unwritable):
            train(recipe, data, run, here)
    except EighteenError as error:
        report = Path(os.environ[FILE_STORE]).with_name(f"error-{here.rank}.json")
        report.write_text(json.dumps([type(error).__name__, [error.tried, error.got, error.need, error.hint]]), "utf-8")
        return error.exit_code
    return 0


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
