"""The end of a pack: finished parts go in; indexes, lists and, last of all, dataset.json come out."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eighteen.base.errors import DataError
from eighteen.base.files import write_atomic
from eighteen.base.hardware import version_of
from eighteen.data.dataset import FACTS, FORMAT, VERSION, Origins, Rendition, sealed
from eighteen.data.index import save_array, save_index
from eighteen.data.moments import moments
from eighteen.data.npy import open_mapped
from eighteen.data.parts import Part
from eighteen.data.plan import Plan
from eighteen.data.report import BAD, BAD_COLUMNS, DUPLICATE_COLUMNS, DUPLICATES
from eighteen.data.shards import Stored

Parts = Mapping[str, Sequence[Part]]  # by split


def finish(root: Path, plan: Plan, parts: Parts, *, threads: int) -> None:
    """Write all that makes the shards under ``root`` a dataset.

    raises DataError if a class or a split has lost all of its pictures
    """
    bad = _write(root, BAD, _csv(BAD_COLUMNS, _bad_rows(plan, parts)))
    _check_left(root, plan, parts)
    copies = _duplicate_rows(plan, parts)
    duplicates = _write(root, DUPLICATES, _csv(DUPLICATE_COLUMNS, copies))
    splits = {name: _finish_split(root, plan, name, parts[name]) for name in plan.orders}
    channels = max(int(part.samples["channels"].max(initial=1)) for part in _all(parts))
    mean, std = moments(_train(root, plan, parts["train"]), channels=channels, seed=plan.options.seed, threads=threads)
    facts = {
        "format": FORMAT,
        "version": VERSION,
        "classes": plan.sources.classes,
        "channels": channels,
        "mean": mean,
        "std": std,
        "splits": splits,
        "bad": _facts(bad),
        "duplicates": _facts(duplicates),
        "made": _made(plan, parts),
    }
    write_atomic(root / FACTS, sealed(facts))


def _made(plan: Plan, parts: Parts) -> dict[str, Any]:
    converted: Counter[str] = Counter()
    for part in _all(parts):
        converted.update(part.converted)
    return {
        "eighteen": version_of("eighteen"),
        "source": plan.sources.place,
        "options": asdict(plan.options),
        "plan": plan.digest,
        "converted": dict(converted),
        "refused": sum(len(part.refused) for part in _all(parts)),
        "ignored": dict(plan.sources.ignored),
    }


def _all(parts: Parts) -> list[Part]:
    return [part for several in parts.values() for part in several]


def _finish_split(root: Path, plan: Plan, name: str, parts: Sequence[Part]) -> dict[str, Any]:
    items = np.concatenate([part.samples["item"] for part in parts])
    origins = "".join(json.dumps(plan.sources.items[item].name) + "\n" for item in items.tolist())
    renditions = {}
    for rendition in parts[0].shards:
        file = f"{name}/{rendition}.index.npy"
        content = save_index(root / file, _index(parts, rendition))
        renditions[rendition] = {
            "kind": "raw" if plan.sample_shape else "jpeg",
            "clean": all(part.clean for part in parts),
            "index": _facts(_stored(file, content)),
            "shards": [_facts(part.shards[rendition]) for part in parts],
            **_finish_rows(root, f"{name}/{rendition}", parts, rendition),
        }
    return {
        "samples": len(items),
        "renditions": renditions,
        "sources": _facts(_write(root, f"{name}/sources.jsonl", origins.encode())),
    }


def _finish_rows(root: Path, name: str, parts: Sequence[Part], rendition: str) -> dict[str, Any]:
    """The two files of ``Rows``; none where nothing is known of any sample."""
    rows, places = (np.concatenate(both) for both in zip(*(part.rows[rendition] for part in parts), strict=True))
    if not len(rows):
        return {}
    places["first"] = np.cumsum(places["num"], dtype=np.uint64) - places["num"]
    files = {"rows": (f"{name}.rows.npy", rows), "places": (f"{name}.places.npy", places)}
    return {key: _facts(_stored(file, save_array(root / file, array))) for key, (file, array) in files.items()}


def _index(parts: Sequence[Part], rendition: str) -> NDArray[np.void]:
    return np.concatenate([part.indexes[rendition] for part in parts])


def _train(root: Path, plan: Plan, parts: Sequence[Part]) -> Rendition:
    """train at full size, as ``dataset.open`` would open it."""
    shards = tuple(part.shards["full"].name for part in parts)
    pixels = open_mapped(root / shards[0]) if plan.sample_shape else None
    origins = Origins(root / "train" / "sources.jsonl")
    return Rendition("raw" if plan.sample_shape else "jpeg", _index(parts, "full"), root, shards, pixels, origins)


def _bad_rows(plan: Plan, parts: Parts) -> list[tuple[str, ...]]:
    refused = [(part.split, *refusal) for part in _all(parts) for refusal in part.refused]
    items, classes = plan.sources.items, plan.sources.classes
    return sorted((items[number].name, classes[items[number].label], split, cause) for split, number, cause in refused)


def _check_left(root: Path, plan: Plan, parts: Parts) -> None:
    labels = Counter(label for part in parts["train"] for label in part.indexes["full"]["label"].tolist())
    lost = [f"train pictures of class {name!r}" for label, name in enumerate(plan.sources.classes) if not labels[label]]
    lost += [f"pictures of {name}" for name, several in parts.items() if not any(len(part.samples) for part in several)]
    if lost:
        raise DataError(
            f"pack {plan.sources.place}",
            got=f"no {lost[0]} that could be read" + (f" (and {len(lost) - 1} more such)" if lost[1:] else ""),
            need="sound train pictures of each class, and of each split",
            hint=f"see {root / BAD} for what was wrong with each; mend the pictures, or leave the class out",
        )


def _duplicate_rows(plan: Plan, parts: Parts) -> list[tuple[str, ...]]:
    """Pictures whose content is the same although their splits or classes differ."""
    if not _all(parts):
        return []
    samples = np.concatenate([part.samples for part in _all(parts)])
    splits = [part.split for part in _all(parts) for _ in range(len(part.samples))]
    _, groups, counts = np.unique(samples["digest"], return_inverse=True, return_counts=True)
    items, classes = plan.sources.items, plan.sources.classes
    copies: dict[int, list[tuple[str, str, str]]] = {}
    for place in np.flatnonzero(counts[groups] > 1).tolist():
        item = items[samples["item"][place]]
        copies.setdefault(int(groups[place]), []).append((item.name, classes[item.label], splits[place]))
    astray = sorted(
        sorted(group) for group in copies.values() if len({(class_name, split) for _, class_name, split in group}) > 1
    )
    return [(str(number), *copy) for number, group in enumerate(astray, start=1) for copy in group]


def _csv(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _write(root: Path, name: str, content: bytes) -> Stored:
    write_atomic(root / name, content)
    return _stored(name, content)


def _stored(name: str, content: bytes) -> Stored:
    return Stored(name, len(content), hashlib.sha256(content).hexdigest())


def _facts(stored: Stored) -> dict[str, Any]:
    return {"file": stored.name, "bytes": stored.num_bytes, "sha256": stored.sha256}
