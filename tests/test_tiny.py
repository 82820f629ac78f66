"""The whole chain in seconds, by the commands that a person types: pack, check, preview, train, eval, predict."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from eighteen.base import recipe as recipes
from eighteen.base import rundir

SMALL = ("--set", "phases.0.size=32", "--set", "eval.size=32", "--set", "eval.every=1", "--set", "train.log_every=2")


def eighteen(folder: Path, *words: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "eighteen", *map(str, words)]
    return subprocess.run(command, cwd=folder, input=stdin, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def chain(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder in which ``train PICTURES`` has packed beside itself and trained two epochs, and the run."""
    folder = tmp_path_factory.mktemp("chain")
    (folder / "pictures").symlink_to(pictures)
    done = eighteen(folder, "pack", pictures, "pictures.e18")
    assert done.returncode == 0, done.stderr
    done = eighteen(folder, "train", "pictures.e18", "--recipe", "demo", "--epochs", "2", "--batch", "16", *SMALL)
    assert done.returncode == 0, done.stderr
    return folder, folder / done.stdout.strip()


def test_a_run_folder_says_all_about_itself(chain):
    _, run = chain
    assert {path.name for path in run.iterdir()} >= {
        "recipe.toml",
        "command.txt",
        "env.json",
        "events.jsonl",
        "log.txt",
        "status.json",
        "checkpoints",
        "tensorboard",
        "eval",
    }
    assert json.loads((run / "status.json").read_text())["state"] == "done"
    assert list((run / "tensorboard").iterdir())
    recipe = recipes.load(str(run / "recipe.toml"))
    assert (recipe.epochs, recipe.phases[0].batch, recipe.phases[0].size) == (2, 16, 32)


def test_the_log_has_the_line_of_the_2018_program_after_each_epoch(chain):
    _, run = chain
    lines = [line.split("\t") for line in (run / "log.txt").read_text().splitlines() if line.startswith("~~")]
    assert lines[0] == ["~~epoch", "hours", "top1", "top5"]
    assert [line[0] for line in lines[1:]] == ["~~1", "~~2"]
    assert all(0 <= float(top1) <= float(top5) <= 100 for _, _, top1, top5 in lines[1:])


def test_events_say_where_the_time_went_and_what_rate_was_used(chain):
    _, run = chain
    from eighteen.base.events import read
    from eighteen.base.schedule import schedule

    events = list(read(rundir.open(run).events))
    assert [event["event"] for event in events[:2]] == ["start", "phase"]
    assert events[-1]["event"] == "end"
    plan = schedule(recipes.load(str(run / "recipe.toml")), events[0]["num_samples"])
    steps = [event for event in events if event["event"] == "step"]
    assert [event["lr"] for event in steps] == [plan.at(event["step"]).lr for event in steps]
    for event in steps:
        assert sum(event["waits"].values()) == pytest.approx(1, abs=1e-6)
        assert set(event["waits"]) == {"data", "compute", "communication", "other"}


def test_check_eval_and_predict_go_on_from_there(chain, pictures):
    folder, run = chain
    done = eighteen(folder, "check", "pictures.e18")
    assert (done.returncode, "every byte is as it was packed" in done.stdout) == (0, True), done.stderr
    done = eighteen(folder, "eval", run, "pictures.e18")
    assert done.returncode == 0, done.stderr
    summary = json.loads((run / "eval" / "pictures-val" / "summary.json").read_text())
    assert summary["num_samples"] == 12
    assert (run / "eval" / "pictures-val" / "confusion.png").read_bytes().startswith(b"\x89PNG")
    listed = "\n".join(str(path) for path in sorted(pictures.glob("*/000[12].jpg")))
    done = eighteen(folder, "predict", run, "-", "--top", "2", "--format", "jsonl", stdin=listed)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["path"] for row in rows] == listed.splitlines()
    assert all(len(row["top"]) == 2 and 0 < row["probability"] <= 1 for row in rows)


def test_a_picture_that_cannot_be_read_is_told_and_the_others_predicted(chain, pictures, tmp_path):
    folder, run = chain
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "good.jpg").write_bytes(next(pictures.glob("*/*.jpg")).read_bytes())
    done = eighteen(folder, "predict", run, tmp_path, "--out", tmp_path / "rows.csv")
    assert done.returncode == 3
    assert "1 that cannot be read" in done.stderr
    rows = (tmp_path / "rows.csv").read_text().splitlines()
    assert len(rows) == 3
    assert "not a picture" in rows[1]
    assert rows[2].startswith(str(tmp_path / "good.jpg"))


def test_train_packs_a_folder_beside_itself_and_says_where(chain, tmp_path):
    import shutil

    folder, _ = chain
    shutil.copytree(folder / "pictures", tmp_path / "photos")
    options = ("--recipe", "demo", "--epochs", "0.2", "--batch", "8", *SMALL)
    done = eighteen(tmp_path, "train", "photos", *options)
    assert done.returncode == 0, done.stderr
    assert f"into {tmp_path / 'photos.e18'}" in done.stderr
    assert (tmp_path / "photos.e18" / "dataset.json").is_file()


def test_preview_draws_a_sheet(chain):
    folder, _ = chain
    done = eighteen(folder, "preview", "pictures.e18", "--recipe", "demo", "--count", "6", "--out", "sheet.png")
    assert done.returncode == 0, done.stderr
    assert (folder / "sheet.png").read_bytes().startswith(b"\x89PNG")
