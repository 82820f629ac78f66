"""A server that answers as AWS does, with what it is given: moto knows neither spot prices that move nor others."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs

EC2 = "http://ec2.amazonaws.com/doc/2016-11-15/"
Price = tuple[str, str, str, datetime]  # instance, zone, dollars an hour, since


@dataclass
class Recorded:
    """spot: of each region      on_demand: dollars an hour by instance and region      refused: regions, with a code

    asked: what was asked of which region, as it came      machines: of each region, with their tags
    """

    spot: Mapping[str, Sequence[Price]]
    on_demand: Mapping[tuple[str, str], str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    page: int = 1000
    asked: list[tuple[str, str]] = field(default_factory=list)
    machines: Mapping[str, dict[str, dict[str, str]]] = field(default_factory=dict)


@contextmanager
def serving(recorded: Recorded) -> Iterator[str]:
    """Its URL, for AWS_ENDPOINT_URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            region = self.headers["Authorization"].split("/")[2]
            code, text = answer(recorded, region, body, self.headers.get("X-Amz-Target", ""))
            self.send_response(code)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:
            """Quietly."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def answer(recorded: Recorded, region: str, body: str, target: str) -> tuple[int, str]:
    if target.endswith("GetProducts"):
        wanted = {one["Field"]: one["Value"] for one in json.loads(body)["Filters"]}
        recorded.asked.append(("GetProducts", wanted["regionCode"]))
        usd = recorded.on_demand.get((wanted["instanceType"], wanted["regionCode"]))
        terms = {"OnDemand": {"term": {"priceDimensions": {"hour": {"pricePerUnit": {"USD": usd}}}}}}
        return 200, json.dumps({"FormatVersion": "aws_v1", "PriceList": [json.dumps({"terms": terms})] if usd else []})
    asked = {name: values[0] for name, values in parse_qs(body).items()}
    recorded.asked.append((asked["Action"], region))
    if region in recorded.refused:
        error = f"<Error><Code>{recorded.refused[region]}</Code><Message>not for you</Message></Error>"
        return 401, f"<Response><Errors>{error}</Errors><RequestID>1</RequestID></Response>"
    if asked["Action"] == "DescribeRegions":
        known = dict.fromkeys([*recorded.spot, *recorded.machines])
        names = "".join(f"<item><regionName>{name}</regionName></item>" for name in known)
        return 200, f'<DescribeRegionsResponse xmlns="{EC2}"><regionInfo>{names}</regionInfo></DescribeRegionsResponse>'
    if asked["Action"] == "DescribeInstances":
        tag, machines = asked["Filter.1.Value.1"], recorded.machines.get(region, {})
        items = "".join(_machine(name, tags) for name, tags in machines.items() if tag in tags)
        inner = f"<reservationSet>{items}</reservationSet>"
        return 200, f'<DescribeInstancesResponse xmlns="{EC2}">{inner}</DescribeInstancesResponse>'
    if asked["Action"] == "TerminateInstances":
        for name in [value for name, value in asked.items() if name.startswith("InstanceId.")]:
            del recorded.machines[region][name]
        return 200, f'<TerminateInstancesResponse xmlns="{EC2}"></TerminateInstancesResponse>'
    types = {value for name, value in asked.items() if name.startswith("InstanceType.")}
    rows = [row for row in recorded.spot.get(region, ()) if row[0] in types]
    first = int(asked.get("NextToken", 0))
    items = "".join(map(_item, rows[first : first + recorded.page]))
    more = str(first + recorded.page) if first + recorded.page < len(rows) else ""
    inner = f"<spotPriceHistorySet>{items}</spotPriceHistorySet><nextToken>{more}</nextToken>"
    return 200, f'<DescribeSpotPriceHistoryResponse xmlns="{EC2}">{inner}</DescribeSpotPriceHistoryResponse>'


def _item(row: Price) -> str:
    instance, zone, usd, since = row
    told = {
        "instanceType": instance,
        "productDescription": "Linux/UNIX",
        "spotPrice": usd,
        "timestamp": f"{since:%Y-%m-%dT%H:%M:%S.000Z}",
        "availabilityZone": zone,
    }
    return "<item>" + "".join(f"<{name}>{value}</{name}>" for name, value in told.items()) + "</item>"


def _machine(name: str, tags: Mapping[str, str]) -> str:
    told = "".join(f"<item><key>{key}</key><value>{value}</value></item>" for key, value in tags.items())
    one = f"<item><instanceId>{name}</instanceId><tagSet>{told}</tagSet></item>"
    return f"<item><instancesSet>{one}</instancesSet></item>"
