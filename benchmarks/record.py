"""What every benchmark keeps: figures, machine and versions, as JSON with the date under ``benchmarks/results``."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from eighteen.base.hardware import environment

RESULTS = Path(__file__).parent / "results"
DATA = Path(os.environ.get("DATA", Path(__file__).parents[2] / "shared" / "data"))  # pictures; ``make bench DATA=...``


def spread(values: Sequence[float]) -> dict[str, Any]:
    """n, minimum, median and maximum of repeated measurements."""
    return {"n": len(values), "min": min(values), "median": statistics.median(values), "max": max(values)}


def record(name: str, **figures: Any) -> None:
    """Print the figures and keep them in ``results/NAME-DATE.json``."""
    names = (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name"))
    utc, cpu = datetime.now(UTC).isoformat(timespec="seconds"), next(names, platform.processor())
    kept = {"benchmark": name, "utc": utc, "cpu": cpu, **environment(), "figures": figures}
    path = dated(name, ".json")
    path.write_text(json.dumps(kept, indent=2) + "\n")
    print(json.dumps(figures, indent=2))
    print(f"wrote {path}")


def dated(name: str, suffix: str) -> Path:
    """Where a result of today is kept."""
    RESULTS.mkdir(exist_ok=True)
    return RESULTS / f"{name}-{datetime.now(UTC):%Y-%m-%d}{suffix}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
