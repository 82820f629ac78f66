"""Copies of a run's checkpoints elsewhere: on a mounted path, or wherever fsspec reaches (s3://, gs://, memory:// ...).

    URL/RUN/recipe.toml, command.txt              once
            checkpoints/step-000123/...           as in the run; commit.json is copied last
                                                  and deleted first

A copy that was cut off has no commit.json and does not count. On fetching, every digest is verified.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from eighteen.base.errors import DataError
from eighteen.base.files import sync_file, sync_folder, write_atomic, write_json
from eighteen.base.hardware import environment
from eighteen.base.rundir import RunDir
from eighteen.data import places
from eighteen.data.places import Place, reaching
from eighteen.training import checkpoint
from eighteen.training.checkpoint import COMMIT, settle

ONCE = ("command.txt", "recipe.toml")  # in this order: with recipe.toml it is a run
PART = 2**22  # bytes at a time


def require_place(url: str) -> None:
    """MachineError unless a folder can be made, and written into, at ``url``."""
    with reaching("write checkpoints to", url):
        place = places.at(url)
        place.files.makedirs(place.path, exist_ok=True)
        probe = place / ".eighteen"
        probe.files.pipe_file(probe.path, b"")
        probe.files.rm_file(probe.path)


def copy(run: RunDir, saved: Path, url: str, *, kept: Collection[str]) -> None:
    """Copy a committed checkpoint to ``url/RUN``, and delete older ones there that are not called as one of ``kept``.

    Safe to call from a thread, one call at a time. Raises MachineError, in four parts, whatever goes wrong.
    """
    with reaching("copy a checkpoint to", url):
        home = places.at(url) / run.path.name
        home.files.makedirs((home / "checkpoints").path, exist_ok=True)
        for name in ONCE:
            if not (home / name).exists():
                _upload(run.path / name, home / name)
        there = home / "checkpoints" / saved.name
        _delete(there)
        there.files.makedirs(there.path, exist_ok=True)
        for file in sorted(saved.iterdir(), key=lambda file: file.name == COMMIT):
            _upload(file, there / file.name)
        for name, step in _steps(home / "checkpoints"):
            if step < _step(saved.name) and name not in kept:
                _delete(home / "checkpoints" / name)


def fetch(run: RunDir, url: str) -> list[str]:
    """Bring the newest checkpoint at ``url/RUN`` into a run, if the run has none as new. Returns what to tell.

    The newest there whose digests hold is taken; damaged ones are named. Only for who holds the run's lock. Raises
    MachineError if ``url`` cannot be read.
    """
    told = []
    with reaching("read checkpoints from", url):
        there = places.at(url) / run.path.name / "checkpoints"
        settle(run.checkpoints)
        newest = _newest_step(run)
        for name, step in reversed(_steps(there)):
            if step <= newest or not (there / name / COMMIT).exists():
                continue
            try:
                _download(there / name, run.checkpoints)
            except DataError as error:
                told.append(f"{url}: {name} is damaged: {error.got}")
                continue
            told.append(f"took {name} from {url}")
            break
    return told


def fetch_run(origin: str, runs_dir: Path) -> tuple[RunDir, str]:
    """The run whose copy lies at ``origin`` (URL/RUN), in ``runs_dir``, where it may be already; without checkpoints.

    Returns the run and URL, for ``fetch``. Raises DataError if there is no copy of a run, MachineError if it cannot be
    read.
    """
    url, _, name = origin.rstrip("/").rpartition("/")
    run = RunDir(runs_dir / name)
    if not run.recipe.is_file():
        with reaching("read the run", origin):
            texts = {once: (places.at(origin) / once).read() for once in ONCE}
        if None in texts.values():
            need, hint = "a run that --checkpoint-to has copied", f"eighteen train --resume {url}/RUN"
            raise DataError(f"fetch the run {origin}", got="no recipe.toml there", need=need, hint=hint)
        for folder in (run.checkpoints, run.tensorboard, run.eval):
            folder.mkdir(parents=True, exist_ok=True)
        write_json(run.path / "env.json", environment())
        for once in ONCE:
            write_atomic(run.path / once, texts[once] or b"")
    return run, url


def is_copy(path: Path) -> bool:
    """Whether a folder is the copy of a run, not a run."""
    return (path / "recipe.toml").is_file() and not (path / "env.json").exists()


def _newest_step(run: RunDir) -> int:
    """Of the checkpoints whose digests hold; -1 if there is none."""
    try:
        return checkpoint.newest(run).step
    except DataError:
        return -1


def _steps(folder: Place) -> list[tuple[str, int]]:
    """Names and steps of the checkpoints in a folder, finished or not, oldest first."""
    found = [name for name in folder.names() if re.fullmatch(r"step-\d+", name)]
    return sorted(((name, _step(name)) for name in found), key=lambda pair: pair[1])


def _step(name: str) -> int:
    return int(name.removeprefix("step-"))


def _upload(file: Path, to: Place) -> None:
    with file.open("rb") as source, to.files.open(to.path, "wb") as sink:
        shutil.copyfileobj(source, sink, PART)
    if "file" in to.files.protocol:  # a mounted path
        sync_file(Path(to.path))


def _download(place: Place, folder: Path) -> None:
    """A checkpoint into ``folder``, under its name, whole and verified; else DataError, and nothing is left of it."""
    temp = checkpoint.temporary(folder / PurePosixPath(place.path).name)
    temp.mkdir(parents=True)
    try:
        for name in sorted(place.names(), key=lambda name: name == COMMIT):
            with place.files.open((place / name).path, "rb") as source, (temp / name).open("wb") as sink:
                shutil.copyfileobj(source, sink, PART)
            sync_file(temp / name)
        checkpoint.open(temp)
    except BaseException:
        shutil.rmtree(temp, ignore_errors=True)
        raise
    sync_folder(temp)
    settle(folder)


def _delete(place: Place) -> None:
    """The commit mark first, so that a half-deleted copy does not count."""
    if (place / COMMIT).exists():
        place.files.rm_file((place / COMMIT).path)
    if place.exists():
        place.files.rm(place.path, recursive=True)
