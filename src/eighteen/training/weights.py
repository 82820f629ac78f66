"""The weights that a run can start from."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from eighteen.base import rundir
from eighteen.base.errors import DataError
from eighteen.base.recipe import Model
from eighteen.training import checkpoint
from eighteen.training.models import PRETRAINED, read_weights

# What torch.save writes is a pickle, and a pickle can run code.
PICKLED = {".pth", ".pt", ".ckpt", ".bin", ".pkl", ".tar"}


def normalisation_of(model: Model) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """The mean and std that the weights to start from were trained with, of pixels in [0, 1]; None if unknown."""
    if model.init == PRETRAINED:
        import timm

        known = timm.get_pretrained_cfg(model.name)
        return (tuple(known.mean), tuple(known.std)) if known else None
    if model.init and Path(model.init).is_dir():
        card = checkpoint.best(rundir.open(model.init)).card
        return card.mean, card.std
    return None


def weights_of(origin: str) -> dict[str, Tensor]:
    """The best weights of a run, or those of a safetensors file; DataError if it is neither."""
    if Path(origin).is_dir():
        return checkpoint.best(rundir.open(origin)).weights()
    if (suffix := Path(origin).suffix.lower()) in PICKLED:
        got = f"a {suffix} file: a pickle, which can run code when it is loaded"
        hint = "--import-pth, which converts it in a process of its own"
        raise DataError(f"start from {origin}", got=got, need="a run or a .safetensors file", hint=hint)
    return read_weights(Path(origin))
