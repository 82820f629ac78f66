"""Worlds of processes with little memory: ``small_tuning.py DATA FOLDER CASES``, CASES as JSON: the room of each rank.

The ranks of a case tune together, and train a run with what they found. Each leaves it in FOLDER/CASE/found-RANK.json.
They are forked, because torch takes seconds to import.
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path

import torch
from small_runs import model, recipe
from small_world import fork

from eighteen.advice import search, tune
from eighteen.base import recipe as recipes
from eighteen.base import rundir
from eighteen.base.world import World
from eighteen.data import dataset
from eighteen.training import dist, train


def take_part(here: World, data: str, folder: Path, rooms: list[int]) -> None:
    """What one rank does."""
    net = (model("cramped"), f"model.args={{room={rooms}, net='grouped'}}", "data.threads=1")
    chosen = recipes.load(recipe(*net), epochs=1)
    packed, device = dataset.open(data), dist.device_of(here)
    with dist.connected(here, device):
        found = tune.tune(chosen, packed, here, limit_s=300)
        (folder / f"found-{here.rank}.json").write_text(json.dumps(found.micro_batches))
        if here.is_first:
            rundir.create(folder, "run", recipe=search.applied(chosen, found), command="", environment={})
        dist.share(None, here, device)
        run = rundir.open(next(folder.glob("run-*")))
        train.train(recipes.load(str(run.recipe)), packed, run, here)


if __name__ == "__main__":
    search.SHARE = 1e9  # of runs that take no time
    torch.use_deterministic_algorithms(False)  # which loads a compiler, here instead of in every rank
    data, folder, cases = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    for number, rooms in enumerate(cases):
        place = folder / str(number)
        place.mkdir()
        for process in fork(len(rooms), str(place), partial(take_part, data=data, folder=place, rooms=rooms)):
            assert os.waitpid(process, 0)[1] == 0, rooms
