from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset.compat
from PIL import Image

from eighteen.base.errors import DataError, UsageError
from eighteen.data import dataset
from eighteen.data.pack import pack

SHARD_BYTES = 2**17


def _image(seed: int, width: int = 80, height: int = 70) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def _folder(
    root: Path, *counts: int, save: Callable[[Image.Image, Path], object] = lambda image, path: image.save(path)
) -> Path:
    """A folder of as many noisy JPEGs in each class."""
    for label, count in enumerate(counts):
        for number in range(count):
            path = root / f"class {label}" / f"{number:03d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            save(_image(1000 * label + number), path)
    return root


def _digests(root: Path) -> dict[str, str]:
    """Of all files but dataset.json, which says where the source was."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.name != "dataset.json")
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _sources(root: Path, split: str) -> list[str]:
    one = dataset.open(root).splits[split]
    return [one.source(sample) for sample in range(one.num_samples)]


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# What comes out


def test_a_pack_reports_what_it_did(tmp_path: Path) -> None:
    _folder(tmp_path / "photos", 20, 10)
    (tmp_path / "photos/class 0/notes.txt").touch()
    (tmp_path / "photos/class 0/broken.jpg").write_bytes(b"\xff\xd8\xff")
    _image(7, 90, 90).save(tmp_path / "photos/class 1/other.png")
    report = pack(tmp_path / "photos", tmp_path / "p.e18", procs=1)
    assert report.samples["train"][1] + report.samples["val"][1] == 11
    assert report.num_samples == 31
    assert report.sides == (70, 80, 90)
    assert report.converted == {"PNG": 1}
    assert report.ignored == {".txt file": 1}
    assert [(one.source, one.class_name) for one in report.refused] == [("class 0/broken.jpg", "class 0")]
    assert report.num_bytes == sum(path.stat().st_size for path in (tmp_path / "p.e18").rglob("*") if path.is_file())
    assert report.rows()[0] == ("class", "train", "val")
    assert report.rows()[-1][0] == "all"
    text = "\n".join(report.lines())
    assert "31 samples in 2 classes" in text
    assert "converted: 1 x PNG" in text
    assert "ignored: 1 x .txt file" in text
    assert "'class 0/broken.jpg': not a picture" in text


def test_refused_pictures_are_in_bad_csv_with_their_cause(tmp_path: Path) -> None:
    name = 'odd "name",\n猫.jpg'
    _folder(tmp_path / "photos", 5, 5)
    (tmp_path / "photos/class 1" / name).write_bytes(b"")
    pack(tmp_path / "photos", tmp_path / "p.e18", procs=1)
    (row,) = _rows(tmp_path / "p.e18/bad.csv")
    assert row["source"] == f"class 1/{name}"
    assert row["class"] == "class 1"
    assert row["split"] in ("train", "val")
    assert row["cause"] == "an empty file"


def test_bad_csv_is_there_when_nothing_is_bad(tmp_path: Path) -> None:
    pack(_folder(tmp_path / "photos", 3, 3), tmp_path / "p.e18", procs=1)
    assert (tmp_path / "p.e18/bad.csv").read_text() == "source,class,split,cause\n"


@pytest.mark.parametrize("name", ["a b", 'it\'s "quoted"', "two\nlines", "каша 猫", "..x", "%s{}"])
def test_classes_and_files_of_any_name_come_back(tmp_path: Path, name: str) -> None:
    _folder(tmp_path / "photos", 3, 3)
    (tmp_path / "photos/class 0").rename(tmp_path / "photos" / f"x{name}")
    (tmp_path / "photos" / f"x{name}" / "000.jpg").rename(tmp_path / "photos" / f"x{name}" / f"x{name}.jpg")
    pack(tmp_path / "photos", tmp_path / "p.e18", procs=1)
    assert f"x{name}" in dataset.open(tmp_path / "p.e18").classes
    assert f"x{name}/x{name}.jpg" in _sources(tmp_path / "p.e18", "train") + _sources(tmp_path / "p.e18", "val")


def test_train_is_shuffled_and_val_is_sorted(tmp_path: Path) -> None:
    pack(_folder(tmp_path / "photos", 40, 40), tmp_path / "p.e18", val=0.5, procs=1)
    opened = dataset.open(tmp_path / "p.e18")
    assert _sources(opened.path, "val") == sorted(_sources(opened.path, "val"))
    assert _sources(opened.path, "train") != sorted(_sources(opened.path, "train"))
    assert (
        0.2 < np.mean(np.diff(opened.splits["train"].labels) != 0) < 0.8
    )  # a mixed order changes class at half of its steps


# webdataset leaves its files to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_the_shards(tmp_path: Path) -> None:
    pack(_folder(tmp_path / "photos", 20, 20), tmp_path / "p.e18", procs=1, shard_bytes=SHARD_BYTES)
    split = dataset.open(tmp_path / "p.e18").splits["train"]
    full = split.renditions["full"]
    assert len(full.shards) > 1
    urls = [str(tmp_path / "p.e18" / shard) for shard in full.shards]
    reader: Any = webdataset.compat.WebDataset(urls, shardshuffle=False, empty_check=False)
    seen = list(reader.decode("rgb8").to_tuple("__key__", "jpg", "cls"))
    assert [key for key, _, _ in seen] == [f"{sample:08d}" for sample in range(36)]
    assert [label for _, _, label in seen] == split.labels.tolist()
    np.testing.assert_array_equal(seen[5][1], np.asarray(Image.open(io.BytesIO(full.read(5)))))


def test_shards_are_no_larger_than_asked(tmp_path: Path) -> None:
    pack(_folder(tmp_path / "photos", 30, 30), tmp_path / "p.e18", procs=1, shard_bytes=SHARD_BYTES, renditions=(35,))
    shards = sorted((tmp_path / "p.e18/train").glob("full-*.tar"))
    assert len(shards) > 2
    assert all(
        shard.stat().st_size <= SHARD_BYTES + 3 * 1024 for shard in shards
    )  # the last label and the end of the tar
    assert len(list((tmp_path / "p.e18/train").glob("35-*.tar"))) == len(shards)


def test_the_bytes_do_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    _folder(tmp_path / "photos", 70, 70)
    for procs in (1, 2):
        pack(tmp_path / "photos", tmp_path / f"{procs}.e18", procs=procs, renditions=(35,), shard_bytes=SHARD_BYTES)
    assert _digests(tmp_path / "1.e18") == _digests(tmp_path / "2.e18")
    assert dataset.open(tmp_path / "1.e18").digest == dataset.open(tmp_path / "2.e18").digest


def test_progress_ends_at_the_number_of_pictures(tmp_path: Path) -> None:
    calls: list[tuple[int, int, int]] = []
    _folder(tmp_path / "photos", 10, 10)
    report = pack(tmp_path / "photos", tmp_path / "p.e18", procs=1, on_progress=lambda *facts: calls.append(facts))
    assert [done for done, _, _ in calls] == list(range(1, 21))
    assert {total for _, total, _ in calls} == {20}
    assert 0.8 * report.num_bytes < calls[-1][2] < report.num_bytes


def test_mean_and_std_are_of_the_train_pixels(tmp_path: Path) -> None:
    for split, level in (("train", 51), ("val", 255)):
        for name in ("a", "b"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for number in range(3):
                pixels = np.full((80, 80, 3), level, np.uint8)
                pixels[:40, :, 0] += number if split == "train" else 0
                Image.fromarray(pixels).save(tmp_path / "photos" / split / name / f"{number}.png")
    pack(tmp_path / "photos", tmp_path / "p.e18", procs=1)
    opened = dataset.open(tmp_path / "p.e18")
    np.testing.assert_allclose(opened.mean, 0.2, atol=0.01)
    np.testing.assert_allclose(opened.std, 0.0, atol=0.01)


# Tiny pictures


def test_arrays_of_tiny_pictures_become_raw_pixels_bit_for_bit(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 28, 20), np.uint8)
    labels = np.arange(40) % 4
    report = pack({"train": (pixels, labels), "val": (pixels[:8], labels[:8])}, tmp_path / "p.e18")
    opened = dataset.open(tmp_path / "p.e18")
    assert opened.channels == 1
    assert opened.classes == ("0", "1", "2", "3")
    for name, split in opened.splits.items():
        stored = split.renditions["full"].pixels
        assert stored is not None
        for sample in range(split.num_samples):
            row = int(split.source(sample).removeprefix(f"{name}[").removesuffix("]"))
            np.testing.assert_array_equal(stored[sample, ..., 0], pixels[row])
            assert split.labels[sample] == labels[row]
    mean, std = pixels.mean() / 255, pixels.std() / 255
    np.testing.assert_allclose([*opened.mean, *opened.std], [mean, std], atol=1e-5)
    assert len({copy.group for copy in report.duplicates}) == 8


def test_files_of_tiny_pictures_become_raw_pixels(tmp_path: Path) -> None:
    def save(image: Image.Image, path: Path) -> None:
        image.resize((16, 12)).save(path.with_suffix(".png"))

    _folder(tmp_path / "photos", 6, 6, save=save)
    (tmp_path / "photos/class 0/bad.png").write_bytes(b"not one")
    pack(tmp_path / "photos", tmp_path / "p.e18", procs=1, renditions=(6,))
    opened = dataset.open(tmp_path / "p.e18")
    assert opened.channels == 3
    shapes = [one.pixels.shape for one in opened.splits["train"].renditions.values() if one.pixels is not None]
    assert shapes == [(10, 12, 16, 3), (10, 6, 8, 3)]
    source = tmp_path / "photos" / opened.splits["train"].source(4)
    np.testing.assert_array_equal(opened.splits["train"].renditions["full"].read_raw(4), np.asarray(Image.open(source)))


def test_tiny_pictures_of_different_sizes_stay_jpegs(tmp_path: Path) -> None:
    _folder(tmp_path / "photos", 3, 3, save=lambda image, path: image.resize((16, 12 + int(path.stem))).save(path))
    pack(tmp_path / "photos", tmp_path / "p.e18", procs=1)
    assert dataset.open(tmp_path / "p.e18").splits["train"].renditions["full"].kind == "jpeg"


def test_large_arrays_become_jpegs(tmp_path: Path) -> None:
    pixels = np.tile(np.linspace(0, 255, 100, dtype=np.uint8), (6, 80, 1))
    report = pack((pixels, np.array(list("ababab"))), tmp_path / "p.e18", procs=1)
    assert report.converted == {"array": 6}
    opened = dataset.open(tmp_path / "p.e18")
    assert opened.channels == 1
    image = Image.open(io.BytesIO(opened.splits["val"].renditions["full"].read(0)))
    assert np.abs(np.asarray(image).astype(int) - pixels[0]).max() < 8


# Splits, groups, duplicates


def test_groups_stay_together_in_the_dataset(tmp_path: Path) -> None:
    _folder(tmp_path / "photos", 20, 20)
    pack(tmp_path / "photos", tmp_path / "p.e18", val=0.3, group=r"(class \d/\d\d)", procs=1)
    groups = [{name[:10] for name in _sources(tmp_path / "p.e18", split)} for split in ("train", "val")]
    assert not groups[0] & groups[1]


def test_exact_duplicates_across_splits_are_listed(tmp_path: Path) -> None:
    for split in ("train", "val"):
        _folder(tmp_path / "photos" / split, 3, 3)
    others = ("class 0/000.jpg", "class 0/001.jpg", "class 0/002.jpg", "class 1/001.jpg", "class 1/002.jpg")
    for number, name in enumerate(others):
        _image(5000 + number).save(tmp_path / "photos/val" / name)
    train = tmp_path / "photos/train/class 1"
    shutil.copy(train / "001.jpg", train / "again.jpg")  # in one split: no leak
    report = pack(tmp_path / "photos", tmp_path / "p.e18", procs=1)
    assert [(one.source, one.split) for one in report.duplicates] == [
        ("train/class 1/000.jpg", "train"),
        ("val/class 1/000.jpg", "val"),
    ]
    assert [row["source"] for row in _rows(tmp_path / "p.e18/duplicates.csv")] == [
        one.source for one in report.duplicates
    ]
    assert "the same picture in several splits or classes: 2" in "\n".join(report.lines())


# Killed, continued, refused


@pytest.fixture
def killed(tmp_path: Path) -> tuple[Path, Path]:
    """Photos, and a pack of them that was killed after 60 of 80 pictures."""
    photos, dest = _folder(tmp_path / "photos", 40, 40), tmp_path / "p.e18"
    code = f"""
