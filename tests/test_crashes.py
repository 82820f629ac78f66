"""Crashes at every moment: what a pack and a checkpoint do to the disk is recorded, and each prefix of it replayed.

The model of the disk keeps apart what was done and what is sure to survive a crash: bytes of a file up to its fsync,
names in a folder up to the fsync of that folder. Of what came later a crash keeps all, nothing, or a part.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from eighteen.base.errors import DataError
from eighteen.base.rundir import RunDir
from eighteen.data import dataset as datasets
from eighteen.data.check import check
from eighteen.data.pack import pack
from eighteen.training import checkpoint

CHUNK = 4096  # what a native writer is taken to write at a time

Event = tuple[Any, ...]  # what was done, to which path, with what


@dataclass
class Node:
    """A file or a folder: as it is, and as it is sure to be after a crash."""

    is_folder: bool
    content: bytes = b""
    synced: bytes = b""
    names: dict[str, Node] = field(default_factory=dict)  # as they are sure to be
    pending: list[tuple[str, str, Node | None]] = field(default_factory=list)  # what was done to them since, in order

    def now(self, num_pending: int | None = None) -> dict[str, Node]:
        """The names after so many of the pending changes, or all."""
        names = dict(self.names)
        for old, new, node in self.pending[:num_pending]:
            names.pop(old, None)
            if node is not None:
                names[new] = node
        return names


class Disk:
    """A model of a disk, to which recorded events are applied one by one."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.top = _loaded(root)

    def apply(self, event: Event) -> None:
        kind, path, *more = event
        folder, name = self._find(path.parent) if path != self._root else self.top, path.name
        match kind:
            case "create":
                folder.pending.append((name, name, Node(False)))
            case "mkdir":
                folder.pending.append((name, name, Node(True)))
            case "remove":
                folder.pending.append((name, name, None))
            case "rename":
                assert path.parent == more[0].parent, "a move between folders is two changes, not one"
                folder.pending.append((name, more[0].name, folder.now()[name]))
            case "write":
                node, (offset, content) = self._find(path), more
                assert offset <= len(node.content)
                node.content = node.content[:offset] + content + node.content[offset + len(content) :]
            case "fsync":
                node = self._find(path)
                node.synced, node.names, node.pending = node.content, node.now(), []

    def crashed(self, how: Callable[[Node], tuple[int | None, bytes]]) -> dict[str, bytes | None]:
        """What is there after a crash: path -> content, None for a folder; ``how`` says how much of a node survives."""
        found: dict[str, bytes | None] = {}
        todo = [("", self.top)]
        while todo:
            path, folder = todo.pop()
            for name, node in sorted(folder.now(how(folder)[0]).items()):
                found[f"{path}{name}"] = None if node.is_folder else how(node)[1]
                if node.is_folder:
                    todo.append((f"{path}{name}/", node))
        return found

    def _find(self, path: Path) -> Node:
        node = self.top
        for part in path.relative_to(self._root).parts:
            node = node.now()[part]
        return node


def _loaded(path: Path) -> Node:
    """What lies on the disk before anything is recorded: all of it is safe."""
    if path.is_file():
        return Node(False, path.read_bytes(), path.read_bytes())
    return Node(True, names={child.name: _loaded(child) for child in path.iterdir()})


def everything(node: Node) -> tuple[int | None, bytes]:
    return None, node.content


def no_names(node: Node) -> tuple[int | None, bytes]:
    return 0, node.content


def no_bytes(node: Node) -> tuple[int | None, bytes]:
    return None, node.synced


def nothing(node: Node) -> tuple[int | None, bytes]:
    return 0, node.synced


def a_part(rng: random.Random) -> Callable[[Node], tuple[int | None, bytes]]:
    """For each folder the first of its changes, for each file what is safe or the first of its bytes."""

    @functools.cache
    def part(_id: int, num_pending: int, num_bytes: int) -> tuple[int, int]:
        return rng.randint(0, num_pending), rng.choice([-1, num_bytes, rng.randint(0, num_bytes)])

    def how(node: Node) -> tuple[int | None, bytes]:
        names, length = part(id(node), len(node.pending), len(node.content))
        return names, node.synced if length < 0 or node.synced == node.content else node.content[:length]

    return how


def states(disk: Disk, seed: int, num_parts: int) -> Iterator[dict[str, bytes | None]]:
    yield from map(disk.crashed, (everything, no_names, no_bytes, nothing))
    yield from (disk.crashed(a_part(random.Random(f"{seed} {number}"))) for number in range(num_parts))


