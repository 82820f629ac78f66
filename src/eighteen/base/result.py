"""What a run reached."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from eighteen.base.rundir import RunDir


@dataclass(frozen=True)
class Result:
    """top1, top5: shares in [0, 1] of its last evaluation, best_top1 of its best; None without a validation split.

    seconds: over all resumes
    """

    run: Path
    step: int
    top1: float | None
    top5: float | None
    best_top1: float | None
    seconds: float


def of(run: RunDir) -> Result:
    """What an ended run wrote down."""
    status = run.read_status()
    return Result(run.path, **{name: status[name] for name in ("step", "top1", "top5", "best_top1", "seconds")})
