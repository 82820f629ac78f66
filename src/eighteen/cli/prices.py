"""What machines cost at this moment."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from eighteen.base.errors import UsageError, did_you_mean
from eighteen.base.files import unwritable_is_said
from eighteen.cli.app import Changes, app, console, warn
from eighteen.cli.planned import planned

if TYPE_CHECKING:
    from eighteen.advice.offers import Offer


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
    from eighteen.data import dataset as datasets
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
    made = None
    if data is not None:
        asked = {"recipe": recipe, "epochs": epochs, "batch": batch, "changes": set_, "files": measured}
        offered, today = [one.offer for one in found], datetime.now(UTC).date()
        made = planned(datasets.open(data), offered=offered, today=today, runs_dir=runs_dir, **asked)
    by_name = {one.where: one for one in (made.plans if made else ()) if one.usd}  # on spot after on demand
    console().print(shown.show(found, made.task if made else None, by_name))
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
