"""Pictures as a dataset: packed, opened, or, where a source is given for one, packed beside itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from inspect import signature
from pathlib import Path
from time import monotonic
from typing import ParamSpec

from eighteen.data import dataset as datasets
from eighteen.data import staging
from eighteen.data.dataset import Dataset
from eighteen.data.pack import pack as pack_source
from eighteen.data.places import absolute, is_url
from eighteen.data.report import PackReport

P = ParamSpec("P")

open = datasets.open

SAY_S = 10.0  # between two words about how far packing is


def _opened(pack: Callable[P, PackReport]) -> Callable[P, Dataset]:
    """The same, but it returns the dataset instead of the report."""

    @wraps(pack)
    def packed(*args: P.args, **options: P.kwargs) -> Dataset:
        return open(pack(*args, **options).path)

    packed.__signature__ = signature(pack).replace(return_annotation=Dataset)  # type: ignore[attr-defined]  # for help()
    return packed


pack = _opened(pack_source)


def dataset_of(data: Dataset | str | os.PathLike[str], say: Callable[[str], object]) -> Dataset:
    """The dataset itself, opened, or a source packed beside itself."""
    if isinstance(data, Dataset):
        return data
    path = Path(data)
    if path.suffix == ".e18" or (path / datasets.FACTS).exists() or is_url(os.fspath(data)):
        return fetched(os.fspath(data), say)
    packed = beside(path)
    say(f"packing {path} into {packed}")
    report = pack_source(path, packed, on_progress=_now_and_then(say, "packed", "pictures"))
    for line in report.lines():  # what was refused, too
        say(line)
    return open(packed)


def fetched(place: str, say: Callable[[str], object]) -> Dataset:
    """The dataset with a path, or with a URL, from where it is brought to this machine first."""
    if not is_url(place):
        return open(place)
    absolute(place, flag="the dataset")
    say(f"bringing {place} to {staging.folder()}, as far as it is not there")
    return open(staging.stage(place, staging.folder(), on_progress=_now_and_then(say, "brought", "files")))


def named(data: Dataset | str | os.PathLike[str], dataset: Dataset) -> str:
    """What a run goes by when it goes on, here or on another machine: the dataset's URL if it has one, or its path."""
    return data if isinstance(data, str) and is_url(data) else str(dataset.path.resolve())


def _now_and_then(say: Callable[[str], object], done_to: str, what: str) -> Callable[[int, int, int], None]:
    """Tells how far it is, for whoever waits for a large source."""
    told = monotonic()

    def tell(done: int, total: int, _num_bytes: int) -> None:
        nonlocal told
        if (now := monotonic()) - told >= SAY_S:
            say(f"{done_to} {done:,} of {total:,} {what}")
            told = now

    return tell


def beside(source: Path) -> Path:
    """Where a source is packed if nobody says: NAME.e18 beside it."""
    source = source.resolve()
    return source.with_name(f"{source.stem if source.is_file() else source.name}.e18")
