"""What all tests share: one thread for torch, drawn pictures, and the rule for tests that need a GPU."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from eighteen.demo.pictures import CLASSES, picture

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, here and in the processes that tests start


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 3 classes of 40 drawn JPEGs each, sides of 72 to 128 pixels. Shared: read it or copy it."""
    folder = tmp_path_factory.mktemp("drawn") / "pictures"
    for label, name in enumerate(CLASSES[:3]):
        (folder / name).mkdir(parents=True)
        for number in range(1, 41):
            image, quality = picture(label, number, seed=18)
            image.save(folder / name / f"{number:04d}.jpg", quality=quality)
    return folder


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test marked ``gpu`` where there is none; fail it under REQUIRE_GPU=1, so that none passes by skipping."""
    if item.get_closest_marker("gpu") and not _has_gpu():
        if os.environ.get("REQUIRE_GPU") == "1":
            pytest.fail("REQUIRE_GPU=1, but torch sees no CUDA device", pytrace=False)
        pytest.skip("torch sees no CUDA device")


def _has_gpu() -> bool:
    import torch  # here, so that sessions without such a test do not wait for it

    return torch.cuda.is_available()
