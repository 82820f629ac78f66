"""The lab, for tests that launch on real hosts; they are skipped where there can be none, or fail if REQUIRE_LAB=1."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from lab import Lab, missing


@pytest.fixture(scope="session")
def possible(tmp_path_factory: pytest.TempPathFactory) -> None:
    if why := missing(tmp_path_factory.mktemp("probe")):
        if os.environ.get("REQUIRE_LAB") == "1":
            pytest.fail(f"REQUIRE_LAB=1, but {why}", pytrace=False)
        pytest.skip(why)


@pytest.fixture
def lab(possible: None, tmp_path: Path) -> Iterator[Lab]:
    """A desk, and two hosts that have just been booted."""
    lab = Lab(tmp_path / "lab", ["node1", "node2"])
    try:
        lab.boot()
        yield lab
    finally:
        lab.close()
