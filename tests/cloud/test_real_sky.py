"""Launches with SkyPilot itself, whose clouds are moto and a server before it: see ``real_sky``.

They need root, and SkyPilot 0.14.1 and moto in an environment of their own, whose programs EIGHTEEN_SKY names:

    python3.11 -m venv sky && sky/bin/pip install 'skypilot[aws]==0.14.1' 'moto[server]'
    EIGHTEEN_SKY=$PWD/sky/bin sh tests/cloud/bake.sh $PWD/hosts
    EIGHTEEN_SKY=$PWD/sky/bin EIGHTEEN_SKY_HOSTS=$PWD/hosts make soak-cloud
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
    seen, said = seen_of("rent", tmp_path, words), (tmp_path / "said.log").read_text()
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


@pytest.mark.soak_cloud
def test_what_is_shown_is_a_dry_run_on_three_clouds_and_rents_nothing(possible, packed, tmp_path):
    seen = seen_of("dry", tmp_path, ["launch", str(packed.path), "--machines", "2", "--spot", "--recipe", "demo"])
    for name, chosen in {"aws": "us-east-1", "gcp": "us-east4-b", "azure": "westus2"}.items():
        assert seen[name]["code"] == 0, seen[name]["said"]
        assert f"({chosen}" in seen[name]["said"]
        assert "[Spot]" in seen[name]["said"]
    assert seen["began"] == seen["left"] == []


@pytest.mark.soak_cloud
def test_two_machines_train_and_one_that_is_lost_is_replaced_beside_it(possible, packed, tmp_path):
    if not Path(os.environ.get("EIGHTEEN_SKY_HOSTS", "-"), "home/ubuntu/skypilot-runtime").is_dir():
        pytest.skip("EIGHTEEN_SKY_HOSTS names no folder that tests/cloud/bake.sh has made")
    words = ["launch", str(packed.path), "--cloud", "aws", "--gpu", "L4", "--machines", "2", "--spot"]
    words += ["--region", "us-east-1", "--max-hours", "2", "--yes", "--procs", "1", "--python", sys.executable]
    words += ["--recipe", "demo", "--epochs", "100000", "--set", "phases.0.size=32", "--set", "eval.size=32"]
    seen, said = seen_of("whole", tmp_path, words), (tmp_path / "said.log").read_text()
    assert seen["code"] == 130, said
    assert seen["left"] == []
    first, lost = seen["hosts"]
    assert seen["now"][0] == first
    assert lost not in seen["now"]
    assert len(seen["now"]) == 2
    assert [one["most"] for one in seen["began"] if not one["is_refused"]] == ["2", "1"]
    (run,) = (tmp_path / "runs").iterdir()
    known = (run / "launch" / "ssh" / "known_hosts").read_text()
    assert known.startswith("* ssh-ed25519 ")  # no key was written down at a first contact
    assert known.count("\n") == 1
    assert [*run.glob("checkpoints/step-*")]


def seen_of(verb, folder, words):
    script = Path(__file__).with_name("real_sky.py")
    subprocess.run([*ALONE, sys.executable, str(script), verb, str(folder), *words], check=True)
    return json.loads((folder / "seen.json").read_text())