import os, signal
from eighteen.data.pack import pack
def kill(done, total, num_bytes):
    if done == 60:
        os.kill(os.getpid(), signal.SIGKILL)
pack({str(photos)!r}, {str(dest)!r}, shard_bytes={SHARD_BYTES}, procs=1, on_progress=kill)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    return photos, dest


def test_a_killed_pack_does_not_open_and_goes_on_where_it_was(killed: tuple[Path, Path], tmp_path: Path) -> None:
    photos, dest = killed
    with pytest.raises(DataError, match="the pack never finished"):
        dataset.open(dest)
    done: list[int] = []
    report = pack(photos, dest, shard_bytes=SHARD_BYTES, procs=1, on_progress=lambda *facts: done.append(facts[0]))
    assert report.kept >= 2
    assert 20 < done[0] < 60
    assert done[-1] == 80
    pack(photos, tmp_path / "whole.e18", shard_bytes=SHARD_BYTES, procs=1)
    assert _digests(dest) == _digests(tmp_path / "whole.e18")
    assert not list(dest.rglob(".*"))


@pytest.mark.parametrize("change", ["option", "source", "shard"])
def test_a_killed_pack_starts_again_where_things_have_changed(
    killed: tuple[Path, Path], tmp_path: Path, change: str
) -> None:
    photos, dest = killed
    if change == "source":
        _image(1).save(photos / "class 0/new.jpg")
    if change == "shard":
        (dest / "train/full-00000.tar").write_bytes(b"cut")
    options: dict[str, Any] = {"shard_bytes": SHARD_BYTES, "quality": 80 if change == "option" else 90}
    assert pack(photos, dest, procs=1, **options).kept == 0
    pack(photos, tmp_path / "whole.e18", procs=1, **options)
    assert _digests(dest) == _digests(tmp_path / "whole.e18")


