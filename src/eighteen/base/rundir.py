"""The folder of a run: what lies where, how it gets its name, and its heartbeat."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from eighteen.base import recipe as recipes
from eighteen.base.errors import DataError, UsageError
from eighteen.base.events import Event, append, event, last
from eighteen.base.files import sync_folder, write_atomic, write_json
from eighteen.base.recipe import Recipe


@dataclass(frozen=True)
class RunDir:
    path: Path

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.toml"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def status(self) -> Path:
        return self.path / "status.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def bad(self) -> Path:
        """The table of bad samples that were left out; not there while there is none."""
        return self.path / "bad.csv"

    @property
    def stacks(self) -> Path:
        return self.path / "stacks"

    @property
    def eval(self) -> Path:
        return self.path / "eval"

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    @property
    def clock(self) -> Path:
        """What the run has taken so far, see ``base.clock``."""
        return self.path / "clock.json"

    @property
    def room(self) -> Path:
        """In how large parts its steps fit into memory, see ``training.room``; not there while all do."""
        return self.path / "room.json"

    @property
    def tuned(self) -> Path:
        """For which recipe it was tuned before its first step, and what that found; not there where it was not."""
        return self.path / "tuned.json"

    @property
    def fixes(self) -> Path:
        """What the doctor has changed while it trains, see ``base.fixes``; not there while that is nothing."""
        return self.path / "fixes.json"

    @property
    def stop(self) -> Path:
        return self.path / "stop.json"

    def event(self, kind: str, **facts: Any) -> Event:
        """Write an event down and return it."""
        happened = event(kind, **facts)
        append(self.events, happened)
        return happened

    def heartbeat(self, **facts: Any) -> None:
        """Rewrite status.json, the only file that others poll."""
        write_json(self.status, {"v": 1, "time_s": time.time(), **facts})

    def read_status(self) -> dict[str, Any]:
        return json.loads(self.status.read_text("utf-8"))

    def end(self) -> Event | None:
        """Its ``end`` event, if nothing began after it: None for a run that trains, or was killed."""
        told = last(self.events, "start", "end")
        return told if told and told["event"] == "end" else None

    def read_tuned(self) -> dict[str, Any] | None:
        return json.loads(self.tuned.read_text("utf-8")) if self.tuned.exists() else None

    def read_environment(self) -> dict[str, Any]:
        return json.loads((self.path / "env.json").read_text("utf-8"))


def create(
    parent: Path,
    name: str,
    *,
    recipe: Recipe,
    command: str,
    environment: dict[str, Any],
    tuned: dict[str, Any] | None = None,
    into: Path | None = None,
) -> RunDir:
    """Make ``parent/NAME-UTC`` with recipe.toml, command.txt, env.json and, where it was tuned, tuned.json.

    A second run in the same second gets ``.2``: nothing is ever overwritten.
    into: a folder to take instead, in which no run has come as far as its env.json; UsageError if one has
    """
    if into is not None and (into / "env.json").exists():
        raise UsageError(f"begin a run in {into}", got="one there", need="none", hint=f"eighteen train --resume {into}")
    run = RunDir(into or _new_folder(parent, name))
    for folder in (run.checkpoints, run.tensorboard, run.eval):
        folder.mkdir(parents=into is not None, exist_ok=into is not None)
    if tuned is not None:
        write_json(run.tuned, tuned)
    write_atomic(run.recipe, recipes.dump(recipe))
    write_atomic(run.path / "command.txt", command + "\n")
    write_json(run.path / "env.json", environment)
    sync_folder(parent)
    return run


def _new_folder(parent: Path, name: str) -> Path:
    check_name(name)
    now = stamp()
    parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, 1000):
        path = parent / (f"{name}-{now}" if attempt == 1 else f"{name}-{now}.{attempt}")
        try:
            path.mkdir()
            return path
        except FileExistsError:
            continue
    got = f"1000 runs called {name}-{now}"
    raise UsageError("name the run", got=got, need="a new name", hint="--name another")


def stamp() -> str:
    """Now, to the second and in UTC, as it stands in names."""
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")


def check_name(name: str) -> None:
    """UsageError if no run can be called so."""
    if not re.fullmatch(r"[\w.+-]+", name) or name.startswith("."):
        need = "letters, digits, '.', '_', '+' and '-'"
        raise UsageError("name the run", got=repr(name), need=need, hint="--name flowers")


# Reasons of an end that trying again does not change; after a signal, a full disk or a lost rank a run goes on, and at
# its cost it waits for more money.
FINAL = {"done", "patience", "until", "Diverged", "BudgetSpent", "UsageError", "RecipeError"}


def unfinished(
    parent: Path, name: str, *, recipe: Recipe, place: str, digest: str, tuning: str | None = None
) -> Iterator[RunDir]:
    """The runs called ``name`` with this recipe on this dataset that did not come to their end, the newest first.

    place: where the dataset lies, as the last line of command.txt has it
    digest: of the dataset, which the environment of a run has as ``dataset_digest``
    tuning: what the recipe was to be tuned for, which changes it; None: nothing
    """
    asked = {"recipe": recipes.dump(recipe), "tuning": tuning}
    for path in sorted(parent.glob(f"{name}-*Z*"), key=lambda path: path.name, reverse=True):
        run = RunDir(path)
        try:
            is_same = (
                re.fullmatch(r"\d{8}T\d{6}Z(\.\d+)?", path.name.removeprefix(f"{name}-"))
                and _asked(run) == asked
                and (path / "command.txt").read_text("utf-8").splitlines()[-1] == place
                and run.read_environment().get("dataset_digest") == digest
            )
        except (OSError, ValueError, TypeError, LookupError):  # one that was killed while it was made
            continue
        end = run.end() if is_same else None
        if is_same and not (end and end["reason"] in FINAL):
            yield run


def _asked(run: RunDir) -> dict[str, str | None]:
    """The recipe that it was to have, and what that was to be tuned for."""
    tuned = run.read_tuned()
    return tuned["asked"] if tuned else {"recipe": run.recipe.read_text("utf-8"), "tuning": None}


def open(path: str | os.PathLike[str]) -> RunDir:
    """The run in a folder; DataError if there is none."""
    run = RunDir(Path(path))
    if not run.recipe.is_file():
        need = "a folder that eighteen train made"
        raise DataError(f"open the run {path}", got="no recipe.toml there", need=need, hint="ls runs/")
    return run
