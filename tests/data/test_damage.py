"""Packs that rot, are cut or lose pages: nothing that is not as it was packed is read without a word.

Damage of a sample is raised, with its shard and number, when it is read; damage of a file that all depends on when the
dataset is opened; all other, which changes no sample, is found by ``check``.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from eighteen.base.errors import DataError
from eighteen.data import dataset
from eighteen.data.check import check
from eighteen.data.decoding import decoder
from eighteen.data.pack import pack

PAGE, BLOCK = 4096, 512


@pytest.fixture(scope="module", params=["jpegs", "raws"])
def root(request, pictures, tmp_path_factory) -> Path:
    """A dataset that the tests damage and mend again."""
    folder = tmp_path_factory.mktemp("damage")
    source = (np.random.default_rng(0).integers(0, 256, (24, 12, 8, 3), np.uint8), np.arange(24) % 3)
    if request.param == "jpegs":
        source = folder / "pictures"
        for path in sorted(pictures.rglob("000[1-8].jpg")):
            (source / path.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, source / path.parent.name)
    pack(source, folder / "p.e18", val=0.2, renditions=(40,) if request.param == "jpegs" else (), procs=1)
    return folder / "p.e18"


def files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def read_all(root: Path) -> None:
    """Open, and read and decode every sample of every rendition."""
    made = decoder(1)
    for split in dataset.open(root).splits.values():
        for rendition in split.renditions.values():
            num = split.num_samples
            out, flips = np.zeros((num, 8, 8, 3), np.uint8), np.zeros(num, bool)
            boxes = np.tile(np.array([0, 0, 8, 8], np.float32), (num, 1))
            made.start(rendition, np.arange(num), boxes, flips, out).result().whole()
    made.close()


def found_in(root: Path, path: Path, offset: int) -> str:
    """How the damage of a file at some place is found: "open", "read", "check". It must be, and must name the file."""
    name, error = path.relative_to(root).as_posix(), failure(read_all, root)
    if error is None:
        assert is_found_by_check(root, name), f"damage of {name} at {offset} is silent"
        return "check"
    assert error.exit_code == 3
    if not error.tried.startswith(("read sample", "decode sample")):
        assert name in error.tried
        return "open"
    split, rendition = path.parent.name, path.name.split("-")[0].split(".")[0]
    assert error.tried.split(" of ")[1].startswith(f"{split}/{rendition}")
    if path.suffix == ".tar" or path.name.endswith(".raw.npy"):
        row = np.load(root / split / f"{rendition}.index.npy")[int(error.tried.split()[2])]
        assert offset - int(row["length"]) < row["offset"] < offset + PAGE
    return "read"


def failure(call: Callable[[Path], object], root: Path) -> DataError | None:
    try:
        call(root)
    except DataError as error:
        return error
    return None


def is_found_by_check(root: Path, name: str) -> bool:
    return any(problem.file == name for problem in check(root, procs=1).problems)


def damaged(root: Path, path: Path, offset: int, content: bytes) -> str | None:
    """As ``found_in``, with ``content`` in place of what is there; None if it is there already."""
    whole = path.read_bytes()
    changed = whole[:offset] + content + whole[offset + len(content) :]
    if changed == whole:
        return None
    path.write_bytes(changed)
    try:
        return found_in(root, path, offset)
    finally:
        path.write_bytes(whole)


def flips(root: Path, num: int, seed: int) -> Iterator[tuple[Path, int, int]]:
    """Half of them anywhere in the dataset, by bytes; half in a file drawn first, so that small ones are met too."""
    rng, every = np.random.default_rng(seed), files(root)
    sizes = np.array([path.stat().st_size for path in every], np.float64)
    for number in range(num):
        path = every[rng.choice(len(every), p=sizes / sizes.sum()) if number % 2 else rng.integers(len(every))]
        yield path, int(rng.integers(path.stat().st_size)), 1 << int(rng.integers(8))


def flip_all(root: Path, num: int, seed: int) -> dict[str, int]:
    counts = {"open": 0, "read": 0, "check": 0}
    for path, offset, bit in flips(root, num, seed):
        how = damaged(root, path, offset, bytes([path.read_bytes()[offset] ^ bit]))
        assert how is not None
        counts[how] += 1
    return counts


def test_no_flipped_bit_is_silent(root: Path) -> None:
    read_all(root)
    assert sum(flip_all(root, 60, seed=18).values()) == 60


@pytest.mark.soak
def test_none_of_500_more_in_each_kind_of_pack_is_silent(root: Path) -> None:
    counts = flip_all(root, 500, seed=4)
    print(counts)
    assert min(counts.values()) > 0


def cuts(root: Path, every: int) -> Iterator[tuple[Path, int]]:
    for path in files(root):
        yield from ((path, length) for length in range(0, path.stat().st_size, BLOCK * every))


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.soak)])
def test_no_cut_is_silent_and_all_are_found_when_the_dataset_is_opened(root: Path, every: int) -> None:
    for path, length in cuts(root, every):
        whole = path.read_bytes()
        path.write_bytes(whole[:length])
        try:
            with pytest.raises(DataError, match=path.relative_to(root).as_posix()):
                dataset.open(root)
        finally:
            path.write_bytes(whole)


def test_a_tar_that_was_cut_at_a_member_border_is_no_shorter_dataset(root: Path) -> None:
    """Even if dataset.json were made to believe in its length."""
    for path in files(root):
        if path.suffix == ".tar":
            whole, index = path.read_bytes(), np.load(path.parent / f"{path.name.split('-')[0]}.index.npy")
            border = int(index["offset"][-1]) - BLOCK
            path.write_bytes(whole[:border] + bytes(2 * BLOCK))
            try:
                assert found_in(root, path, border) == "open"
                assert any("ends too early" in problem.cause for problem in check(root, procs=1).problems)
            finally:
                path.write_bytes(whole)


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.soak)])
def test_no_page_of_zeros_is_silent(root: Path, every: int) -> None:
    for path in files(root):
        num_bytes = path.stat().st_size
        for first in range(0, num_bytes, PAGE * every):
            damaged(root, path, first, bytes(min(PAGE, num_bytes - first)))
