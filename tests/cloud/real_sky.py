"""``real_sky.py rent|dry|whole FOLDER WORDS``: SkyPilot itself, in a cloud whose cheapest zone has no machine.

rent: ``eighteen WORDS``, interrupted when it has machines
dry: what ``eighteen WORDS --print`` shows, as a dry run on each cloud
whole: ``eighteen WORDS``, which trains on hosts that moto's instances are; one is lost on the way

Done in a network and among processes of its own, so that nothing outside is asked and nothing stays. The cloud is moto,
behind a server that answers for prices with what was recorded, and refuses the cheapest zone; of others there is what
SkyPilot has on its disk. Its home is in FOLDER; what it and the cloud were seen to do is written to FOLDER/seen.json.
"""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.error import HTTPError
from urllib.parse import parse_qs

import boto3
from recorded import Recorded, answer

from eighteen.cloud import keys

sys.path.insert(0, str(Path(__file__).parents[1] / "cloudlab"))

from instances import Instances
from lab import DESK_ADDRESS, Lab, Launched

ALONE = ("setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
REGIONS = ("us-east-1", "us-east-2", "us-west-2", "eu-west-1", "eu-north-1")
INSTANCE, IMAGE = "g6.2xlarge", "ami-1e749f67"
PRICES = {region: (f"0.{4 + number}", f"0.{4 + number}1") for number, region in enumerate(REGIONS)}  # zones a, b
CHEAPEST = "us-east-1a"
MOTO_PORT = 5000
ENOUGH_S, LONG_S = 300.0, 1200.0
EIGHTEEN = (sys.executable, "-m", "eighteen")
ENABLE = """
from sky import global_user_state
from sky.clouds import cloud
for what in (cloud.CloudCapability.COMPUTE, cloud.CloudCapability.STORAGE):
    global_user_state.set_enabled_clouds(["AWS", "GCP", "Azure"], what, "default")
"""
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


def furnish_others(home: Path) -> None:
    """Two clouds of which nothing answers: two places each, the second cheaper."""
    catalogs, h100 = home / ".sky" / "catalogs" / "v8", {"AcceleratorName": "H100", "AcceleratorCount": 8.0}
    size = {"vCPUs": 208.0, "MemoryGiB": 1872.0, "GpuInfo": ""}
    rows = []
    for zone, usd_h in (("us-central1-a", 25.0), ("us-east4-b", 21.0)):
        where = {"Region": zone[:-2], "AvailabilityZone": zone, "Price": 88.25, "SpotPrice": usd_h}
        rows += [{"InstanceType": "a3-highgpu-8g"} | dict.fromkeys(h100, "") | size | where]
        rows += [{"InstanceType": ""} | h100 | dict.fromkeys(size, "") | where | {"Price": 0.0, "SpotPrice": 0.0}]
    _table(catalogs / "gcp" / "vms.csv", rows)
    quota = {"Accelerator": "H100", "Region": "", "Regional": "", "Machine": ""}
    _table(catalogs / "gcp" / "accelerator_quota_mapping.csv", [quota])
    rows = [
        {"InstanceType": "Standard_ND96isr_H100_v5"}
        | h100
        | size
        | {"Price": 98.32, "SpotPrice": usd_h, "Region": region, "Generation": "V2"}
        for region, usd_h in (("eastus", 40.0), ("westus2", 35.0))
    ]
    _table(catalogs / "azure" / "vms.csv", rows)
    for cloud, image, tags in (
        ("gcp", "projects/x/global/images/y", ("custom-gpu-ubuntu-2204", "custom-gpu-ubuntu-2204-cuda13")),
        ("azure", "/CommunityGalleries/x/Images/y", ("custom-gpu-ubuntu-v2",)),
    ):
        facts = {"Region": "", "OS": "ubuntu", "OSVersion": "2204", "ImageId": image, "CreationDate": "20260101"}
        rows = [{"Tag": f"skypilot:{tag}"} | facts | {"BaseImageId": ""} for tag in tags]
        _table(catalogs / cloud / "images.csv", rows)


@contextmanager
def furnished(folder: Path, at: str = "127.0.0.1") -> Iterator[tuple[Cloud, str]]:
    """All that SkyPilot needs, and moto's URL, at an address that is there."""
    home, programs, moto = folder / "home", Path(os.environ["EIGHTEEN_SKY"]), f"http://{at}:{MOTO_PORT}"
    os.environ |= {"HOME": str(home), "PATH": f"{programs}:{os.environ['PATH']}", "AWS_EC2_METADATA_DISABLED": "true"}
    os.environ |= {"AWS_DEFAULT_REGION": REGIONS[0], "MOTO_IAM_LOAD_MANAGED_POLICIES": "true"}
    os.environ |= {"AWS_ACCESS_KEY_ID": "lab", "AWS_SECRET_ACCESS_KEY": "lab"}
    with (folder / "moto.log").open("w") as log:
        subprocess.Popen([str(programs / "moto_server"), "-H", at, "-p", str(MOTO_PORT)], stdout=log, stderr=log)
    _wait(lambda: _answers(moto + "/moto-api/"))
    cloud = Cloud(moto)
    with listening(cloud) as url:
        os.environ["AWS_ENDPOINT_URL"] = url
        make_ready(moto)
        furnish(home, url, moto)
        yield cloud, moto


def rent(folder: Path, words: list[str]) -> dict[str, Any]:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with furnished(folder) as (cloud, moto), (folder / "said.log").open("w") as said:
        launch = subprocess.Popen([*EIGHTEEN, *words], stdout=said, stderr=said, cwd=folder)
        _wait(lambda: cloud.has_given.is_set() or launch.poll() is not None)
        before = alive(moto)
        launch.send_signal(signal.SIGINT)
        return {"began": cloud.began, "code": launch.wait(ENOUGH_S), "before": before, "left": alive(moto)}


def dry(folder: Path, words: list[str]) -> dict[str, Any]:
    """By cloud."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    found: dict[str, Any] = {}
    with furnished(folder) as (cloud, moto):
        furnish_others(folder / "home")
        for name, gpu in {"aws": "L4", "gcp": "H100:8", "azure": "H100:8"}.items():
            more = ["--cloud", name, "--gpu", gpu, "--print", "--price-usd-h", "80"]
            shown = subprocess.run([*EIGHTEEN, *words, *more], stdout=subprocess.PIPE, text=True, check=True).stdout
            command = shlex.split(next(line for line in shown.splitlines() if line.startswith("sky launch ")))
            task, _ = json.JSONDecoder().raw_decode(shown, shown.index("{\n"))
            Path(command[-1]).write_text(json.dumps(task))
            for flag, settings in pairwise(command):
                if flag == "--config":
                    keys.make(Path(settings).parent)
                    keys.settings(Path(settings).parent)
            subprocess.run([str(Path(os.environ["EIGHTEEN_SKY"]) / "python"), "-c", ENABLE], check=True)
            done = subprocess.run([*command, "--dryrun"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            found[name] = {"code": done.returncode, "said": done.stdout}
        return found | {"began": cloud.began, "left": alive(moto)}


def whole(folder: Path, words: list[str]) -> dict[str, Any]:
    lab = Lab(folder / "lab", [])
    lab.enter()
    with furnished(folder, DESK_ADDRESS) as (cloud, moto):
        ec2 = client("ec2", REGIONS[0], moto)
        make_private(ec2)
        settings = {"remote_identity": "LOCAL_CREDENTIALS", "use_internal_ips": True, "use_ssm": False}
        (folder / "home" / ".sky" / "config.yaml").write_text(json.dumps({"aws": settings}))
        instances = Instances(lab, ec2, Path(os.environ["EIGHTEEN_SKY_HOSTS"]))
        launch = Launched(lab, [*EIGHTEEN, *words], cwd=folder)
        launch.wait_for("  step ", limit_s=LONG_S)
        _, lost = hosts = _of_launch(launch)["hosts"]
        names = {host.address: name for name, host in lab.hosts.items()}
        ec2.terminate_instances(InstanceIds=[names[lost]])
        begins = launch.wait_for("renting 1 x")
        launch.wait_for("  step ", since=launch.wait_for("attempt 3, on", since=begins, limit_s=LONG_S))
        now = _of_launch(launch)["active"]
        code = launch.end(signal.SIGINT)
        (folder / "said.log").write_text(launch.said)
        seen = {"began": cloud.began, "code": code, "hosts": hosts, "now": now, "left": alive(moto)}
        instances.close()
    lab.close()
    return seen


def _of_launch(launch: Launched) -> dict[str, Any]:
    return json.loads((launch.run / "launch" / "launch.json").read_text())


def make_private(ec2: Any) -> None:
    """Networks whose addresses are the lab's, with no way out."""
    for subnet in ec2.describe_subnets()["Subnets"]:
        ec2.delete_subnet(SubnetId=subnet["SubnetId"])
    vpc = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"][0]["VpcId"]
    ec2.associate_vpc_cidr_block(VpcId=vpc, CidrBlock="10.77.0.0/24")
    table = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
    for number, zone in enumerate("ab"):
        asked = {"CidrBlock": f"10.77.0.{64 * number}/26", "AvailabilityZone": REGIONS[0] + zone}
        subnet = ec2.create_subnet(VpcId=vpc, **asked)["Subnet"]["SubnetId"]
        ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)
        ec2.modify_subnet_attribute(SubnetId=subnet, MapPublicIpOnLaunch={"Value": False})


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


VERBS = {"rent": rent, "dry": dry, "whole": whole}

if __name__ == "__main__":
    verb, folder, *rest = sys.argv[1:]
    os.chdir(folder)
    (Path(folder) / "seen.json").write_text(json.dumps(VERBS[verb](Path(folder), rest), indent=1))
