"""Launches with SkyPilot itself, whose clouds are moto and a server before it: see ``real_sky``.

They need root, and SkyPilot 0.14.1 and moto in an environment of their own, whose programs EIGHTEEN_SKY names:

    python3.11 -m venv sky && sky/bin/pip install 'skypilot[aws]==0.14.1' 'moto[server]'
    EIGHTEEN_SKY=$PWD/sky/bin make soak-cloud
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from real_sky import ALONE, REGIONS

PROGRAMS = Path(os.environ.get("EIGHTEEN_SKY", ""))


@pytest.fixture(scope="module")
def possible():
    if not os.environ.get("EIGHTEEN_SKY"):
        pytest.skip("EIGHTEEN_SKY does not name the programs of SkyPilot and moto")
    missing = [name for name in ("sky", "moto_server") if not (PROGRAMS / name).is_file()]
    if missing:
        pytest.skip(f"EIGHTEEN_SKY={PROGRAMS} has no {' and no '.join(missing)}")
    if os.geteuid() or subprocess.run([*ALONE, "ip", "link", "set", "lo", "up"], capture_output=True).returncode:
        pytest.skip("a network and processes of one's own need root")


@pytest.mark.soak_cloud
def test_skypilot_rents_in_the_next_cheapest_zone_and_gives_back_after_ctrl_c(possible, packed, tmp_path):
    words = ["launch", str(packed.path), "--cloud", "aws", "--gpu", "L4", "--machines", "2", "--spot", "--cheapest"]
    words += ["--max-hours", "2", "--recipe", "demo", "--yes"]
    script = Path(__file__).with_name("real_sky.py")
    subprocess.run([*ALONE, sys.executable, str(script), str(tmp_path), *words], check=True)
    seen, said = json.loads((tmp_path / "seen.json").read_text()), (tmp_path / "said.log").read_text()
    assert f"2 x aws L4 spot: g6.2xlarge us-east-1a; if it has none, the next of {2 * len(REGIONS)}" in said
    assert "price: $0.4 an hour each, $0.8 together (DescribeSpotPriceHistory and GetProducts of AWS, 20" in said
    assert f"at most: 2 h, ${2 * 2 * 0.81:.4g};" in said
    assert "us-east-1a: none to be had" in said
    told = {(one["zone"], one["instance"], one["is_spot"], one["most"], one["is_refused"]) for one in seen["began"]}
    assert told == {
        ("us-east-1a", "g6.2xlarge", True, "2", True),
        ("us-east-1b", "g6.2xlarge", True, "2", False),
    }
    assert all("eighteen-launch" in one["tags"] for one in seen["began"])
    assert len(seen["before"]) == 2
    assert seen["left"] == []
    assert seen["code"] == 130, said
