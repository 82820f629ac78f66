"""Pictures as a dataset: packed, opened, or, where a source is given for one, packed beside itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import wraps
from inspect import signature
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import Literal, ParamSpec, get_args

from eighteen.base.errors import UsageError, did_you_mean
from eighteen.base.recipe import Recipe
from eighteen.data import dataset as datasets
from eighteen.data import staging
from eighteen.data.dataset import Dataset
from eighteen.data.pack import pack as pack_source
from eighteen.data.places import absolute, is_url
from eighteen.data.report import PackReport

P = ParamSpec("P")
Stage = Literal["stream", "first"]

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


@dataclass(frozen=True)
class Staging:
    """How a dataset is made ready that lies elsewhere.

    stage: "stream": training starts as soon as its first shards are here, where that pays; "first": when all are
    warm: shards that are here already are read into the page cache, also those of a dataset on this machine
    disk_max: the most that all datasets brought from elsewhere may take together, e.g. "50GB"
    """

    stage: Stage = "stream"
    warm: bool = False
    disk_max: str | None = None

    def __post_init__(self) -> None:
        if self.stage not in get_args(Stage):
            hint = did_you_mean(self.stage, get_args(Stage))
            raise UsageError("--stage", got=repr(self.stage), need=" or ".join(get_args(Stage)), hint=hint)
        _ = self.most_bytes

    @property
    def most_bytes(self) -> int | None:
        return None if self.disk_max is None else staging.bytes_of(self.disk_max, flag="--disk-max")


def dataset_of(data: Dataset | str | os.PathLike[str], stack: ExitStack, say: Callable[[str], object]) -> Dataset:
    """The dataset itself, opened as ``fetched`` does, or a source packed beside itself."""
    if isinstance(data, Dataset):
        return data
    path = Path(data)
    if path.suffix == ".e18" or (path / datasets.FACTS).exists() or is_url(os.fspath(data)):
        return fetched(os.fspath(data), stack, say)
    packed = beside(path)
    say(f"packing {path} into {packed}")
    report = pack_source(path, packed, on_progress=_now_and_then(say, "packed", "pictures"))
    for line in report.lines():  # what was refused, too
        say(line)
    return open(packed)


def fetched(place: str, stack: ExitStack, say: Callable[[str], object]) -> Dataset:
    """The dataset with a path, or with a URL: its copy on this machine, as long as the stack lasts. Shards that the
    copy lacks come as they are read, or by ``bring``.
    """
    if not is_url(place):
        return open(place)
    absolute(place, flag="the dataset")
    say(f"bringing {place} to {staging.folder()}, as far as it is not there")
    found = datasets.open(staging.begin(place, staging.folder(), stack), brings=True)
    if found.arriving:
        stack.callback(found.arriving.close)
    return found


def ordered(recipe: Recipe, data: Dataset, how: Staging, say: Callable[[str], object]) -> Recipe:
    """The recipe with the order by shards, where a new run can start before all of them are here."""
    from eighteen.data import wanted

    if recipe.data.order == "by-shards" or how.stage == "first" or not wanted.pays_to_stream(recipe, data):
        return recipe
    say("the first epoch goes through the shards as they come: data.order is by-shards (--stage first shuffles all)")
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"order": "by-shards"})})


def bring(recipe: Recipe, data: Dataset, how: Staging, stack: ExitStack, say: Callable[[str], object]) -> None:
    """Have the shards come that a run reads: all of them before this returns, unless its first epoch goes by them."""
    from eighteen.data import wanted

    names = wanted.shards(recipe, data)
    arriving, here = data.arriving, {*names}
    if how.most_bytes is not None and data.path.parent == staging.folder():
        num_bytes = arriving.num_bytes_to_come(names) if arriving else 0
        staging.make_room(data.path, num_bytes, most_bytes=how.most_bytes, say=say)
    if arriving:
        here -= {*arriving.lacking(names)}
        arriving.require_room(names)
        if how.stage == "first" or recipe.data.order == "shuffled":
            arriving.wait(names, on_progress=_now_and_then(say, "brought", "files"))
        else:
            arriving.want(names)
    if how.warm:
        ended = Event()
        paths = [data.path / name for name in names if name in here]
        reader = Thread(target=staging.read_ahead, args=(paths,), kwargs={"goes_on": lambda: not ended.is_set()})
        reader.start()
        stack.callback(reader.join)
        stack.callback(ended.set)


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
