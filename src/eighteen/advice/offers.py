"""What can be rented, for how much: ``prices.csv``, or a table that somebody brings.

In: rows with where each price stands and since when. Out: offers, which are never changed, only said to be stale.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated

from pydantic import Field

from eighteen.advice.published import Fact, bundled, rows

STALE_DAYS = 90
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]
Word = Annotated[str, Field(min_length=1)]


class Offer(Fact):
    """A machine that a cloud rents.

    gpu: a name of ``devices.csv``      memory_gib: of the host      network_gbit_s: to other machines of the kind
    usd_h: on demand      spot_usd_h: typical      spot_losses_a_day: how often such a machine is taken back
    date: when the source said so, as far as it tells
    """

    cloud: Word
    instance: Word
    region: Word
    gpus: Count
    gpu: Word
    cpus: Count
    memory_gib: Positive
    network_gbit_s: Positive | None = None
    usd_h: Positive
    spot_usd_h: Positive | None = None
    spot_losses_a_day: Annotated[float, Field(ge=0)] | None = None
    source: Word
    date: date

    @property
    def name(self) -> str:
        return f"{self.cloud} {self.instance} {self.region}"

    def is_stale(self, today: date) -> bool:
        """Whether the price is older than STALE_DAYS."""
        return (today - self.date).days > STALE_DAYS


def offers(path: Path | None = None) -> list[Offer]:
    """Those of a table; without one, those that come with the program. DataError names the line that does not fit."""
    return rows(path, Offer) if path else bundled("prices.csv", Offer)
