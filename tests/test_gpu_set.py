"""benchmarks/gpu/run.sh with small numbers: the same code, on a machine without a GPU."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SET = Path(__file__).parents[1] / "benchmarks" / "gpu"


def measured(out: Path, *words: str) -> dict:
    settings = {"PYTHON": sys.executable, "OUT": str(out), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [SET / "run.sh", "--small", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | settings)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_one_json_holds_what_every_part_found_and_why_one_failed(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR10", str(tmp_path / "nowhere.e18"))
    found = measured(tmp_path, "tiny", "environment")
    assert "exit code 1" in found["tiny"]["failed"]
    assert "nowhere.e18" in found["tiny"]["failed"]
    assert "failed" not in found["environment"]
    assert (found["small"], len(found["environment"]["ceilings"])) == (True, 5)
    assert (tmp_path / "environment.log").exists()


def test_a_part_has_no_more_than_its_time(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(SET))
    measure = importlib.import_module("measure")
    monkeypatch.setitem(measure.SMALL.seconds, "tiny", 1.0)
    found = measure.run(["tiny"], tmp_path, small=True)
    assert found["tiny"]["failed"].startswith("cut off after 1 s")
    assert sum(measure.FULL.seconds.values()) <= measure.WHOLE_S < 540


@pytest.mark.soak
def test_every_part_finds_something(tmp_path):
    found = measured(tmp_path)
    for part in ("environment", "tests", "agreement", "eager", "compiled", "loader", "tiny"):
        assert "failed" not in found[part], part
    assert found["loader"]["real_over_synthetic"] > 0
    assert found["tiny"]["n"] == 2
