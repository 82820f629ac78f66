"""What machines cost now: a cloud's own answers, laid over the facts of the price table.

In: offers of the table, spot prices of zones, prices on demand. Out: quotes, one for a machine in a zone. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import pairwise

from eighteen.advice.offers import Offer


@dataclass(frozen=True)
class Spot:
    """The price of a spot machine in one zone, in dollars an hour.

    usd_h: the last one, which stands since ``since``
    mean_usd_h, low_usd_h, high_usd_h: over the hours that were asked for, the mean by how long each price stood
    """

    instance: str
    region: str
    zone: str
    usd_h: float
    mean_usd_h: float
    low_usd_h: float
    high_usd_h: float
    since: datetime


@dataclass(frozen=True)
class Quote:
    """offer: with the prices of now, and its zone as region      spot: how that price moved; None: the table's stands

    on_demand_of: where the price on demand comes from: "now", or the region and date of a row of the table
    """

    offer: Offer
    spot: Spot | None
    on_demand_of: str

    @property
    def saving(self) -> float | None:
        """The share of the price on demand that a spot machine costs less."""
        return None if self.offer.spot_usd_h is None else 1 - self.offer.spot_usd_h / self.offer.usd_h


def spot(
    instance: str, region: str, zone: str, prices: Iterable[tuple[datetime, float]], *, begins: datetime, ends: datetime
) -> Spot:
    """One zone's history. prices: since when each stands, at least one, in any order; also from before ``begins``"""
    told = sorted(prices)
    marks = [(max(begins, since), usd) for since, usd in told] + [(ends, 0.0)]
    spans = [((until - since).total_seconds(), usd) for (since, usd), (until, _) in pairwise(marks)]
    stood = [(seconds, usd) for seconds, usd in spans if seconds > 0] or [(1.0, told[-1][1])]
    total = sum(seconds for seconds, _ in stood)
    return Spot(
        instance,
        region,
        zone,
        usd_h=told[-1][1],
        mean_usd_h=sum(seconds * usd for seconds, usd in stood) / total,
        low_usd_h=min(usd for _, usd in stood),
        high_usd_h=max(usd for _, usd in stood),
        since=told[-1][0],
    )


def quotes(
    table: Sequence[Offer],
    spots: Sequence[Spot],
    on_demand: Mapping[tuple[str, str], float],
    *,
    source: str,
    today: date,
) -> list[Quote]:
    """A quote for each zone with a spot price, and the table's own for machines and regions without one.

    on_demand: dollars an hour, by instance and region      source: who was asked
    """
    made = list(_now(table, spots, on_demand, source=source, today=today))
    asked = {(one.instance, one.region) for one in spots}
    return made + [as_in_table(row) for row in table if (row.instance, row.region) not in asked]


def as_in_table(row: Offer) -> Quote:
    return Quote(row, None, f"{row.region}, {row.date}")


def _now(
    table: Sequence[Offer],
    spots: Sequence[Spot],
    on_demand: Mapping[tuple[str, str], float],
    *,
    source: str,
    today: date,
) -> Iterator[Quote]:
    """What the table does not know of a machine but its price is the same in every region."""
    for one in spots:
        rows = [row for row in table if row.instance == one.instance]
        row = next((row for row in rows if row.region == one.region), min(rows, key=lambda row: row.usd_h))
        usd_h = on_demand.get((one.instance, one.region))
        facts = {"region": one.zone, "spot_usd_h": one.usd_h, "source": source, "date": today}
        offer = row.model_copy(update=facts | {"usd_h": usd_h or row.usd_h})
        yield Quote(offer, one, "now" if usd_h else f"{row.region}, {row.date}")
