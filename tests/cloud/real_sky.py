"""``real_sky.py FOLDER WORDS``: ``eighteen WORDS`` with SkyPilot itself, in a cloud whose cheapest zone has no machine.

Done in a network and among processes of its own, so that nothing outside is asked and nothing stays. The cloud is moto,
behind a server that answers for prices with what was recorded, and refuses the cheapest zone. SkyPilot's home is in
FOLDER; what it and the cloud were seen to do is written to FOLDER/seen.json.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.error import HTTPError
from urllib.parse import parse_qs

import boto3
from recorded import Recorded, answer

ALONE = ("setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
REGIONS = ("us-east-1", "us-east-2", "us-west-2", "eu-west-1", "eu-north-1")
INSTANCE, IMAGE = "g6.2xlarge", "ami-1e749f67"
PRICES = {region: (f"0.{4 + number}", f"0.{4 + number}1") for number, region in enumerate(REGIONS)}  # zones a, b
CHEAPEST = "us-east-1a"
MOTO_PORT = 5000
ENOUGH_S = 300.0
NONE_THERE = (
    "<Response><Errors><Error><Code>InsufficientInstanceCapacity</Code><Message>We currently do not have sufficient "
    "{instance} capacity in the Availability Zone you requested ({zone}).</Message></Error></Errors>"
    "<RequestID>1</RequestID></Response>"
)


class Cloud:
    """moto's, and what was asked of it: each RunInstances, with its zone, and whether it was refused."""

    def __init__(self, moto: str) -> None:
        lately = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=2)
        spot = {
            region: [(INSTANCE, f"{region}{zone}", usd_h, lately) for zone, usd_h in zip("ab", both, strict=True)]
            for region, both in PRICES.items()
        }
        self.recorded = Recorded(spot, {(INSTANCE, region): "0.9776" for region in REGIONS})
        self.moto, self.began, self.has_given = moto, list[dict[str, Any]](), Event()

    def answer(self, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        asked = {name: values[0] for name, values in parse_qs(body.decode(errors="replace")).items()}
        target, action = headers.get("X-Amz-Target", ""), asked.get("Action", "")
        region = headers["Authorization"].split("/")[2] if "Authorization" in headers else REGIONS[0]
        if action == "DescribeSpotPriceHistory" or target.endswith("GetProducts"):
            code, text = answer(self.recorded, region, body.decode(), target)
            return code, text.encode()
        if action == "RunInstances":
            return self._run(region, asked, path, headers, body)
        return self._passed(path, headers, body)

    def _run(
        self, region: str, asked: Mapping[str, str], path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, bytes]:
        network = asked.get("NetworkInterface.1.SubnetId") or asked["SubnetId"]
        (subnet,) = client("ec2", region, self.moto).describe_subnets(SubnetIds=[network])["Subnets"]
        zone, instance = subnet["AvailabilityZone"], asked["InstanceType"]
        is_spot = asked.get("InstanceMarketOptions.MarketType") == "spot"
        tags = sorted(value for name, value in asked.items() if name.startswith("TagSpecification.1.Tag."))
        told = {"zone": zone, "instance": instance, "is_spot": is_spot, "is_refused": zone == CHEAPEST, "tags": tags}
        self.began.append(told | {"most": asked["MaxCount"]})
        if zone == CHEAPEST:
            return 500, NONE_THERE.format(instance=instance, zone=zone).encode()
        given = self._passed(path, headers, body)
        self.has_given.set()
        return given

    def _passed(self, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        kept = {name: value for name, value in headers.items() if name.lower() not in ("host", "content-length")}
        request = urllib.request.Request(self.moto + path, data=body, headers=kept, method="POST")
        try:
            with urllib.request.urlopen(request) as told:
                return told.status, told.read()
        except HTTPError as error:
            return error.code, error.read()


def client(service: str, region: str, url: str) -> Any:
    return boto3.client(service, region_name=region, endpoint_url=url)


@contextmanager
def listening(cloud: Cloud) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            code, told = cloud.answer(self.path, dict(self.headers), body)
            self.send_response(code)
            self.send_header("Content-Type", "text/xml")
            self.send_header("Content-Length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)

        def log_message(self, format: str, *args: object) -> None:
            """Quietly."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def furnish(home: Path, url: str, moto: str) -> None:
    """What SkyPilot knows of clouds and prices, written by hand: without sums beside them it asks nobody for newer."""
    catalogs = home / ".sky" / "catalogs" / "v8"
    rows, images = [], []
    for region in REGIONS:
        zones = client("ec2", region, moto).describe_availability_zones()["AvailabilityZones"]
        named = {one["ZoneName"]: one["ZoneId"] for one in zones}
        for zone, usd_h in zip("ab", PRICES[region], strict=True):
            facts = {"InstanceType": INSTANCE, "AcceleratorName": "L4", "AcceleratorCount": 1.0, "vCPUs": 8.0}
            facts |= {"MemoryGiB": 32.0, "GpuInfo": "", "Price": 0.9776, "SpotPrice": usd_h, "Region": region}
            facts |= {"AvailabilityZone": named[region + zone], "Arch": "x86_64", "LocalDiskType": ""}
            rows.append(facts | {"NVMeSupported": "", "LocalDiskSize": "", "LocalDiskCount": ""})
        for tag in ("custom-cpu-ubuntu", "custom-gpu-ubuntu", "custom-gpu-ubuntu-cuda13"):
            facts = {"Tag": f"skypilot:{tag}", "Region": region, "OS": "ubuntu", "OSVersion": "2204"}
            images.append(facts | {"ImageId": IMAGE, "CreationDate": "20260101", "BaseImageId": ""})
    quota = {"InstanceType": INSTANCE, "SpotInstanceCode": "L-3819A6DF", "OnDemandInstanceCode": "L-DB2E81BA"}
    _table(catalogs / "aws" / "vms.csv", rows)
    _table(catalogs / "aws" / "images.csv", images)
    _table(catalogs / "aws" / "instance_quota_mapping.csv", [quota])
    _table(catalogs / "common" / "accelerators.csv", [{"AcceleratorName": "L4", "Clouds": "['AWS']"}])
    (home / ".sky" / "config.yaml").write_text('{"aws": {"remote_identity": "LOCAL_CREDENTIALS"}}\n')
    (home / ".aws").mkdir()
    (home / ".aws" / "credentials").write_text("[default]\naws_access_key_id = lab\naws_secret_access_key = lab\n")
    (home / ".aws" / "config").write_text(f"[default]\nregion = {REGIONS[0]}\nendpoint_url = {url}\n")


def _table(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        written = csv.DictWriter(file, rows[0].keys())
        written.writeheader()
        written.writerows(rows)


def make_ready(moto: str) -> None:
    """Networks with the way out, and the role, that SkyPilot looks for: moto refuses the policy that it would make."""
    for region in REGIONS:
        ec2 = client("ec2", region, moto)
        vpc = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"][0]["VpcId"]
        gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
        (table, *_) = ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["RouteTables"]
        ec2.create_route(RouteTableId=table["RouteTableId"], DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
    iam, name = client("iam", REGIONS[0], moto), "skypilot-v1"
    iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": []}))
    iam.create_instance_profile(InstanceProfileName=name)
    iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)


def alive(moto: str) -> list[str]:
    """Instances that are not gone, in all regions."""
    found = []
    for region in REGIONS:
        told = client("ec2", region, moto).describe_instances()["Reservations"]
        found += [
            one["InstanceId"] for each in told for one in each["Instances"] if one["State"]["Name"] != "terminated"
        ]
    return found


def main(folder: Path, words: list[str]) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    home, programs = folder / "home", Path(os.environ["EIGHTEEN_SKY"])
    os.environ |= {"HOME": str(home), "PATH": f"{programs}:{os.environ['PATH']}", "AWS_EC2_METADATA_DISABLED": "true"}
    os.environ |= {"AWS_DEFAULT_REGION": REGIONS[0], "MOTO_IAM_LOAD_MANAGED_POLICIES": "true"}
    os.environ |= {"AWS_ACCESS_KEY_ID": "lab", "AWS_SECRET_ACCESS_KEY": "lab"}
    moto = f"http://127.0.0.1:{MOTO_PORT}"
    with (folder / "moto.log").open("w") as log:
        subprocess.Popen([str(programs / "moto_server"), "-p", str(MOTO_PORT)], stdout=log, stderr=log)
    _wait(lambda: _answers(moto + "/moto-api/"))
    cloud = Cloud(moto)
    with listening(cloud) as url:
        os.environ["AWS_ENDPOINT_URL"] = url
        make_ready(moto)
        furnish(home, url, moto)
        with (folder / "said.log").open("w") as said:
            launch = subprocess.Popen([sys.executable, "-m", "eighteen", *words], stdout=said, stderr=said, cwd=folder)
            _wait(lambda: cloud.has_given.is_set() or launch.poll() is not None)
            before = alive(moto)
            launch.send_signal(signal.SIGINT)
            code = launch.wait(ENOUGH_S)
        seen = {"began": cloud.began, "code": code, "before": before, "left": alive(moto)}
        (folder / "seen.json").write_text(json.dumps(seen, indent=1))


def _wait(is_so: Any) -> None:
    until = time.monotonic() + ENOUGH_S
    while not is_so():
        if time.monotonic() > until:
            raise TimeoutError(f"not so in {ENOUGH_S:g} s")
        time.sleep(0.1)


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=1).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
