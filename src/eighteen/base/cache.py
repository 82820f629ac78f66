"""What a run has found out about its machine, for the next one: JSON files in ``$XDG_CACHE_HOME/eighteen``, or
``~/.cache``. A key goes in, and what was kept under it comes out. The files may be deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from eighteen.base.files import write_json


def place(name: str) -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eighteen" / name


def key(facts: dict[str, Any]) -> str:
    """Of all that decides what is found."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def read(path: Path, key: str) -> Any:
    """None where nothing is known, or the file is broken."""
    return _all(path).get(key)


def write(path: Path, key: str, found: Any) -> None:
    """Best effort: a run does not need it."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {**_all(path), key: found})


def _all(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
