"""The tour: draw pictures, then pack, train, eval and predict with the commands that a person would type."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from eighteen.demo.pictures import CLASSES, draw

RECIPE = ("--recipe", "demo")


def run_demo(folder: Path, *, num_samples: int = 3000) -> int:
    """Run the whole chain in a folder, each command printed before it runs, and return the exit code of the last one.

    The first command that fails is the last one. Pictures that an earlier demo has packed there are used again.

    raises DataError if something that is not ours lies in ``folder/pictures`` or ``folder/unseen``
    """
    began_s = time.monotonic()
    pictures, dataset, runs, unseen = (folder / name for name in ("pictures", "pictures.e18", "runs", "unseen"))
    if not (dataset / "dataset.json").exists():
        _draw(pictures, num_samples=num_samples, seed=18)
        if code := _type("pack", pictures, dataset):
            return code
    if code := _type("train", dataset, *RECIPE, "--runs-dir", runs):
        return code
    run = newest_run(runs)
    if code := _type("eval", run, dataset):
        return code
    _draw(unseen, num_samples=len(CLASSES), seed=19)
    if code := _type("predict", run, unseen):
        return code
    print(SUMMARY.format(seconds=time.monotonic() - began_s, run=run, folder=folder))
    return 0


SUMMARY = """
Done in {seconds:.0f} s. In {folder}: the pictures, the dataset packed from them, and the run
  {run}
with its recipe, events, log, checkpoints and evaluation.

Next, with your own pictures, one sub-folder a class:
  eighteen train photos/
"""


def newest_run(runs: Path) -> Path:
    """The run that was alive last: the folder whose status.json is the newest."""
    return max(runs.glob("*/status.json"), key=lambda status: status.stat().st_mtime_ns).parent


def _draw(folder: Path, *, num_samples: int, seed: int) -> None:
    print(f"Drawing {num_samples:,} pictures of {len(CLASSES)} classes into {folder} ...", flush=True)
    draw(folder, num_samples=num_samples, seed=seed)


def _type(*words: str | Path) -> int:
    """Show a command, run it, and return its exit code; 128 + the number of a signal that ended it, as shells do."""
    arguments = [str(word) for word in words]
    print(f"\n$ eighteen {shlex.join(arguments)}", flush=True)
    # Ctrl-C reaches the command too, which saves and stops: wait for its exit code instead of dying before it.
    # A handler rather than SIG_IGN, because a command would inherit that one.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        code = subprocess.run([sys.executable, "-m", "eighteen", *arguments]).returncode
    finally:
        signal.signal(signal.SIGINT, before)
    return code if code >= 0 else 128 - code
