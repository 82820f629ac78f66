"""What the trainer's tests share: nets that recipes can name, here and in the processes that tests start, and data."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

HERE = str(Path(__file__).parent)
sys.path.insert(0, HERE)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [HERE, os.environ.get("PYTHONPATH")]))

import small_runs  # noqa: E402  # found only now

import eighteen  # noqa: E402
from eighteen.data.dataset import Dataset  # noqa: E402


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """104 + 40 raw pictures of 16 x 16 in 4 classes."""
    train, val = small_runs.pictures(small_runs.NUM_TRAIN, seed=1), small_runs.pictures(40, seed=2)
    return eighteen.pack({"train": train, "val": val}, tmp_path_factory.mktemp("data") / "quarters.e18", procs=1)
