"""Full, read-only and failing disks, real ones: the last checkpoint stays, the message says why, none is left half."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_disks
from PIL import Image
from small_runs import NUM_STEPS, model, recipe, train

from eighteen.base import recipe as recipes
from eighteen.base import rundir
from eighteen.training import checkpoint

PROGRAM = Path(__file__).with_name("small_disks.py")


def in_namespace(folder: Path, *commands: str) -> subprocess.CompletedProcess[str]:
    """Run commands that may mount disks which nobody else sees; the exit code is that of the last."""
    words = ["unshare", "--map-root-user", "--mount", "sh", "-c", "; ".join(commands)]
    return subprocess.run(words, capture_output=True, text=True, cwd=folder)


MOUNT = "mkdir disk && mount -t tmpfs -o size=3m tmpfs disk || exit 99"  # of 3 MB


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder where disks can be mounted."""
    place = tmp_path_factory.mktemp("place")
    if shutil.which("unshare") is None or in_namespace(place, MOUNT).returncode:
        pytest.skip("nobody may mount a disk in a namespace of its own here: unshare --map-root-user --mount")
    (place / "disk").rmdir()
    return place


@pytest.fixture(scope="module")
def met(place, data) -> dict[str, dict[str, Any]]:
    """What runs met, by the disk that they met it on."""
    (place / "disks").mkdir()
    done = in_namespace(place, shlex.join([sys.executable, str(PROGRAM), "disks", str(data.path)]))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def end(data, tmp_path_factory) -> str:
    """The digest of the weights of an undisturbed run."""
    run = train(data, tmp_path_factory.mktemp("whole"), model("broad"), "eval.every=6").run
    return small_disks.digests(checkpoint.newest(rundir.open(run)).path)["model.safetensors"]


def eighteen(*words: object) -> str:
    return shlex.join([sys.executable, "-m", "eighteen", *map(str, words)])


def noise(folder: Path, count: int, suffix: str) -> Path:
    """Pictures that do not shrink: two classes."""
    for number in range(count):
        path = folder / f"class {number % 2}" / f"{number:03d}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (200, 200, 3), np.uint8)
        Image.fromarray(pixels).save(path, quality=95)
    return folder


def test_the_checkpoint_before_stays_on_three_megabytes(met):
    found = met["saves"]
    assert found["same"]
    assert found["left"] == []
    assert found["code"] == 3
    assert "Unwritable: write " in found["said"]
    assert "model.safetensors: got ENOSPC (no space left on device) with " in found["said"]
    assert " bytes free, need 1,600,000 bytes for it.\n  Try: df -h" in found["said"]


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("full", "ENOSPC (no space left on device) with "),
        ("read_only", "EROFS (read-only file system)"),
        ("failing", "EIO (input/output error)"),
    ],
)
def test_a_run_on_a_disk_that_fails_ends_with_3_and_goes_on_later_to_the_same_end(met, end, what, said):
    found = met[what]
    assert found["code"] == 3
    assert "Unwritable: write " in found["said"]
    assert f": got {said}" in found["said"]
    assert found["same"], "the last checkpoint that was told of is the one that opens"
    assert found["num_saved"] == 3
    assert found["warnings"], "the run went on"
    assert all(said in warning and "the one before it stays" in warning for warning in found["warnings"])
    assert found["left"] == []
    assert found["step"] == NUM_STEPS
    assert found["end"] == end


def test_a_run_without_room_does_not_go_on(met):
    code, said = met["full"]["refused"]
    assert code == 4
    need = r"got \d{3},\d{3} bytes free on the disk of (.+), need at least \d\d,\d{3},\d{3} bytes"
    assert re.fullmatch(
        rf"MachineError: resume .*: {need}\.\n  Try: df -h \1; make room there, then .*--resume \1", said
    )


def test_a_run_without_room_is_not_begun(place, data):
    (place / "mine.toml").write_text(recipes.dump(recipe(model("broad"))))
    train = eighteen("train", data.path, "--recipe", "mine.toml", "--runs-dir", "disk/runs")
    done = in_namespace(place, MOUNT, train, "code=$?; ls -A disk >&2; exit $code")
    assert done.returncode == 4
    need = r"got 3,1\d\d,\d\d\d bytes free on the disk of disk/runs, need at least 3\d,\d\d\d,\d\d\d bytes"
    hint = "df -h disk/runs; make room there, or --runs-dir on another disk"
    assert re.fullmatch(rf"MachineError: train into disk/runs: {need}\.\n  Try: {hint}\n", done.stderr), done.stderr


def test_a_pack_without_room_is_not_begun(place, tmp_path):
    source = noise(tmp_path / "photos", 80, "jpg")
    done = in_namespace(tmp_path, MOUNT, eighteen("pack", source, "disk/p.e18"), "code=$?; ls -A disk >&2; exit $code")
    assert done.returncode == 4
    need = r"got 3,1\d\d,\d\d\d bytes free on the disk of disk/p.e18, need at least \d,\d\d\d,\d\d\d bytes"
    hint = f"df -h disk; make room there, or name another disk: eighteen pack {source} DEST"
    assert re.fullmatch(rf"MachineError: pack .* into disk/p.e18: {need}\.\n  Try: {hint}\n", done.stderr), done.stderr


def test_a_pack_that_finds_the_disk_full_leaves_nothing_half(place, tmp_path):
    source = noise(tmp_path / "photos", 60, "png")  # whose size as JPEGs cannot be known before
    pack, look = eighteen("pack", source, "disk/p.e18", "--quality", 100), "find disk -name '*.tmp' >&2"
    opens = "test -e disk/p.e18/dataset.json && echo opens >&2"
    done = in_namespace(tmp_path, MOUNT, pack, f"code=$?; {look}; {opens}; exit $code")
    assert done.returncode == 4
    said = done.stderr[done.stderr.index("MachineError: ") :]
    assert "full-00000.tar: got ENOSPC (no space left on device) with " in said
    assert " bytes free, need more room on its disk.\n  Try: df -h disk; then the same command again" in said
    assert said.count("\n") == 2, "no .tmp is left, and it does not open"
