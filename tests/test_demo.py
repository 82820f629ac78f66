"""The demo's pictures and its tour."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eighteen.base.errors import DataError
from eighteen.demo.pictures import CLASSES, THINGS, draw, picture
from eighteen.demo.tour import newest_run, run_demo

RECORDER = """#!/bin/sh
# stands for Python: notes the command, makes a run where train would, and exits as told
shift 2
echo "$@" >> {log}
if [ "$1" = train ]; then mkdir -p {run} && echo '{{}}' > {run}/status.json; fi
[ "$1" != "{interrupts}" ] || {{ kill -INT $PPID; exit 75; }}
[ "$1" != "{fails}" ] || exit 3
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.jpg"))}


def test_neither_the_texture_nor_the_shape_decides_the_class() -> None:
    for part in zip(*THINGS, strict=True):
        assert set(Counter(part).values()) == {2}
    assert len(set(THINGS)) == len(CLASSES) == 10


def test_the_same_seed_draws_the_same_files_with_any_number_of_processes(tmp_path: Path) -> None:
    for folder, procs in (("one", 1), ("two", 2)):
        draw(tmp_path / folder, num_samples=40, procs=procs)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert len(set(contents(tmp_path / "one").values())) == 40


def test_drawing_again_changes_no_byte_and_drawing_more_keeps_the_first(tmp_path: Path) -> None:
    draw(tmp_path, num_samples=10, procs=1)
    before = contents(tmp_path)
    draw(tmp_path, num_samples=20, procs=1)
    after = contents(tmp_path)
    assert len(after) == 20
    assert before.items() <= after.items()


def test_another_seed_draws_other_pictures() -> None:
    first, second = (np.asarray(picture(3, 1, seed=seed)[0]) for seed in (18, 19))
    assert first.shape != second.shape or (first != second).any()


def test_each_class_gets_as_many_pictures(tmp_path: Path) -> None:
    paths = draw(tmp_path, num_samples=30, procs=1)
    assert Counter(path.parent.name for path in paths) == dict.fromkeys(CLASSES, 3)


def test_pictures_are_rgb_jpegs_of_many_sizes(tmp_path: Path) -> None:
    paths = draw(tmp_path, num_samples=40, procs=1)
    sizes = set()
    for path in paths:
        with Image.open(path) as image:
            assert (image.format, image.mode) == ("JPEG", "RGB")
            assert min(image.size) >= 72
            assert max(image.size) <= 128
            sizes.add(image.size)
    assert len(sizes) > 20


def test_colours_do_not_tell_the_class() -> None:
    """The classes' mean colours lie no further apart than twice what chance gives."""
    drawn = [[picture(label, number, seed=18)[0] for number in range(40)] for label in range(10)]
    colours = np.array([[np.asarray(image).mean((0, 1)) for image in images] for images in drawn])
    spread = colours.mean(1).std(0, ddof=1)
    assert (spread < 2 * colours.std(1, ddof=1).mean(0) / np.sqrt(40)).all()


def test_drawing_refuses_a_folder_that_holds_something_else(tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    with pytest.raises(DataError, match=r"got 'cats' in it, which is not one of ours, need a new or an empty folder"):
        draw(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["cats"]


def record(folder: Path, monkeypatch: pytest.MonkeyPatch, *, fails: str = "", interrupts: str = "") -> Path:
    """Let the tour run a program that only writes commands down; returns the file that it writes to."""
    log, python = folder.with_suffix(".log"), folder.with_suffix(".sh")
    python.write_text(
        RECORDER.format(log=log, run=folder / "runs" / "demo-20180810", fails=fails, interrupts=interrupts)
    )
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    return log


def test_the_tour_runs_the_public_commands_and_shows_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "demo"
    log = record(folder, monkeypatch)
    assert run_demo(folder, num_samples=20) == 0
    ran = log.read_text().splitlines()
    assert [command.split()[0] for command in ran] == ["pack", "train", "eval", "predict"]
    shown = capfd.readouterr().out
    assert [line.removeprefix("$ eighteen ") for line in shown.splitlines() if line.startswith("$ ")] == ran
    assert f"eval {newest_run(folder / 'runs')} {folder}/pictures.e18" in ran
    assert "with your own pictures" in shown


@pytest.mark.parametrize("fails", ["pack", "train", "eval", "predict"])
def test_the_tour_stops_at_the_first_failure_with_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    log = record(tmp_path / "demo", monkeypatch, fails=fails)
    assert run_demo(tmp_path / "demo", num_samples=10) == 3
    assert log.read_text().splitlines()[-1].split()[0] == fails


def test_ctrl_c_waits_for_the_command_that_saves_and_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = record(tmp_path / "demo", monkeypatch, interrupts="train")
    assert run_demo(tmp_path / "demo", num_samples=10) == 75
    assert [command.split()[0] for command in log.read_text().splitlines()] == ["pack", "train"]


def test_a_second_tour_uses_the_packed_pictures_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "demo" / "pictures.e18").mkdir(parents=True)
    (tmp_path / "demo" / "pictures.e18" / "dataset.json").write_text("{}")
    log = record(tmp_path / "demo", monkeypatch)
    assert run_demo(tmp_path / "demo") == 0
    assert log.read_text().splitlines()[0].split()[0] == "train"
    assert not (tmp_path / "demo" / "pictures").exists()