def test_the_same_pack_again_does_nothing(tmp_path: Path) -> None:
    _folder(tmp_path / "photos", 5, 5)
    first = pack(tmp_path / "photos", tmp_path / "p.e18", procs=1)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "p.e18").rglob("*")}
    again = pack(tmp_path / "photos", tmp_path / "p.e18", procs=1)
    assert again.samples == first.samples
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "p.e18").rglob("*")} == before


def test_another_dataset_is_overwritten_by_force_only(tmp_path: Path) -> None:
    _folder(tmp_path / "photos", 5, 5)
    pack(tmp_path / "photos", tmp_path / "p.e18", procs=1, renditions=(35,))
    with pytest.raises(DataError, match=r"a finished dataset there, made from something else.*\n  Try: .* --force"):
        pack(tmp_path / "photos", tmp_path / "p.e18", procs=1)
    assert "35" in dataset.open(tmp_path / "p.e18").splits["train"].renditions
    pack(tmp_path / "photos", tmp_path / "p.e18", procs=1, force=True)
    assert not list((tmp_path / "p.e18").rglob("35*"))


def test_force_replaces_a_broken_dataset(tmp_path: Path) -> None:
    _folder(tmp_path / "photos", 5, 5)
    pack(tmp_path / "photos", tmp_path / "p.e18", procs=1)
    (tmp_path / "p.e18/train/full-00000.tar").write_bytes(b"cut")
    with pytest.raises(DataError, match="--force"):
        pack(tmp_path / "photos", tmp_path / "p.e18", procs=1)
    assert pack(tmp_path / "photos", tmp_path / "p.e18", procs=1, force=True).num_samples == 10


