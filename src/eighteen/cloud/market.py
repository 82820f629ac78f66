"""What machines cost now: the price table, with AWS's own answers over it where AWS answers.

In: offers of the table, regions. Out: quotes of these regions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from eighteen.advice.offers import Offer
from eighteen.advice.quotes import Quote, as_in_table, quotes
from eighteen.base.errors import MachineError, UsageError
from eighteen.cloud import aws


def quoted(
    known: Sequence[Offer],
    regions: Sequence[str],
    *,
    hours: float = 24.0,
    is_table: bool = False,
    now: datetime,
    warn: Callable[[str], object],
    flag: str = "--regions",
) -> list[Quote]:
    """known: rows of the table, at least one      hours: how far back spot prices go      is_table: ask nobody

    warn: is told why AWS, or one of its regions, did not answer      flag: by which the regions were named
    UsageError if there is no price in these regions.
    """
    found = [as_in_table(one) for one in known]
    if not is_table and (instances := sorted({one.instance for one in known if one.cloud == "aws"})):
        try:
            told = aws.ask(instances, regions=regions, hours=hours, now=now)
        except MachineError as error:
            warn(f"{error.tried}: {error.got}; prices are those of the table")
        else:
            for where, why in told.silent.items():
                warn(f"{where} of AWS: {why}")
            found = quotes(known, told.spots, told.on_demand, source=aws.SOURCE, today=now.date())
    kept = [one for one in found if not regions or any(one.offer.region.startswith(region) for region in regions)]
    if not kept:
        got, need = f"no price in {', '.join(regions)}", f"regions such as {known[0].region}"
        raise UsageError(flag, got=got, need=need, hint=f"leave out {flag}, to see all")
    return kept
