"""Checkpoints: weights, optimiser and state in safetensors and JSON; digests of all files in a mark written last.

    checkpoints/step-000123/model.safetensors       weights under their own names; what evaluation and prediction load
                            ema.safetensors         their moving average, where the recipe has one
                            optimizer.safetensors   momentum and the like, as "<weight>.<buffer>"
                            state.json              step, cursor, seconds, best, card
                            commit.json             {file: {bytes, sha256}}; a folder without it is no checkpoint

Nothing here is a pickle, and nothing is loaded whose digest differs.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from eighteen.base.errors import DataError
from eighteen.base.files import sync_folder, write_json
from eighteen.base.rundir import RunDir
from eighteen.training.card import Card
from eighteen.training.facts import check_complete, read_facts, read_state
from eighteen.training.models import read_weights

COMMIT = "commit.json"


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint on disk, its digests verified."""

    path: Path
    state: dict[str, Any]

    @property
    def step(self) -> int:
        return self.state["step"]

    @property
    def card(self) -> Card:
        check_complete(self.path, self.state)
        return Card.from_json(self.state["card"])

    def weights(self) -> dict[str, Tensor]:
        """The weights to use: the moving average where there is one."""
        ema = self.path / "ema.safetensors"
        return self.tensors("ema" if ema.exists() else "model")

    def tensors(self, part: str) -> dict[str, Tensor]:
        """One of "model", "ema", "optimizer"."""
        return read_weights(self.path / f"{part}.safetensors")


def save(folder: Path, *, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> Path:
    """Write ``folder/step-NNNNNN``: each part's tensors, then the state, then the commit mark. Returns its path.

    An OSError (a full disk) leaves the checkpoints before it untouched, and of this one nothing.
    """
    path = folder / name(state["step"])
    temp = folder / f".{path.name}.tmp"
    for unfinished in folder.glob(".step-*.tmp"):
        shutil.rmtree(unfinished)
    temp.mkdir(parents=True)
    try:
        for part, named in tensors.items():
            _save_tensors(temp / f"{part}.safetensors", named)
        write_json(temp / "state.json", state)
        digests = {file.name: _digest(file) for file in sorted(temp.iterdir())}
        for file in digests:
            _sync(temp / file)
        write_json(temp / COMMIT, digests)
    except BaseException:
        shutil.rmtree(temp, ignore_errors=True)
        raise
    shutil.rmtree(path, ignore_errors=True)
    temp.rename(path)
    sync_folder(folder)
    return path


def name(step: int) -> str:
    return f"step-{step:06d}"


def open(path: Path) -> Checkpoint:
    """Verify and open one checkpoint; DataError names the file that is damaged."""
    commit = path / COMMIT
    if not commit.is_file():
        got = f"no {COMMIT}: it was never finished"
        raise DataError(f"open the checkpoint {path}", got=got, need="a finished checkpoint", hint=f"ls {path.parent}")
    for file, digest in read_facts(commit).items():
        if Path(file).name != file or not (path / file).is_file() or _digest(path / file) != digest:
            got, need = f"{file} differs from its digest", "the bytes that were written"
            raise DataError(f"open the checkpoint {path}", got=got, need=need, hint="the one before it")
    return Checkpoint(path, read_state(path / "state.json"))


def committed(run: RunDir) -> list[Path]:
    """The run's finished checkpoints, oldest first."""
    marks = (mark.parent for mark in run.checkpoints.glob(f"step-*/{COMMIT}"))
    found = [path for path in marks if re.fullmatch(r"step-[0-9]+", path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def newest(run: RunDir) -> Checkpoint:
    """The newest checkpoint whose digests hold; DataError, naming every damaged one, if there is none."""
    damaged = []
    for path in reversed(committed(run)):
        try:
            return open(path)
        except DataError as error:
            damaged.append(str(error.got))
    got = "; ".join(damaged) or "no finished checkpoint"
    raise DataError(f"open the run {run.path}", got=got, need="a checkpoint that can be read", hint="train it again")


def best(run: RunDir) -> Checkpoint:
    """The checkpoint with the best validation top-1, or the newest if that is gone or there was no validation."""
    last = newest(run)
    named = last.state.get("best_checkpoint")
    if named and named != last.path.name and (run.checkpoints / named / COMMIT).is_file():
        return open(run.checkpoints / named)
    return last


def prune(run: RunDir, *, keep: str | None, num_last: int = 2) -> None:
    """Delete all but the last ``num_last`` checkpoints and the one called ``keep``."""
    for path in committed(run)[:-num_last]:
        if path.name != keep:
            (path / COMMIT).unlink()  # first, so that a half-deleted one does not count
            shutil.rmtree(path)


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state by the names of the weights: {"conv1.weight.momentum_buffer": tensor, ...}."""
    named: dict[Tensor, str] = {weight: name for name, weight in model.named_parameters()}
    return {
        f"{named[weight]}.{key}": value
        for weight, values in optimizer.state.items()
        for key, value in values.items()
        if isinstance(value, Tensor)
    }


def load_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """The reverse of ``optimizer_tensors``."""
    weights = dict(model.named_parameters())
    for name, tensor in tensors.items():
        weight, _, key = name.rpartition(".")
        own = weights[weight]
        value = tensor.to(own.device)
        optimizer.state[own][key] = torch.empty_like(own).copy_(value) if value.shape == own.shape else value


def _save_tensors(path: Path, named: dict[str, Tensor]) -> None:
    """Dense and from the CPU: safetensors keeps bytes, not memory layouts such as channels_last."""
    try:
        save_file({key: tensor.detach().cpu().contiguous() for key, tensor in named.items()}, path)
    except SafetensorError as error:  # a full disk comes as text
        if found := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error
        raise


def _digest(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
