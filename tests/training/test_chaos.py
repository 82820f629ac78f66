"""Whatever is killed whenever: the same command, again and again, ends with the bits of a run that nobody disturbed."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_runs import happened, model, recipe
from test_supervision import children

from eighteen.base import recipe as recipes
from eighteen.base import rundir
from eighteen.base.events import Follower
from eighteen.training import checkpoint

CHANGES = (
    model("troubled"),
    "model.args.net='normed'",  # batch norm and dropout
    "model.args.slow_s=0.03",
    "optim.ema=0.9",
    "augment.mixup=0.2",
    "phases.0.epochs=15",  # 60 steps, each with a checkpoint
    "optim.lr=[[0, 0.05], [5, 0.1], [15, 0.0]]",
    "train.checkpoint_minutes=1e-9",
)
TRAINS_S = 1.8  # how long, about: a kill comes at any time of that


class Command:
    """``eighteen train`` in a folder of its own, as a person would type it, again and again."""

    def __init__(self, data: Path, folder: Path, num_ranks: int) -> None:
        self._folder, self._events = folder, None
        file = folder / "recipe.toml"
        file.write_text(recipes.dump(recipe(*CHANGES)))
        ranks = ["--procs", str(num_ranks)] if num_ranks > 1 else []
        self._command = [sys.executable, "-m", "eighteen", "train", str(data), "--recipe", str(file), *ranks]
        self.num_started = 0

    def start(self) -> None:
        self.num_started += 1
        self.process = subprocess.Popen(
            self._command, cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )

    @property
    def run(self) -> Path | None:
        found = list(self._folder.glob("runs/*/events.jsonl"))
        assert len(found) < 2, "the same command goes on with the same run"
        return found[0].parent if found else None

    def is_done(self) -> bool:
        end = rundir.open(self.run).end() if self.run else None
        return end is not None and end["reason"] == "done"

    def wait_for_training(self) -> bool:
        """Until it tells that training begins, or went on; False if it ended before."""
        while self.process.poll() is None:
            if self._events is None and self.run:
                self._events = Follower(self.run / "events.jsonl")
            if self._events and any(event["event"] == "start" for event in self._events.new()):
                return True
            time.sleep(0.02)
        return False

    def kill_one(self, rng: random.Random) -> str:
        """Which: the process that was started, or one of its ranks."""
        ranks = sorted(children(self.process.pid))
        process = rng.choice([self.process.pid, *ranks])
        os.kill(process, signal.SIGKILL)
        return "main" if process == self.process.pid else "rank"


def bits(run: Path) -> str:
    """Of weights, moving averages and optimiser in the newest checkpoint."""
    files = sorted(checkpoint.newest(rundir.open(run)).path.glob("*.safetensors"))
    assert [file.stem for file in files if file.stem in ("model", "optimizer")] == ["model", "optimizer"]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def disturbed(data: Path, folder: Path, num_ranks: int, seed: int, *, num_kills: int) -> tuple[Path, list[str]]:
    """Train with kills at random moments; the run, and what was killed."""
    rng, command, killed = random.Random(seed), Command(data, folder, num_ranks), []
    command.start()
    while True:
        while len(killed) < num_kills and command.wait_for_training():
            time.sleep(rng.uniform(0, TRAINS_S))
            if command.process.poll() is None:
                killed.append(command.kill_one(rng))
            if killed and killed[-1] == "main":
                break
        _, said = command.process.communicate()
        run = command.run
        if run and command.is_done():  # also where it was killed after it had told so
            return run, killed
        assert command.process.returncode == -signal.SIGKILL, said.decode()
        command.start()


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory) -> dict[int, str]:
    """By number of ranks."""
    return {
        num_ranks: bits(disturbed(data.path, tmp_path_factory.mktemp(f"{num_ranks}"), num_ranks, 0, num_kills=0)[0])
        for num_ranks in (1, 2)
    }


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_kill_at_a_random_moment_changes_no_bit(data, tmp_path, undisturbed, num_ranks):
    run, killed = disturbed(data.path, tmp_path, num_ranks, seed=num_ranks, num_kills=1)
    assert len(killed) == 1
    assert bits(run) == undisturbed[num_ranks]


@pytest.mark.soak
@pytest.mark.parametrize("trial", range(20))
def test_two_kills_at_random_moments_change_no_bit(data, tmp_path, undisturbed, trial):
    num_ranks = 1 + trial % 2
    run, killed = disturbed(data.path, tmp_path, num_ranks, seed=100 + trial, num_kills=2)
    print(f"trial {trial}: {num_ranks} ranks, killed {' '.join(killed)}, {len(happened(run, 'start'))} starts")
    assert bits(run) == undisturbed[num_ranks]
