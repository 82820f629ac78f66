"""The JSON of a checkpoint, which may come from anywhere: read with limits, believed only where a run can say so."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from eighteen.base.budget import Revision
from eighteen.base.errors import DataError
from eighteen.training.card import Card

MAX_BYTES = 256 * 2**20  # a million classes take a tenth of it
MAX_COUNT, MAX_SIDE = 10**12, 4096


def read_facts(path: Path) -> dict[str, Any]:
    """A JSON object; DataError for anything else."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES:,} bytes")
        facts = json.loads(content)
        if not isinstance(facts, dict):
            raise ValueError(f"a {type(facts).__name__}")
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    return facts


def read_state(path: Path) -> dict[str, Any]:
    """What state.json says; DataError if no run can have written it."""
    state = read_facts(path)
    try:
        problem = _problem(state)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        problem = f"{type(error).__name__} {error}"
    if problem:
        raise _damaged(path, problem)
    return state


def check_complete(path: Path, state: dict[str, Any]) -> None:
    """Raise DataError if the state of the checkpoint ``path`` lacks something that a run needs to go on."""
    if missing := {*_CHECKS} - {*state}:
        raise _damaged(path / "state.json", f"nothing of {', '.join(sorted(missing))}")


def _problem(state: dict[str, Any]) -> str | None:
    checks = {**_CHECKS, **_OPTIONAL}
    wrong = (key for key, is_right in checks.items() if key in state and not is_right(state[key]))
    return next((f"a {key} that no run writes" for key in wrong), None)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_COUNT


def _is_amount(value: Any) -> bool:
    return math.isfinite(value) and value >= 0


def _are_revisions(rows: Any) -> bool:
    steps = [row["step"] for row in rows]
    return (
        all({*row} == {one.name for one in fields(Revision)} for row in rows)
        and all(_is_count(row["step"]) and _is_count(row["every"]) and row["every"] > 0 for row in rows)
        and all(_is_amount(row["factor"]) and row["factor"] <= MAX_COUNT for row in rows)
        and all(_is_amount(row["spent_s"]) and _is_amount(row["planned"] or 0.0) for row in rows)
        and steps == sorted(steps)
    )


def _is_card(tree: Any) -> bool:
    card = Card.from_json(tree)
    return (
        all(isinstance(name, str) for name in card.classes)
        and (card.channels in (1, 3) and len(card.mean) == len(card.std) == card.channels)
        and (_is_count(card.size) and 0 < card.size <= MAX_SIDE and 0 < card.crop <= 1)
        and all(math.isfinite(value) for value in (*card.mean, *card.std))
        and card.kind in ("jpeg", "raw")
        and (isinstance(card.model["name"], str) and isinstance(card.model["args"], dict))
    )


_CHECKS: dict[str, Callable[[Any], object]] = {
    "step": _is_count,
    "evals_without_gain": _is_count,
    "seconds": _is_amount,
    "best_checkpoint": lambda name: name is None or re.fullmatch(r"step-[0-9]+", name),
    "best_top1": lambda share: share is None or 0 <= share <= 1,
    "card": _is_card,
}

_OPTIONAL: dict[str, Callable[[Any], object]] = {  # of later versions
    "clock_s": _is_amount,
    "energy_j": lambda joules: joules is None or _is_amount(joules),
    "revisions": _are_revisions,
    "is_reached": lambda value: type(value) is bool,
}


def _damaged(path: Path, got: str) -> DataError:
    return DataError(f"read {path}", got=got, need="what eighteen wrote", hint="the checkpoint before it")
