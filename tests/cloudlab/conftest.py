"""The lab, for tests that launch on real hosts; they are skipped where there can be none, or fail if REQUIRE_LAB=1."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import eighteen
from eighteen import Dataset

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / name) for name in ("cloudlab", "data", "training")]  # what answers as others do is there

from lab import Lab, missing  # noqa: E402


@pytest.fixture(scope="session")
def possible(tmp_path_factory: pytest.TempPathFactory) -> None:
    if why := missing(tmp_path_factory.mktemp("probe")):
        if os.environ.get("REQUIRE_LAB") == "1":
            pytest.fail(f"REQUIRE_LAB=1, but {why}", pytrace=False)
        pytest.skip(why)


@pytest.fixture(scope="session")
def packed(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return eighteen.pack(pictures, tmp_path_factory.mktemp("here") / "photos.e18", procs=1)


@pytest.fixture(scope="module")
def lab(possible: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A desk, and two hosts that keep what the tests of a module leave there."""
    lab = Lab(tmp_path_factory.mktemp("lab"), ["node1", "node2"])
    try:
        lab.boot()
        yield lab
    finally:
        lab.close()
