"""SkyPilot itself takes our tasks, without a network: it plans by catalogues of the test's own, and rents nothing.

EIGHTEEN_SKY names its program, in an environment of its own: pip install 'skypilot[aws,gcp,azure]==0.14.1'.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from eighteen.cloud import sky
from eighteen.cloud.sky import Place, Rental, Wish

SKY = Path(os.environ.get("EIGHTEEN_SKY", ""))
PORT = 46580  # of SkyPilot's server
LIMIT_S = 300
KNOW = """import sys
from sky import global_user_state
from sky.clouds.cloud import CloudCapability
global_user_state.set_enabled_clouds(["AWS", "GCP", "Azure"], CloudCapability.COMPUTE, "default")
"""
IMAGES = "Tag,Region,OS,OSVersion,ImageId,CreationDate,BaseImageId\n"
GCP = "a3-highgpu-8g,208.0,1872.0,,,,{},{},{},{}\n,,,H100,8.0,,{},{},1.0,1.0\n"
AZURE = "Standard_ND96isr_H100_v5,H100,8.0,96.0,1900.0,,98.3,{},{},V2\n"
CATALOGUES = {
    "aws/vms.csv": "InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,GpuInfo,Price,SpotPrice,Region,"
    "AvailabilityZone,Arch,LocalDiskType,NVMeSupported,LocalDiskSize,LocalDiskCount\n"
    + "".join(
        f"p5.48xlarge,H100,8.0,192.0,2048.0,,55.0,{usd},{region},{zone},x86_64,,,,\n"
        for region, zone, usd in (("us-east-1", "use1-az1", 23.0), ("us-west-2", "usw2-az1", 12.0))
    ),
    "aws/images.csv": IMAGES
    + "".join(
        f"skypilot:custom-gpu-ubuntu{kind},{region},ubuntu,2204,ami-1,20260101,\n"
        for kind in ("", "-cuda13")
        for region in ("us-east-1", "us-west-2")
    ),
    "aws/instance_quota_mapping.csv": "InstanceType,SpotInstanceCode,OnDemandInstanceCode\n",
    "gcp/vms.csv": "InstanceType,vCPUs,MemoryGiB,AcceleratorName,AcceleratorCount,GpuInfo,Region,AvailabilityZone,"
    "Price,SpotPrice\n"
    + GCP.format("us-east4", "us-east4-b", 88.0, 21.0, "us-east4", "us-east4-b")
    + GCP.format("us-central1", "us-central1-a", 88.0, 25.0, "us-central1", "us-central1-a"),
    "gcp/images.csv": IMAGES,
    "gcp/accelerator_quota_mapping.csv": "Accelerator,Region,Regional,Machine\n",
    "azure/vms.csv": "InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,GpuInfo,Price,SpotPrice,Region,"
    "Generation\n" + AZURE.format(40.0, "eastus") + AZURE.format(35.0, "westus2"),
    "azure/images.csv": IMAGES,
    "common/accelerators.csv": "AcceleratorName,Clouds\nH100,\"['AWS', 'GCP', 'Azure']\"\n",
}


@pytest.fixture(scope="module")
def skypilot(tmp_path_factory):
    """Its program and environment: it knows three clouds, by what it keeps of an earlier check."""
    if not SKY.is_file():
        pytest.skip("EIGHTEEN_SKY does not name the program of SkyPilot")
    if shutil.which("rsync") is None:
        pytest.skip("SkyPilot needs rsync")
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", PORT)) == 0:
            pytest.skip(f"a server of SkyPilot is on port {PORT} already")
    home = tmp_path_factory.mktemp("home")
    for name, text in CATALOGUES.items():
        path = home / ".sky" / "catalogs" / "v8" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    facts = {"HOME": str(home), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1", "AWS_EC2_METADATA_DISABLED": "true"}
    facts = {"PATH": f"{SKY.parent}:{os.environ['PATH']}"} | facts
    subprocess.run([SKY.with_name("python"), "-c", KNOW], env=facts, check=True, timeout=LIMIT_S)
    yield facts
    subprocess.run([SKY, "api", "stop"], env=facts, check=True, timeout=LIMIT_S, capture_output=True)


@pytest.mark.soak_cloud
@pytest.mark.parametrize(
    ("cloud", "place", "chosen"),
    [
        ("aws", Place("p5.48xlarge", "", "", 12.0, ""), r"AWS \(usw2-az1\)|AWS \(us-west-2\w?\)"),
        ("aws", Place("p5.48xlarge", "us-east-1", "", 23.0, ""), r"AWS \(us\w*e\w*-?1"),
        ("gcp", Place("", "", "", 21.0, ""), r"GCP \(us-east4-b\)"),
        ("azure", Place("", "", "", 35.0, ""), r"Azure \(westus2\)"),
    ],
)
def test_skypilot_plans_the_cheapest_for_the_task_that_we_write(skypilot, tmp_path, cloud, place, chosen):
    wish = Wish(cloud, "H100:8", 2, is_spot=True)
    rental = Rental("photos-1", wish, [place], 2.0, 256, sky.setup(sky.OWN_PYTHON))
    file = tmp_path / "rent.yaml"
    file.write_text(sky.task_text(rental))
    words = [SKY, *sky.rent_words(rental, file)[1:-1], "--dryrun", str(file)]
    done = subprocess.run(words, env=skypilot, capture_output=True, text=True, timeout=LIMIT_S)
    said = sky.COLOUR.sub("", done.stdout + done.stderr)
    assert done.returncode == 0, said
    (line,) = [line for line in said.splitlines() if "✔" in line]
    assert re.search(chosen, line), line
    assert "[Spot]" in line


@pytest.mark.soak_cloud
def test_skypilot_says_that_it_has_none_as_we_expect(skypilot, tmp_path):
    wish = Wish("aws", "H100:8", 2)
    place = Place("", "us-west-2", "", 12.0, "")
    rental = replace(Rental("photos-1", wish, [place], 2.0, 256, ""), wish=replace(wish, gpu="H100:4"))
    file = tmp_path / "rent.yaml"
    file.write_text(sky.task_text(rental))
    words = [SKY, *sky.rent_words(rental, file)[1:-1], "--dryrun", str(file)]
    done = subprocess.run(words, env=skypilot, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode != 0
    assert sky.is_refused(done.stdout + done.stderr)


@pytest.mark.soak_cloud
def test_skypilot_knows_no_cluster_and_says_so_as_we_read_it(skypilot):
    words = [[SKY, *one[1:]] for one in (sky.status_words(), sky.return_words("eighteen-photos-1"))]
    status, down = (subprocess.run(one, env=skypilot, capture_output=True, text=True, timeout=LIMIT_S) for one in words)
    assert sky.clusters(status.stdout) == {}
    assert json.loads(status.stdout[status.stdout.rindex("[") :]) == []
    assert down.returncode == 0
