"""Sources -> a packed dataset: planned, then written shard by shard, then finished by dataset.json.

A pack may be killed at any time: the same call again keeps the shards that are finished and goes on. Until dataset.json
is there, nothing opens.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from eighteen.base.errors import DataError, UsageError
from eighteen.base.files import require_room, sync_folder, unwritable, write_json
from eighteen.base.hardware import num_cpus
from eighteen.data import dataset, sources, work, workers
from eighteen.data.dataset import FACTS, WORK
from eighteen.data.finish import finish
from eighteen.data.listing import SPLITS
from eighteen.data.parts import Part, PartWriter, finished_parts
from eighteen.data.pictures import Prepared
from eighteen.data.plan import Options, Plan, jobs, least_bytes, make_plan
from eighteen.data.report import BAD, DUPLICATES, PackReport, report_of

Progress = Callable[[int, int, int], object]  # pictures done, of how many, bytes written


def pack(
    source: Any,
    dest: str | os.PathLike[str],
    *,
    val: float = 0.1,
    test: float = 0.0,
    seed: int = 0,
    group: str | None = None,
    max_side: int | None = None,
    quality: int = 90,
    renditions: Sequence[int] = (),
    shard_bytes: int = 256 * 2**20,
    procs: int | None = None,
    force: bool = False,
    on_progress: Progress | None = None,
) -> PackReport:
    """Pack a source into the dataset ``dest``; if ``dest`` holds just this dataset already, nothing is done.

    source: a folder, a manifest (.csv, .tsv, .parquet), IDX files, .npz, .npy or arrays: see ``sources.read``
    val, test: shares of each class, drawn with ``seed`` where the source has no such split of its own
    group: a regular expression on the path, or a manifest's column: pictures of one group stay in one split
    max_side: px; longer pictures are made smaller      quality: of JPEGs that are encoded here
    renditions: short sides of further, smaller copies of all pictures, in px
    shard_bytes: at most so large is a shard      procs: processes, one for each core if None
    force: replace another dataset at ``dest``      on_progress: called with pictures done, their number, bytes written
    raises UsageError for the options, DataError for the source or ``dest``, MachineError if the disk is full or
        a process was killed
    """
    started, root = time.monotonic(), Path(dest)
    if procs is not None and procs < 1:
        raise UsageError("pack with procs", got=str(procs), need="1 process or more", hint="--procs 1")
    options = Options(val, test, seed, group, max_side, quality, tuple(renditions), shard_bytes)
    plan = make_plan(sources.read(source, group=group), options)
    _check_apart(plan, root)
    _require_room(root, plan)
    kept = 0
    with _disk_errors(root), _held(root):
        if not _is_finished(root, plan, force=force):
            _remove_temporary(root)
            parts = {name: finished_parts(root, name) for name in plan.orders}
            kept = sum(len(several) for several in parts.values())
            _write(root, plan, parts, procs=procs or num_cpus(), on_progress=on_progress)
            finish(root, plan, parts, threads=procs or num_cpus())
            shutil.rmtree(root / WORK)
        return report_of(dataset.open(root), kept=kept, seconds=time.monotonic() - started)


def _write(root: Path, plan: Plan, parts: dict[str, list[Part]], *, procs: int, on_progress: Progress | None) -> None:
    """Write what is missing of each split, and add it to ``parts``."""
    firsts = {name: parts[name][-1].last if parts[name] else 0 for name in plan.orders}
    todo = chain.from_iterable(jobs(plan, name, first) for name, first in firsts.items())
    # Raw arrays are only copied: the way to another process and back would cost more than the work.
    copied = not plan.sources.are_files and plan.sample_shape is not None
    done, num_bytes = sum(firsts.values()), sum(_num_bytes(part) for several in parts.values() for part in several)
    with closing(workers.in_order(work.do, todo, procs=1 if copied else procs)) as results:
        outcomes = chain.from_iterable(results)
        for name, first in firsts.items():
            for position, written in _write_split(root, plan, name, parts[name], first, outcomes):
                if on_progress is not None:
                    on_progress(done + position - first, plan.num_items, num_bytes + written)
            done += len(plan.orders[name]) - first
            num_bytes += sum(_num_bytes(part) for part in parts[name] if part.last > first)


def _require_room(root: Path, plan: Plan) -> None:
    """MachineError if the dataset cannot fit, also not in the place of what lies there: it will be kept or replaced."""
    there = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    require_room(
        root,
        least_bytes(plan) - there,
        tried=f"pack {plan.sources.place} into {root}",
        hint=f"df -h {root.parent}; make room there, or name another disk: eighteen pack {plan.sources.place} DEST",
    )


def _remove_temporary(root: Path) -> None:
    """What a pack that was killed was just writing."""
    for path in root.rglob(".*.tmp"):
        path.unlink()


def _num_bytes(part: Part) -> int:
    return sum(stored.num_bytes for stored in part.shards.values())


def _write_split(
    root: Path, plan: Plan, name: str, parts: list[Part], first: int, outcomes: Iterator[work.Outcome]
) -> Iterator[tuple[int, int]]:
    """Write a split from position ``first`` on; yields after each picture: the position reached, the bytes written."""
    order = plan.orders[name]
    if first == len(order):
        return
    writer, closed = _next_part(root, plan, name, parts), 0
    try:
        for position in range(first, len(order)):
            outcome = next(outcomes)
            if _is_full(writer, outcome, plan):
                parts.append(writer.close(position))
                closed += _num_bytes(parts[-1])
                writer = _next_part(root, plan, name, parts)
            writer.add(outcome, plan.sources.items[outcome.number].label)
            yield position + 1, closed + writer.num_bytes
        parts.append(writer.close(len(order)))
    except BaseException:
        writer.discard()
        raise


def _next_part(root: Path, plan: Plan, name: str, parts: Sequence[Part]) -> PartWriter:
    shapes = {"full": plan.rendition_shape(None)} | {
        str(side): plan.rendition_shape(side) for side in plan.options.renditions
    }
    return PartWriter(root, name, len(parts), first_sample=sum(len(part.samples) for part in parts), shapes=shapes)


def _is_full(writer: PartWriter, outcome: work.Outcome, plan: Plan) -> bool:
    if plan.sample_shape is not None or not isinstance(outcome.result, Prepared) or not writer.num_samples:
        return False
    return writer.num_bytes + len(outcome.result.full.content) > plan.options.shard_bytes


def _is_finished(root: Path, plan: Plan, *, force: bool) -> bool:
    """Whether ``root`` is the dataset that is planned. If not, makes it ready to be written, or raises DataError."""
    if (root / FACTS).exists():
        if not force:
            if dataset.read_facts(root).get("made", {}).get("plan") == plan.digest:
                return True
            raise DataError(
                f"pack {plan.sources.place} into {root}",
                got="a finished dataset there, made from something else or with other options",
                need="a new name, or leave to overwrite it",
                hint=f"eighteen pack {plan.sources.place} {root} --force",
            )
        _clear(root)
    elif (root / WORK).is_dir():
        if _planned(root) == plan.digest:
            return False
        _clear(root)
    elif any(root.iterdir()):
        raise DataError(
            f"pack {plan.sources.place} into {root}",
            got="a folder with other things in it",
            need="a new name, an empty folder or a dataset",
            hint=f"eighteen pack {plan.sources.place} {root.with_name(root.name + '.e18')}",
        )
    (root / WORK).mkdir(exist_ok=True)
    write_json(root / WORK / "plan.json", {"plan": plan.digest})
    return False


def _planned(root: Path) -> str | None:
    try:
        return json.loads((root / WORK / "plan.json").read_text())["plan"]
    except (FileNotFoundError, ValueError, KeyError):
        return None


def _clear(root: Path) -> None:
    """Remove a dataset, finished or not: first what makes it open, then only what a pack writes.

    The folder of the work comes first and stays: with it what a crash leaves is known to be ours.
    """
    (root / WORK).mkdir(exist_ok=True)
    sync_folder(root)
    (root / FACTS).unlink(missing_ok=True)
    sync_folder(root)
    for name in SPLITS:
        shutil.rmtree(root / name, ignore_errors=True)
    for name in (BAD, DUPLICATES):
        (root / name).unlink(missing_ok=True)
    sync_folder(root)  # or old shards would come back under the names of new ones
    for path in (root / WORK).iterdir():
        path.unlink()


def _check_apart(plan: Plan, root: Path) -> None:
    place = Path(plan.sources.place)
    if place.is_dir() and root.resolve().is_relative_to(place.resolve()):
        raise DataError(
            f"pack {place} into {root}",
            got="a dataset inside the source itself",
            need="a place outside of it",
            hint=f"eighteen pack {place} {place.resolve().name}.e18",
        )


@contextmanager
def _held(root: Path) -> Iterator[None]:
    """Make the folder, and keep others from packing into it meanwhile."""
    if root.exists() and not root.is_dir():
        raise DataError(
            f"pack into {root}",
            got="a file",
            need="a new name, or a dataset",
            hint=f"eighteen pack SOURCE {root.with_suffix('.e18')}",
        )
    root.mkdir(parents=True, exist_ok=True)
    sync_folder(root.parent)
    descriptor = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise DataError(
            f"pack into {root}",
            got="another pack at work there",
            need="one at a time",
            hint="wait for it, or choose another name",
        ) from None
    finally:
        os.close(descriptor)


@contextmanager
def _disk_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = f"df -h {root.parent}; then the same command again: finished shards are kept"
        raise unwritable(error, root, hint=hint) from error
