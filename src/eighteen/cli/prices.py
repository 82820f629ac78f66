"""What machines cost at this moment."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from eighteen.base.errors import UsageError, did_you_mean
from eighteen.base.files import unwritable_is_said
from eighteen.cli.app import Changes, app, console, to_stderr, warn

if TYPE_CHECKING:
    from eighteen.advice.offers import Offer
    from eighteen.advice.planning import Planned
    from eighteen.advice.quotes import Quote


@app.command
def prices(
    data: Path | None = None,
    *,
    gpu: str = "",
    regions: str = "",
    hours: float = 24.0,
    table: Annotated[bool, Parameter(negative="")] = False,
    prices: Path | None = None,
    recipe: str = "auto",
    epochs: float | None = None,
    batch: int | None = None,
    set_: Changes = (),
    measured: Annotated[tuple[Path, ...], Parameter(negative="")] = (),
    runs_dir: Path = Path(),
    csv: Path | None = None,
) -> None:
    """Say what machines cost at this moment, in every region and zone; with a dataset also an epoch and a run of it.

    AWS is asked, if its credentials are there; all others are as the price table has them, with its dates.

    Args:
        data: A packed dataset: what training it would cost is told as eighteen plan reckons it.
        gpu: Only machines with these, e.g. H100,A100.
        regions: Only these, e.g. us-east-1,us-west-2; all that the account may use if left out.
        hours: How far back spot prices are looked at.
        table: Ask nobody.
        prices: A CSV table of offers, instead of the one that comes with the program.
        recipe: A recipe by name, a TOML file, or auto, which picks one for the data and the machine.
        epochs: Stretch the recipe to this many.
        batch: The global batch of the first phase; the others follow.
        set_: Change the recipe: a.b=value. May be repeated.
        measured: What eighteen bench --json wrote, of this machine or others. May be several.
        runs_dir: Where this machine is measured, if it has to be.
        csv: A file to write the prices to, for eighteen plan --prices.
    """
    from eighteen.advice.offers import offers
    from eighteen.cloud.market import quoted
    from eighteen.results import quotes as shown

    if not 0 < hours <= 24 * 90:
        need, hint = "more than 0 and at most 90 days", "--hours 24"
        raise UsageError("--hours", got=f"{hours:g}", need=need, hint=hint)
    if csv is not None and (csv.suffix.lower() != ".csv" or not csv.parent.is_dir()):
        need = "a .csv file in a folder that exists"
        raise UsageError("--csv", got=repr(str(csv)), need=need, hint="--csv prices-now.csv")
    known = _with_gpus(offers(prices), [one for one in gpu.split(",") if one])
    places = [one for one in regions.split(",") if one]
    found = quoted(known, places, hours=hours, is_table=table, now=datetime.now(UTC), warn=warn)
    planned = _planned(data, found, recipe, epochs, batch, set_, measured, runs_dir) if data is not None else None
    by_name = {one.where: one for one in (planned.plans if planned else ()) if one.usd}  # on spot after on demand
    console().print(shown.show(found, planned.task if planned else None, by_name))
    if csv is not None:
        with unwritable_is_said(csv, hint=f"ls -ld {csv.parent}"):
            shown.write(csv, found)
        print(f"wrote {csv}")


def _with_gpus(known: list[Offer], gpus: list[str]) -> list[Offer]:
    names = {one.gpu for one in known}
    for gpu in gpus:
        if gpu not in names:
            need = f"one of {', '.join(sorted(names))}"
            raise UsageError("--gpu", got=repr(gpu), need=need, hint=did_you_mean(gpu, names))
    return [one for one in known if not gpus or one.gpu in gpus]


def _planned(
    data: Path,
    found: list[Quote],
    recipe: str,
    epochs: float | None,
    batch: int | None,
    changes: Changes,
    measured: tuple[Path, ...],
    runs_dir: Path,
) -> Planned:
    from eighteen.advice import planning
    from eighteen.data import dataset as datasets
    from eighteen.results import packing

    with packing.progress(console(stderr=True), "measuring") as on_progress:
        return planning.make(
            datasets.open(data),
            recipe=recipe,
            epochs=epochs,
            batch=batch,
            changes=changes,
            files=measured,
            offered=[one.offer for one in found],
            today=datetime.now(UTC).date(),
            runs_dir=runs_dir,
            say=to_stderr,
            on_progress=on_progress,
        )