def test_force_keeps_the_dataset_if_the_source_is_bad(tmp_path: Path) -> None:
    pack(_folder(tmp_path / "photos", 5, 5), tmp_path / "p.e18", procs=1)
    with pytest.raises(DataError, match="one class only"):
        pack(_folder(tmp_path / "few", 5), tmp_path / "p.e18", procs=1, force=True)
    dataset.open(tmp_path / "p.e18")


def test_folders_and_files_that_are_not_ours_are_left_alone(tmp_path: Path) -> None:
    _folder(tmp_path / "photos", 5, 5)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("years of work")
    (tmp_path / "file.e18").write_text("x")
    for force in (False, True):
        with pytest.raises(DataError, match="got a folder with other things in it"):
            pack(tmp_path / "photos", tmp_path / "mine", procs=1, force=force)
        with pytest.raises(DataError, match="got a file"):
            pack(tmp_path / "photos", tmp_path / "file.e18", procs=1, force=force)
        with pytest.raises(DataError, match="got a dataset inside the source itself"):
            pack(tmp_path / "photos", tmp_path / "photos/p.e18", procs=1, force=force)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_two_packs_into_one_place_do_not_meet(tmp_path: Path) -> None:
    _folder(tmp_path / "photos", 5, 5)
    (tmp_path / "p.e18").mkdir()
    descriptor = os.open(tmp_path / "p.e18", os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another pack at work there"):
            pack(tmp_path / "photos", tmp_path / "p.e18", procs=1)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("counts", [(), (5,), (5, 1)])
def test_a_bad_source_leaves_nothing_behind(tmp_path: Path, counts: tuple[int, ...]) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError):
        pack(_folder(tmp_path / "photos", *counts), tmp_path / "p.e18", procs=1)
    assert not (tmp_path / "p.e18").exists()