def put(state: dict[str, bytes | None], root: Path) -> None:
    """Make a folder that is as a crash left it."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for path, content in sorted(state.items()):
        if content is None:
            (root / path).mkdir()
        else:
            (root / path).write_bytes(content)


def digest_of(state: dict[str, bytes | None]) -> bytes:
    digest = hashlib.sha256()
    for path, content in sorted(state.items()):
        digest.update(f"{path}\n".encode() + (b"folder" if content is None else hashlib.sha256(content).digest()))
    return digest.digest()


@pytest.fixture
def recorded(tmp_path, monkeypatch) -> list[Event]:
    """All that happens below ``tmp_path/disk`` from now on."""
    root, events = tmp_path / "disk", []
    root.mkdir()

    def note(kind: str, path: Path, *more: Any) -> None:
        if path == root or path.is_relative_to(root):
            events.append((kind, path, *more))

    def full(path: Any, dir_fd: int | None = None) -> Path:
        folder = Path.cwd() if dir_fd is None else Path(os.readlink(f"/proc/self/fd/{dir_fd}"))
        return folder / os.fsdecode(path)

    class File(io.FileIO):
        def __init__(self, path: Any, mode: str) -> None:
            was_there = Path(path).exists()
            super().__init__(path, mode)
            assert not was_there, "only new files are written"
            note("create", full(path))

        def write(self, content: Any) -> int:  # type: ignore[override]  # what a buffered writer passes on
            offset, content = self.tell(), bytes(content)
            assert super().write(content) == len(content)
            note("write", full(self.name), offset, content)
            return len(content)

    def open_(path: Any, mode: str = "r", buffering: int = -1, *more: Any, **options: Any) -> Any:
        if "w" not in mode or "b" not in mode:
            assert "w" not in mode, "the recorder knows binary files only"
            return real["open"](path, mode, buffering, *more, **options)
        return io.BufferedWriter(File(path, "w"), buffering if buffering > 0 else io.DEFAULT_BUFFER_SIZE)

    def fsync(descriptor: int) -> None:
        real["fsync"](descriptor)
        note("fsync", Path(os.readlink(f"/proc/self/fd/{descriptor}")))

    def rename(source: Any, target: Any, **_: Any) -> None:
        real["rename"](source, target)
        note("rename", full(source), full(target))

    def mkdir(path: Any, mode: int = 0o777, **_: Any) -> None:
        real["mkdir"](path, mode)
        note("mkdir", full(path))

    def unlink(path: Any, *, dir_fd: int | None = None) -> None:
        where = full(path, dir_fd)
        real["unlink"](path, dir_fd=dir_fd)
        note("remove", where)

    def rmdir(path: Any, *, dir_fd: int | None = None) -> None:
        where = full(path, dir_fd)
        real["rmdir"](path, dir_fd=dir_fd)
        note("remove", where)

    def save_file(tensors: Any, path: Path) -> None:
        real["save_file"](tensors, path)  # native: its bytes are noted when they are there
        content = path.read_bytes()
        note("create", path)
        for first in range(0, len(content), CHUNK):
            note("write", path, first, content[first : first + CHUNK])

    ours = {"fsync": fsync, "rename": rename, "replace": rename, "mkdir": mkdir, "unlink": unlink, "rmdir": rmdir}
    real = {name: getattr(os, name) for name in ours}
    real |= {"open": io.open, "save_file": checkpoint.save_file}
    for name, function in ours.items():
        monkeypatch.setattr(os, name, function)
    monkeypatch.setattr(io, "open", open_)
    monkeypatch.setattr(checkpoint, "save_file", save_file)
    return events


def replay(
    disk: Disk, events: list[Event], ends: list[int], root: Path, verify: Callable[[int], None], *, num_parts: int
) -> int:
    """Crash after each event and call ``verify`` with how many were done; returns for how many states.

    ends: after how many events something had ended, and must be there from then on
    """
    seen: set[tuple[int, bytes]] = set()
    for done in range(len(events) + 1):
        if done:
            disk.apply(events[done - 1])
        num_ended = sum(end <= done for end in ends)
        for state in states(disk, done, num_parts):
            if (known := (num_ended, digest_of(state))) not in seen:
                seen.add(known)
                put(state, root)
                verify(done)
    return len(seen)


# Packs


def pictures(root: Path, count: int) -> Path:
    for number in range(count):
        path = root / f"class {number % 2}" / f"{number:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 256, (70, 80, 3), np.uint8)
        Image.fromarray(noise).save(path, quality=95)
    return root


PACKS = {"jpegs": {"renditions": (66,)}, "raw": {"max_side": 64}}


@pytest.fixture
def crash_of_a_pack(tmp_path, recorded, monkeypatch):
    """Record a pack, replay it, and see that nothing opens that is not all of it, and that it can be packed again."""

    def crash(kind: str, *, over: bool, num_parts: int, num_again: int) -> int:
        source, place = pictures(tmp_path / "pictures", 60), tmp_path / "disk" / "p.e18"
        options: dict[str, Any] = {"procs": 1, "shard_bytes": 2**16, **PACKS[kind]}
        if over:
            pack(source, place, **options, val=0.3)
        before = Disk(tmp_path / "disk")
        recorded.clear()
        pack(source, place, **options, force=over)
        events, whole = list(recorded), datasets.open(place).digest
        monkeypatch.undo()
        rng, old = random.Random(8), None
        again = set(rng.sample(range(len(events)), num_again))

        def verify(done: int) -> None:
            nonlocal old
            crashed = tmp_path / "crashed" / "p.e18"
            try:
                digest = datasets.open(crashed).digest
            except DataError:
                assert done < len(events), "a pack that has ended is there"
            else:
                assert digest == whole or (over and old in (None, digest)), done
                assert digest == whole or done < len(events)
                assert check(crashed, procs=1).problems == ()
                old = digest if digest != whole else old
            if done in again:
                again.discard(done)
                assert pack(source, crashed, **options, force=over).num_samples == 60
                assert datasets.open(crashed).digest == whole
                assert not list(crashed.rglob("*.tmp"))

        return replay(before, events, [len(events)], tmp_path / "crashed", verify, num_parts=num_parts)

    return crash


@pytest.mark.parametrize("kind", PACKS)
def test_a_pack_is_there_whole_or_does_not_open(crash_of_a_pack, kind):
    assert crash_of_a_pack(kind, over=False, num_parts=0, num_again=3) > 50


@pytest.mark.soak
@pytest.mark.parametrize("over", [False, True])
@pytest.mark.parametrize("kind", PACKS)
def test_a_pack_is_there_whole_or_does_not_open_long(crash_of_a_pack, kind, over):
    assert crash_of_a_pack(kind, over=over, num_parts=4, num_again=40) > 50


# Checkpoints


def tensors(step: int, seed: int) -> dict[str, dict[str, torch.Tensor]]:
    rng = torch.Generator().manual_seed(1000 * step + seed)
    return {part: {"w": torch.rand(700, generator=rng), "b": torch.rand(3, generator=rng)} for part in ("model", "ema")}


def content(run: RunDir) -> tuple[int, bytes] | None:
    """Step and digest of what a run would go on from; None if it has nothing."""
    try:
        newest = checkpoint.newest(run)
    except DataError:
        return None
    digest = hashlib.sha256()
    for part in ("model", "ema"):
        for _, tensor in sorted(newest.tensors(part).items()):
            digest.update(tensor.numpy().tobytes())
    return newest.step, digest.digest()


@pytest.mark.parametrize("num_parts", [1, pytest.param(30, marks=pytest.mark.soak)])
def test_after_a_crash_the_old_checkpoint_opens_or_the_new_one(tmp_path, recorded, monkeypatch, num_parts):
    """Six saves, each with its pruning: the fourth and fifth replace a checkpoint of the same step."""
    run, crashed = RunDir(tmp_path / "disk"), RunDir(tmp_path / "crashed")
    run.checkpoints.mkdir()
    before, marks = Disk(tmp_path / "disk"), [(0, content(run))]
    recorded.clear()
    for seed, step in enumerate((1, 2, 3, 3, 3, 4)):
        state = {"step": step, "best_checkpoint": "step-000001"}
        checkpoint.save(run.checkpoints, tensors=tensors(step, seed), state=state)
        marks.append((len(recorded), content(run)))
        checkpoint.prune(run, keep="step-000001")
        assert content(run) == marks[-1][1]
    events = list(recorded)
    monkeypatch.undo()
    assert len({found for _, found in marks}) == 7

    def verify(done: int) -> None:
        old = max(number for number, (at, _) in enumerate(marks) if at <= done)
        found = content(crashed)
        assert found in [known for _, known in marks[old : old + 2]], (done, events[done - 1])
        checkpoint.save(crashed.checkpoints, tensors=tensors(9, 9), state={"step": 9, "best_checkpoint": None})
        again = content(crashed)
        assert again is not None
        assert again[0] == 9
        assert not list(crashed.checkpoints.glob(".*"))

    ends = [at for at, _ in marks]
    assert replay(before, events, ends, tmp_path / "crashed", verify, num_parts=num_parts) > 100
