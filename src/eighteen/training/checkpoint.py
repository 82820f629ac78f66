"""Checkpoints: weights, optimiser and state in safetensors and JSON; digests of all files in a mark written last.

    checkpoints/step-000123/model.safetensors       weights under their own names; what evaluation and prediction load
                            ema.safetensors         their moving average, where the recipe has one
                            optimizer.safetensors   momentum and the like, as "<weight>.<buffer>"
                            ranks.safetensors       running statistics of each rank, where they differ: [ranks, count]
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
from eighteen.base.files import Unwritten, json_text, sync_file, sync_folder, write_json, writing
from eighteen.base.rundir import RunDir
from eighteen.training.card import Card
from eighteen.training.facts import check_complete, read_facts, read_state
from eighteen.training.models import read_weights

COMMIT = "commit.json"
REQUIRED = ("model.safetensors", "state.json")  # of any checkpoint, whatever its commit mark says


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
        """One of "model", "ema", "optimizer", "ranks"."""
        return read_weights(self.path / f"{part}.safetensors")


def save(folder: Path, *, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> Path:
    """Write ``folder/step-NNNNNN``: each part's tensors, then the state, then the commit mark. Returns its path.

    An OSError (a full disk) leaves the checkpoints before it untouched, and of this one nothing. One of the same step
    is replaced: after a crash at any moment the old one or the new one is there.
    """
    path = folder / name(state["step"])
    temp = temporary(path)
    settle(folder)
    try:
        with writing(temp):
            temp.mkdir(parents=True)
        for part, named in tensors.items():
            _save_tensors(temp / f"{part}.safetensors", named)
        write_json(temp / "state.json", state)
        digests = {file.name: _digest(file) for file in sorted(temp.iterdir())}
        for file in digests:
            sync_file(temp / file)
        write_json(temp / COMMIT, digests)
    except BaseException:
        shutil.rmtree(temp, ignore_errors=True)
        raise
    _put_in_place(temp)
    return path


def settle(folder: Path) -> None:
    """Finish what a process that was killed had as good as saved, and delete what it had only begun."""
    for temp in folder.glob(".step-*.tmp"):
        if (temp / COMMIT).is_file():
            _put_in_place(temp)
        else:
            shutil.rmtree(temp)


def _put_in_place(temp: Path) -> None:
    """Give a checkpoint its name: from its commit mark on, ``committed`` finds it under either."""
    path = place(temp)
    if path.exists():
        sync_folder(temp.parent)  # the new one is there for sure before the old one goes
        _delete(path)
    temp.rename(path)
    sync_folder(path.parent)


def temporary(path: Path) -> Path:
    """Where the checkpoint ``path`` is made: from its commit mark on it counts, and ``settle`` gives it its name."""
    return path.with_name(f".{path.name}.tmp")


def place(path: Path) -> Path:
    """The place of a checkpoint that may still have its temporary name."""
    return path.with_name(path.name.removeprefix(".").removesuffix(".tmp"))


def _delete(path: Path) -> None:
    """The commit mark goes first, so that a half-deleted one does not count."""
    if (path / COMMIT).exists():
        (path / COMMIT).unlink()
        sync_folder(path)
    shutil.rmtree(path)


def name(step: int) -> str:
    return f"step-{step:06d}"


def open(path: Path) -> Checkpoint:
    """Verify and open one checkpoint; DataError names the file that is damaged."""
    commit = path / COMMIT
    if not commit.is_file():
        got = f"no {COMMIT}: it was never finished"
        raise DataError(f"open the checkpoint {path}", got=got, need="a finished checkpoint", hint=f"ls {path.parent}")
    try:
        digests = read_facts(commit)
        if commit.read_text("utf-8") != json_text(digests):  # also a blank that rotted
            raise ValueError
    except (DataError, ValueError):
        raise _damaged(path, f"{COMMIT} is not what was written") from None
    except OSError as error:
        raise _damaged(path, f"{COMMIT} cannot be read ({error.strerror})") from error
    for file in {**dict.fromkeys(REQUIRED), **digests}:
        try:
            if Path(file).name == file and _digest(path / file) == digests.get(file):
                continue
        except FileNotFoundError:
            raise _damaged(path, f"{file} is not there") from None
        except OSError as error:
            raise _damaged(path, f"{file} cannot be read ({error.strerror})") from error
        except ValueError:  # a name with a zero byte in it
            raise _damaged(path, f"{COMMIT} is not what was written") from None
        raise _damaged(path, f"{file} differs from its digest")
    return Checkpoint(path, read_state(path / "state.json"))


def _damaged(path: Path, got: str) -> DataError:
    need = "the bytes that were written"
    return DataError(f"open the checkpoint {path}", got=got, need=need, hint="the one before it")


def committed(run: RunDir) -> list[Path]:
    """The run's finished checkpoints, oldest first."""
    marks = [*run.checkpoints.glob(f".step-*.tmp/{COMMIT}"), *run.checkpoints.glob(f"step-*/{COMMIT}")]
    found = {place(mark.parent).name: mark.parent for mark in marks}  # one whose renaming was cut off counts too
    steps = {int(step[1]): path for name, path in found.items() if (step := re.fullmatch(r"step-(\d+)", name))}
    return [steps[step] for step in sorted(steps)]


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
            _delete(path)


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
    dense = {key: tensor.detach().cpu().contiguous() for key, tensor in named.items()}
    num_bytes = sum(tensor.nbytes for tensor in dense.values())
    try:
        with writing(path, num_bytes):
            save_file(dense, path)
    except SafetensorError as error:  # a full disk comes as text
        if found := re.search(r"os error (\d+)", str(error)):
            raise Unwritten(int(found[1]), os.strerror(int(found[1])), str(path), num_bytes) from error
        raise


def _digest(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
