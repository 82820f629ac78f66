"""What runs meet on disks of their own, in a process that may mount them: ``small_disks.py FOLDER DATA``.

Each disk is a tmpfs in FOLDER that only this process sees. Prints one JSON object: for each disk what happened, and
what is left there.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from small_runs import happened, model, train

import eighteen
from eighteen.base import rundir
from eighteen.base.errors import EighteenError, Unwritable
from eighteen.base.files import free_bytes, unwritable_is_said
from eighteen.base.rundir import RunDir
from eighteen.data import dataset
from eighteen.training import checkpoint

LEFT_BYTES = 200_000  # enough for events, not for a checkpoint


def saves(disk: Path, _data: Path) -> dict[str, Any]:
    """A checkpoint of 1.6 MB fits on the disk, a second one does not."""
    run = RunDir(disk / "run")
    one = {"model": {"w": torch.arange(400_000.0)}}
    first = checkpoint.save(run.checkpoints, tensors=one, state={"step": 1, "best_checkpoint": None})
    before = digests(first)
    try:
        with unwritable_is_said(run.path, hint="df -h", kind=Unwritable):
            checkpoint.save(run.checkpoints, tensors=one, state={"step": 2, "best_checkpoint": None})
    except EighteenError as error:
        loaded = checkpoint.newest(run)
        same = digests(loaded.path) == before and torch.equal(loaded.tensors("model")["w"], one["model"]["w"])
        return {"code": error.exit_code, "said": str(error), "same": same, "left": temporary(disk)}
    raise AssertionError("both fitted")


def full(disk: Path, data: Path) -> dict[str, Any]:
    """Somebody fills the disk in mid-run; with room again the run goes on."""
    ballast = disk / "ballast"

    def fill() -> None:
        with ballast.open("wb") as file:
            file.write(bytes(free_bytes(disk) - LEFT_BYTES))

    refused: list[Any] = []

    def empty() -> None:
        try:
            eighteen.resume(next((disk / "runs").iterdir()))
        except EighteenError as error:
            refused.extend((error.exit_code, str(error)))
        ballast.unlink()

    return {**disturbed(disk, data, fill, empty), "refused": refused}


def read_only(disk: Path, data: Path) -> dict[str, Any]:
    """The checkpoints come to lie on a read-only mount in mid-run."""

    def folder() -> str:
        return str(next((disk / "runs").iterdir()) / "checkpoints")

    def remount() -> None:
        subprocess.run(["mount", "--bind", folder(), folder()], check=True)
        subprocess.run(["mount", "-o", "remount,ro,bind", folder()], check=True)

    return disturbed(disk, data, remount, lambda: subprocess.run(["umount", folder()], check=True))


def failing(disk: Path, data: Path) -> dict[str, Any]:
    """From some moment on no fsync below the checkpoints succeeds."""
    fsync = os.fsync

    def fail(descriptor: int) -> None:
        if "/checkpoints" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    return disturbed(disk, data, lambda: setattr(os, "fsync", fail), lambda: setattr(os, "fsync", fsync))


def disturbed(disk: Path, data: Path, disturb: Callable[[], object], mend: Callable[[], object]) -> dict[str, Any]:
    """A run that is disturbed after its third checkpoint, and goes on when all is well again."""
    saved: list[dict[str, str]] = []

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "checkpoint":
            saved.append(digests(next((disk / "runs").iterdir()) / "checkpoints" / event["path"]))
            if len(saved) == 3:
                disturb()

    try:
        train(dataset.open(data), disk, model("broad"), "eval.every=6", on_event=on_event)
        raise AssertionError("it ended well")
    except EighteenError as error:
        found: dict[str, Any] = {"code": error.exit_code, "said": str(error)}
    run = rundir.open(next((disk / "runs").iterdir()))
    found["same"] = digests(checkpoint.newest(run).path) == saved[-1]
    found["num_saved"] = len(saved)
    found["warnings"] = [event["text"] for event in happened(run.path, "warning") if "checkpoint" in event["text"]]
    found["left"] = temporary(disk)
    mend()
    found["step"] = eighteen.resume(run.path).step
    found["end"] = digests(checkpoint.newest(run).path)["model.safetensors"]
    return found


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def temporary(disk: Path) -> list[str]:
    return [str(path) for path in disk.rglob("*") if path.name.endswith(".tmp")]


if __name__ == "__main__":
    folder, data = map(Path, sys.argv[1:])
    everything = {}
    for what, megabytes in ((saves, 3), (full, 40), (read_only, 40), (failing, 40)):
        disk = folder / what.__name__
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(disk)], check=True)
        everything[what.__name__] = what(disk, data)
    print(json.dumps(everything))
