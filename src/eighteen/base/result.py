"""What a run reached."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from eighteen.base.recipe import Tta
from eighteen.base.rundir import RunDir


@dataclass(frozen=True)
class Result:
    """top1, top5: shares in [0, 1] of its last evaluation, best_top1 of its best; None without a validation split.

    top1_tta, top5_tta: with test-time augmentation ``tta``; None if that is "none"
    seconds, cost_usd, energy_j: over all resumes; None where no price is known, or the energy is not measured
    """

    run: Path
    step: int
    top1: float | None
    top5: float | None
    best_top1: float | None
    seconds: float
    tta: Tta = "none"
    top1_tta: float | None = None
    top5_tta: float | None = None
    cost_usd: float | None = None
    energy_j: float | None = None


def of(run: RunDir) -> Result:
    """What an ended run wrote down."""
    status = run.read_status()
    names = [field.name for field in fields(Result) if field.name != "run"]
    return Result(run.path, **{name: status[name] for name in names if name in status})
