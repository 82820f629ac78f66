"""The weights that a run can start from."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from eighteen.base import rundir
from eighteen.training import checkpoint
from eighteen.training.models import read_weights


def weights_of(origin: str) -> dict[str, Tensor]:
    """The best weights of a run, or those of a safetensors file; DataError if it is neither."""
    if Path(origin).is_dir():
        return checkpoint.best(rundir.open(origin)).weights()
    return read_weights(Path(origin))