def test_a_class_that_loses_all_its_pictures_is_said_and_nothing_opens(tmp_path: Path) -> None:
    _folder(tmp_path / "photos", 5, 5)
    for path in (tmp_path / "photos/class 1").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="no train pictures of class 'class 1' that could be read"):
        pack(tmp_path / "photos", tmp_path / "p.e18", procs=1)
    assert len(_rows(tmp_path / "p.e18/bad.csv")) == 5
    with pytest.raises(DataError, match="the pack never finished"):
        dataset.open(tmp_path / "p.e18")


def test_a_full_disk_is_a_clear_error_and_nothing_opens(tmp_path: Path) -> None:
    _folder(tmp_path / "photos", 40, 40)
    code = f"""
import resource
from eighteen.base.errors import MachineError
from eighteen.data.pack import pack
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))  # as a full disk, for each file
try:
    pack({str(tmp_path / "photos")!r}, {str(tmp_path / "p.e18")!r}, procs=1)
except MachineError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "full-00000.tar: got EFBIG (file too large), need a disk that can be written to" in result.stdout
    assert "the same command again: finished shards are kept" in result.stdout
    with pytest.raises(DataError, match="the pack never finished"):
        dataset.open(tmp_path / "p.e18")
    assert not list((tmp_path / "p.e18/train").iterdir())
    assert pack(tmp_path / "photos", tmp_path / "p.e18", procs=1).num_samples == 80


@pytest.mark.parametrize(
    "options",
    [
        {"val": 1.0},
        {"val": -0.1},
        {"val": 0.6, "test": 0.6},
        {"procs": 0},
        {"quality": 0},
        {"max_side": 0},
        {"renditions": (0,)},
        {"renditions": (96, 96)},
        {"shard_bytes": 1},
    ],
)
def test_options_that_cannot_be(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="Try: "):
        pack(_folder(tmp_path / "photos", 2, 2), tmp_path / "p.e18", **options)


def test_dataset_json_says_how_it_was_made(tmp_path: Path) -> None:
    pack(_folder(tmp_path / "photos", 5, 5), tmp_path / "p.e18", procs=1, seed=3)
    facts = json.loads((tmp_path / "p.e18/dataset.json").read_text())
    assert (facts["format"], facts["version"]) == ("eighteen", 1)
    assert facts["made"]["source"] == str(tmp_path / "photos")
    assert facts["made"]["options"]["seed"] == 3
    for stored in (facts["bad"], facts["splits"]["train"]["renditions"]["full"]["shards"][0]):
        content = (tmp_path / "p.e18" / stored["file"]).read_bytes()
        assert (stored["bytes"], stored["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
