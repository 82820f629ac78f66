"""What AWS asks for machines at this moment, and which ones carry our tag, in all regions at once.

In: instance types, or a tag; regions. Out: spot prices of each zone and prices on demand, or machines; and which region
did not answer, and why. Nothing is rented, and no answer costs anything; ``end`` ends machines.
boto3 (the extra ``aws``) asks; it finds credentials where every tool for AWS does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from eighteen.advice.quotes import Spot, spot
from eighteen.base.errors import MachineError

SOURCE = "DescribeSpotPriceHistory and GetProducts of AWS"
PLATFORM = "Linux/UNIX"
ASK_FROM = "us-east-1"  # where the list of regions and the prices on demand are to be had
AT_ONCE = 32  # questions
CONNECT_S, ANSWER_S, TRIES = 5, 20, 3
KEYS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or aws configure"
ALIVE = ("pending", "running", "stopping", "stopped")  # states of an instance that costs something, or may again


class NoAccount(MachineError):
    """boto3 or credentials are missing, so that AWS cannot be asked at all."""


@dataclass(frozen=True)
class Answers:
    """on_demand: dollars an hour, by instance and region      silent: why a region told nothing, by its name"""

    spots: Sequence[Spot]
    on_demand: Mapping[tuple[str, str], float] = field(default_factory=dict)
    silent: Mapping[str, str] = field(default_factory=dict)


def ask(instances: Sequence[str], *, regions: Sequence[str] = (), hours: float = 24.0, now: datetime) -> Answers:
    """Spot prices of the last hours and prices on demand of these instance types.

    regions: all that the account may use, if left out
    Raises NoAccount, and MachineError where no region answers.
    """
    failures = _failures("ask AWS for prices", or_else="--table, for the dated prices")
    asked = list(regions) or _regions(failures)
    spots, on_demand, silent = list[Spot](), dict[tuple[str, str], float](), dict[str, str]()
    with ThreadPoolExecutor(AT_ONCE) as threads:
        histories = {region: threads.submit(_spots, region, instances, now, hours) for region in asked}
        for region, history in histories.items():
            try:
                spots += history.result()
            except failures as error:
                silent[region] = _why(error)
        pairs = sorted({(one.instance, one.region) for one in spots})
        for pair, answer in {pair: threads.submit(_on_demand, *pair) for pair in pairs}.items():
            try:
                on_demand |= {pair: usd_h} if (usd_h := answer.result()) else {}
            except failures as error:
                silent["prices on demand"] = _why(error)
    if asked and silent.keys() >= {*asked}:
        got = "; ".join(f"{region}: {why}" for region, why in silent.items())
        need, hint = "an answer from one region at least", f"{KEYS}; --table, for the dated prices"
        raise MachineError("ask AWS for prices", got=got, need=need, hint=hint)
    return Answers(spots, on_demand, silent)


@dataclass(frozen=True)
class Machine:
    """value: of the tag"""

    region: str
    instance: str
    value: str

    def __str__(self) -> str:
        return f"{self.value} ({self.instance} in {self.region})"


def tagged(tag: str) -> tuple[list[Machine], dict[str, str]]:
    """The machines with this tag in all regions that the account may use; why a region told nothing, by its name.

    Raises NoAccount, and MachineError where AWS does not tell its regions.
    """
    failures = _failures("ask AWS for machines", or_else="the console of AWS")
    found, silent = list[Machine](), dict[str, str]()
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for region, answer in {region: threads.submit(_tagged, region, tag) for region in _regions(failures)}.items():
            try:
                found += answer.result()
            except failures as error:
                silent[region] = _why(error)
    return found, silent


def end(machines: Sequence[Machine]) -> None:
    """For good. Raises MachineError for the first region that refuses, when all were asked."""
    failures, refused = _failures("end machines of AWS", or_else="the console of AWS"), dict[str, str]()
    for region in sorted({one.region for one in machines}):
        try:
            of_it = [one.instance for one in machines if one.region == region]
            _client("ec2", region).terminate_instances(InstanceIds=of_it)
        except failures as error:
            refused[region] = _why(error)
    for region, why in refused.items():
        need, hint = "the right to end what was rented", f"the console of AWS, in {region}"
        raise MachineError(f"end machines in {region}", got=why, need=need, hint=hint)


def _tagged(region: str, tag: str) -> list[Machine]:
    filters = [{"Name": "tag-key", "Values": [tag]}, {"Name": "instance-state-name", "Values": [*ALIVE]}]
    pages = _client("ec2", region).get_paginator("describe_instances").paginate(Filters=filters)
    told = [one for page in pages for group in page["Reservations"] for one in group["Instances"]]
    values = ({each["Key"]: each["Value"] for each in one["Tags"]}[tag] for one in told)
    return [Machine(region, one["InstanceId"], value) for one, value in zip(told, values, strict=True)]


def _failures(tried: str, *, or_else: str) -> tuple[type[Exception], ...]:
    """What boto3 raises where AWS refuses or is silent. Raises NoAccount."""
    try:
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        need, hint = "boto3, the extra aws", f"uv pip install 'eighteen[aws]'; {or_else}"
        raise NoAccount(tried, got="no boto3", need=need, hint=hint) from None
    if boto3.Session().get_credentials() is None:
        need, hint = "those of an account; asking costs nothing", f"{KEYS}; {or_else}"
        raise NoAccount(tried, got="no credentials", need=need, hint=hint)
    return BotoCoreError, ClientError


def _client(service: str, region: str) -> Any:
    """A client of its own for each question: one session is not to be shared by threads."""
    import boto3
    from botocore.config import Config

    retries = {"max_attempts": TRIES, "mode": "standard"}
    patience = Config(connect_timeout=CONNECT_S, read_timeout=ANSWER_S, retries=retries)
    return boto3.Session().client(service, region_name=region, config=patience)


def _regions(failures: tuple[type[Exception], ...]) -> list[str]:
    try:
        return sorted(one["RegionName"] for one in _client("ec2", ASK_FROM).describe_regions()["Regions"])
    except failures as error:
        raise MachineError("ask AWS for its regions", got=_why(error), need="an answer", hint=KEYS) from None


def _spots(region: str, instances: Sequence[str], now: datetime, hours: float) -> list[Spot]:
    begins = now - timedelta(hours=hours)
    pages = _client("ec2", region).get_paginator("describe_spot_price_history")
    told: dict[tuple[str, str], list[tuple[datetime, float]]] = {}
    asked = {"InstanceTypes": [*instances], "ProductDescriptions": [PLATFORM], "StartTime": begins, "EndTime": now}
    for one in _rows(pages.paginate(**asked)):
        place = one["InstanceType"], one["AvailabilityZone"]
        told.setdefault(place, []).append((one["Timestamp"], float(one["SpotPrice"])))
    return [spot(instance, region, zone, prices, begins=begins, ends=now) for (instance, zone), prices in told.items()]


def _rows(pages: Any) -> Iterator[Mapping[str, Any]]:
    for page in pages:
        yield from page["SpotPriceHistory"]


def _on_demand(instance: str, region: str) -> float | None:
    """Dollars an hour for Linux on shared hardware; None where it is not to be had."""
    wanted = {
        "instanceType": instance,
        "regionCode": region,
        "operatingSystem": "Linux",
        "tenancy": "Shared",
        "preInstalledSw": "NA",
        "capacitystatus": "Used",
    }
    filters = [{"Type": "TERM_MATCH", "Field": name, "Value": value} for name, value in wanted.items()]
    found = _client("pricing", ASK_FROM).get_products(ServiceCode="AmazonEC2", Filters=filters)["PriceList"]
    terms = (term for product in found for term in json.loads(product)["terms"]["OnDemand"].values())
    prices = (float(one["pricePerUnit"]["USD"]) for term in terms for one in term["priceDimensions"].values())
    return max(prices, default=None) or None


def _why(error: Exception) -> str:
    """In a line; of an answer that refuses, its code and words."""
    told = getattr(error, "response", {}).get("Error", {})
    text = f"{told['Code']}: {told.get('Message', '')}" if "Code" in told else str(error)
    return text.splitlines()[0]
