"""A run on machines that do not see each other's disks: its folder is sent to those that lack it, rank to rank.

The recipe and what else is known of the run are those of the first rank; the checkpoint is the newest that any machine
has. Where all see one folder nothing is sent. Each machine then keeps the checkpoints on its own disk, so that the run
outlives any of them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from eighteen.base.errors import DataError, EighteenError, MachineError
from eighteen.base.files import require_room, sync_file, unwritable_is_said, write_atomic
from eighteen.base.rundir import RunDir
from eighteen.base.world import World
from eighteen.training import checkpoint, dist
from eighteen.training.facts import read_facts

FACTS = ("recipe.toml", "command.txt", "env.json", "tuned.json", "clock.json", "room.json", "fixes.json")
PIECE_BYTES = 16 * 2**20
NONE = -1  # of a machine without a checkpoint, and of a rank that does not speak for its machine


def bring(run: RunDir, world: World, device: torch.device) -> None:
    """See to it that this machine has the run, and its newest checkpoint. All ranks of a process group call it.

    MachineError where that cannot be written, and PeerLost on the other ranks.
    """
    if world.size == world.local_size:
        return
    for part in (_bring_facts, _bring_checkpoint):
        failure = None
        try:
            with unwritable_is_said(run.path, hint=f"df -h {run.path.parent}, or --runs-dir another"):
                part(run, world, device)
        except EighteenError as error:
            failure = error
        dist.require_all(failure, world, device)


def keeps(run: RunDir, world: World, device: torch.device) -> bool:
    """Whether this rank writes the run's checkpoints: the first one of all that see this folder. All have to call it.

    Folders are told apart by the time at which their recipe was written: where two machines see one folder it is the
    same, whatever the file system calls the file.
    """
    if world.size == world.local_size:
        return world.is_first
    written_ns = NONE
    if world.local_rank == 0:
        with run.recipe.open("rb") as file:  # opened, as network file systems answer for a name from memory
            written_ns = os.fstat(file.fileno()).st_mtime_ns
    every = dist.gather(torch.tensor([written_ns], device=device), world).flatten().tolist()
    return written_ns != NONE and every.index(written_ns) == world.rank


def _bring_facts(run: RunDir, world: World, device: torch.device) -> None:
    ours = {name: _text(run.path / name) for name in FACTS}
    theirs = dist.share(ours if world.is_first else None, world, device)
    if world.local_rank == 0 and ours != theirs:
        for folder in (run.checkpoints, run.tensorboard, run.eval):
            folder.mkdir(parents=True, exist_ok=True)
        for name, text in theirs.items():
            if text is not None:
                write_atomic(run.path / name, text)


def _bring_checkpoint(run: RunDir, world: World, device: torch.device) -> None:
    """The newest one, from the first rank whose machine has it, to those whose newest is another."""
    newest = _newest(run) if world.local_rank == 0 else None
    step = NONE if newest is None else int(checkpoint.place(newest).name.removeprefix("step-"))
    steps = dist.gather(torch.tensor([step], device=device), world).flatten().tolist()
    if max(steps) == NONE:
        return
    source = steps.index(max(steps))
    ours = None if newest is None else _digests(newest)
    told = [_sizes(newest), ours] if world.rank == source and newest else None
    sizes, theirs = dist.share(told, world, device, source=source)
    is_lacking = world.local_rank == 0 and ours != theirs
    if not dist.sum_(torch.tensor([int(is_lacking)], device=device), world).item():
        return
    failure = None
    try:
        if is_lacking:
            tried, hint = f"bring a checkpoint to {run.checkpoints}", "delete what is not needed, or --runs-dir another"
            require_room(run.checkpoints, sum(sizes.values()), tried=tried, hint=hint)
    except MachineError as error:
        failure = error
    dist.require_all(failure, world, device)  # or those without room would leave the others waiting for them
    temp = checkpoint.temporary(run.checkpoints / checkpoint.name(max(steps)))
    if is_lacking:
        shutil.rmtree(temp, ignore_errors=True)
        temp.mkdir()
    for name, num_bytes in sizes.items():
        with ExitStack() as stack:
            file = stack.enter_context((temp / name).open("wb")) if is_lacking else None
            from_file = newest / name if world.rank == source and newest else None
            for piece in _pieces(from_file, num_bytes, source, device):
                if file is not None:
                    file.write(piece)
        if is_lacking:
            sync_file(temp / name)
    if is_lacking:
        checkpoint.settle(run.checkpoints)


def _newest(run: RunDir) -> Path | None:
    """Of the checkpoints whose digests hold."""
    try:
        return checkpoint.newest(run).path
    except DataError:
        return None


def _digests(path: Path) -> dict[str, Any]:
    """Of its tensors: each machine wrote down seconds of its own beside them."""
    digests = read_facts(path / checkpoint.COMMIT)
    return {name: digest for name, digest in digests.items() if name.endswith(".safetensors")}


def _sizes(path: Path) -> dict[str, int]:
    """Bytes of a checkpoint's files, the commit mark last: without it those before it are no checkpoint."""
    names = sorted((file.name for file in path.iterdir()), key=lambda name: name == checkpoint.COMMIT)
    return {name: (path / name).stat().st_size for name in names}


def _pieces(path: Path | None, num_bytes: int, source: int, device: torch.device) -> Iterator[bytes]:
    """A file's bytes on every rank, out of the file of one of them. path: None on the others"""
    with ExitStack() as stack:
        file = stack.enter_context(path.open("rb")) if path else None
        for start in range(0, num_bytes, PIECE_BYTES):
            length = min(PIECE_BYTES, num_bytes - start)
            content = bytearray(length)
            if file is not None:
                file.readinto(content)
            piece = torch.frombuffer(content, dtype=torch.uint8).to(device)
            distributed.broadcast(piece, src=source)
            yield piece.cpu().numpy().tobytes()


def _text(path: Path) -> str | None:
    return path.read_text("utf-8") if path.is_file() else None
