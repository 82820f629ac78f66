"""What all tests share: one thread for torch, drawn pictures, and the rule for tests that not every machine can run."""

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
    """Skip a test marked ``gpu`` or ``native`` where there is none; fail it under REQUIRE_GPU=1 or REQUIRE_NATIVE=1, so
    that none passes by skipping.
    """
    needs = {"gpu": (_has_gpu, "torch sees no CUDA device"), "native": (_has_native, "the native decoder is not built")}
    for mark, (is_there, why) in needs.items():
        if item.get_closest_marker(mark) and not is_there():
            if os.environ.get(f"REQUIRE_{mark.upper()}") == "1":
                pytest.fail(f"REQUIRE_{mark.upper()}=1, but {why}", pytrace=False)
            pytest.skip(why)


def _has_gpu() -> bool:
    import torch  # here, so that sessions without such a test do not wait for it

    return torch.cuda.is_available()


def _has_native() -> bool:
    from eighteen.data.native import library

    return library() is not None
