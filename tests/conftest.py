"""What all tests share: one thread for torch, drawn pictures, and the rule for tests that not every machine can run."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from eighteen.advice.parts import Parts, part
from eighteen.base.machine import look
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


@pytest.fixture
def machine_parts(tmp_path: Path) -> Parts:
    """Of a machine with two processors on which a step takes 2 ms and 10 ms for each picture of 64 px, evaluating 3."""
    pixels = {64: 1.0, 128: 4.0}
    parts = [
        part("run", [0.002 + 0.01 * grown * batch / ranks] * 3, batch, "pictures", of="step", ranks=ranks, size=size)
        for size, grown in pixels.items()
        for ranks in (1, 2)
        for batch in (32, 64)
    ]
    steps = {"data": 0.1, "communication": 0.0, "memory_bytes": 10**9}
    parts = [replace(one, about={**one.about, **steps}) for one in parts]
    for ranks in (1, 2):
        for of, seconds in {"start": 5.0 * ranks, "phase": 0.5, "end": 0.25}.items():
            parts.append(part("run", [seconds], 1, "times", of=of, ranks=ranks))
        parts.append(part("run", [0.1, 0.1], 5e6, "B", of="save", ranks=ranks))
        parts.append(part("run", [3.0 / ranks], 1000, "pictures", of="evaluate", ranks=ranks, size=64))
    for size, grown in pixels.items():
        parts.append(part("step", [0.64 * grown], 64, "pictures", size=size, of="all"))
        parts.append(part("step", [0.32 * grown], 64, "pictures", size=size, of="backward"))
        for rendition, seconds in (("full", 0.002), ("kept", 0.0005)):
            about = {"size": size, "threads": 1, "rendition": rendition, "cpu_s": seconds * grown}
            parts.append(part("decode", [1.0], 256, "pictures", **about))
    parts += [
        part("all-reduce", [seconds], amount, "B", ranks=2, where="here")
        for seconds, amount in ((1e-3, 4), (0.011, 4e6))
    ]
    machine = replace(look(tmp_path, watch_s=0.0), cpus=2.0)
    model = "eighteen.training.compact:CompactNet"
    return Parts(machine, "p.e18", "small", model, 1_000_000, "cpu", "float32", 2, parts)
