"""Copies of checkpoints: whole or not counted, verified when they come back, and never the end of a run."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
import torch
from small_runs import NUM_STEPS, differing, happened, recipe, saved, train

import eighteen
from eighteen.base import recipe as recipes
from eighteen.base import rundir
from eighteen.base.errors import DataError, MachineError, Stopped, UsageError
from eighteen.base.rundir import RunDir
from eighteen.training import checkpoint, copies


@pytest.fixture
def run(tmp_path) -> RunDir:
    return rundir.create(tmp_path / "runs", "small", recipe=recipe(), command="train", environment={})


@pytest.fixture(params=["path", "file://", "memory://"])
def url(request, tmp_path) -> str:
    """A place to copy to: a mounted path, and what fsspec reaches."""
    if request.param == "memory://":
        fsspec.filesystem("memory").store.clear()
        return f"memory://bucket/{tmp_path.name}"
    return f"{'' if request.param == 'path' else 'file://'}{tmp_path}/else where"


def save(run: RunDir, step: int) -> Path:
    tensors = {"model": {"w": torch.full((99,), step)}}
    return checkpoint.save(run.checkpoints, tensors=tensors, state={"step": step, "best_checkpoint": None})


def copy(run: RunDir, path: Path, url: str, best: str | None = None) -> None:
    checkpoint.prune(run, keep=best)
    copies.copy(run, path, url, kept={path.name for path in checkpoint.committed(run)})


def there(run: RunDir, url: str, *names: str) -> tuple[fsspec.AbstractFileSystem, str]:
    files, path = fsspec.url_to_fs(url)
    return files, "/".join([path, run.path.name, *names])


def names(run: RunDir, url: str, *folders: str) -> list[str]:
    files, path = there(run, url, *folders)
    return sorted(found.rstrip("/").rpartition("/")[2] for found in files.ls(path, detail=False))


def flip_a_bit(run: RunDir, url: str, *place: str) -> None:
    files, path = there(run, url, *place)
    with files.open(path, "rb") as file:
        read = file.read()
    assert isinstance(read, bytes)
    content = bytearray(read)
    content[-3] ^= 4
    files.pipe_file(path, bytes(content))


def test_the_copies_are_those_that_the_run_keeps(run, url):
    for step in range(1, 6):
        copy(run, save(run, step), url, best="step-000002")
    assert names(run, url) == ["checkpoints", "command.txt", "recipe.toml"]
    assert names(run, url, "checkpoints") == ["step-000002", "step-000004", "step-000005"]
    for path in checkpoint.committed(run):
        assert names(run, url, "checkpoints", path.name) == ["commit.json", "model.safetensors", "state.json"]
        for file in path.iterdir():
            files, place = there(run, url, "checkpoints", path.name, file.name)
            assert files.cat_file(place) == file.read_bytes()


def test_a_run_that_lost_its_checkpoints_gets_the_newest_back(run, url):
    for step in (1, 2):
        copy(run, save(run, step), url)
    content = {file.name: file.read_bytes() for file in checkpoint.committed(run)[-1].iterdir()}
    shutil.rmtree(run.checkpoints)
    assert copies.fetch(run, url) == [f"took step-000002 from {url}"]
    assert {file.name: file.read_bytes() for file in checkpoint.newest(run).path.iterdir()} == content
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-000002"]
    assert copies.fetch(run, url) == []


def test_an_older_copy_is_not_taken_and_a_newer_one_is(run, url):
    copy(run, save(run, 3), url)
    save(run, 4)
    assert copies.fetch(run, url) == []
    copy(run, checkpoint.newest(run).path, url)
    shutil.rmtree(checkpoint.newest(run).path)
    assert copies.fetch(run, url) == [f"took step-000004 from {url}"]


def test_a_damaged_checkpoint_is_replaced_by_its_copy(run, url):
    for step in (1, 2):
        copy(run, save(run, step), url)
    weights = checkpoint.newest(run).path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert checkpoint.newest(run).step == 1
    assert copies.fetch(run, url) == [f"took step-000002 from {url}"]
    assert checkpoint.newest(run).step == 2


@pytest.mark.parametrize("file", ["model.safetensors", "state.json", "commit.json"])
def test_a_damaged_copy_is_named_and_the_one_before_it_taken(run, url, file):
    for step in (1, 2):
        copy(run, save(run, step), url)
    flip_a_bit(run, url, "checkpoints", "step-000002", file)
    shutil.rmtree(run.checkpoints)
    damaged, taken = copies.fetch(run, url)
    assert damaged.startswith(f"{url}: step-000002 is damaged: {file} ")
    assert taken == f"took step-000001 from {url}"
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-000001"]


def test_a_copy_that_was_cut_off_does_not_count(run, url):
    for step in (1, 2):
        copy(run, save(run, step), url)
    files, mark = there(run, url, "checkpoints", "step-000002", "commit.json")
    files.rm_file(mark)
    shutil.rmtree(run.checkpoints)
    assert copies.fetch(run, url) == [f"took step-000001 from {url}"]


def test_a_whole_run_comes_back_from_its_copy(run, url, tmp_path):
    copy(run, save(run, 7), url)
    origin = f"{url}/{run.path.name}"
    fetched, where = copies.fetch_run(origin, tmp_path / "others")
    assert where == url
    assert copies.fetch(fetched, url) == [f"took step-000007 from {url}"]
    assert fetched.path == tmp_path / "others" / run.path.name
    assert recipes.load(str(fetched.recipe)) == recipe()
    assert checkpoint.newest(fetched).step == 7
    assert copies.fetch_run(f"{origin}/", tmp_path / "others") == (fetched, url)


def test_what_is_no_copy_of_a_run_is_said(url, tmp_path):
    with pytest.raises(DataError, match=r"fetch the run .*nothing: got no recipe.toml there.*\n.*--resume .*RUN"):
        copies.fetch_run(f"{url}/nothing", tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nosuch://bucket", r"nosuch://bucket: got ValueError: Protocol not known: nosuch.*\n.*nosuch://"),
        ("s3://bucket", r"s3://bucket: got ImportError: Install s3fs to access S3.*\n.*pip install"),
        ("a.txt/copies", r"/a.txt/copies: got NotADirectoryError"),
    ],
)
def test_a_place_that_cannot_be_reached_is_said_before_anything_begins(data, tmp_path, monkeypatch, url, said):
    monkeypatch.chdir(tmp_path)
    Path("a.txt").touch()
    with pytest.raises(MachineError, match=f"write checkpoints to .*{said}"):
        train(data, tmp_path, checkpoint_to=url)
    assert not (tmp_path / "runs").exists()


def test_a_password_is_not_written_down(data, tmp_path):
    with pytest.raises(UsageError, match=r"got a password in it, need a URL without secrets"):
        train(data, tmp_path, checkpoint_to="ftp://me:secret@host/folder")
    assert not (tmp_path / "runs").exists()


def test_a_run_goes_on_elsewhere_to_the_same_end(data, tmp_path):
    whole = train(data, tmp_path / "whole", checkpoint_to=f"file://{tmp_path}/copies").run
    assert happened(whole, "warning") == []

    def stop(event):
        return eighteen.STOP if event["event"] == "step" and event["step"] == 9 else None

    with pytest.raises(Stopped):
        train(data, tmp_path, "train.checkpoint_to='memory://bucket'", on_event=stop)
    run = next((tmp_path / "runs").iterdir())
    shutil.rmtree(run)
    told: list[str] = []
    result = eighteen.resume(f"memory://bucket/{run.name}", runs_dir=tmp_path / "runs", say=told.append)
    assert result.run == run
    assert result.step == NUM_STEPS
    assert told[0].startswith("took step-0000")
    assert differing(saved(run), saved(whole)) == []
    assert differing(saved(run, "optimizer"), saved(whole, "optimizer")) == []
    copied = [path.name for path in checkpoint.committed(RunDir(tmp_path / "copies" / whole.name))]
    assert copied == [path.name for path in checkpoint.committed(rundir.open(whole))]


def test_copies_that_fail_in_mid_run_are_a_warning(data, tmp_path):
    place = tmp_path / "copies"

    def unmount(event):
        if event["event"] == "start":
            shutil.rmtree(place)
            place.write_text("no folder any more")

    run = train(data, tmp_path, checkpoint_to=str(place), on_event=unmount).run
    warnings = [event["text"] for event in happened(run, "warning")]
    assert len(warnings) == len(happened(run, "checkpoint"))
    assert warnings[0].startswith(f"copy a checkpoint to {place}: NotADirectoryError")
    assert happened(run, "end")[0]["reason"] == "done"


def test_the_command_line_copies_to_a_path_and_resumes_from_it(data, tmp_path):
    (tmp_path / "mine.toml").write_text(recipes.dump(recipe()))
    command = [sys.executable, "-m", "eighteen", "train"]
    first = [*command, str(data.path), "--recipe", "mine.toml", "--checkpoint-to", "mounted", "--epochs", "40"]
    process = subprocess.Popen(first, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    for line in process.stderr:
        if "checkpoint step-000008" in line:
            process.send_signal(signal.SIGINT)
    process.stderr.close()
    assert process.wait() == 75
    run = next((tmp_path / "runs").iterdir())
    shutil.rmtree(tmp_path / "runs")
    copied = tmp_path / "mounted" / run.name
    assert copies.is_copy(copied)
    second = subprocess.run([*command, "--resume", f"mounted/{run.name}"], cwd=tmp_path, capture_output=True, text=True)
    assert "took step-0000" in second.stderr, second.stderr
    assert second.returncode == 0, second.stderr
    assert second.stdout == f"runs/{run.name}\n"
    assert checkpoint.newest(rundir.open(run)).step == 160
    assert checkpoint.newest(RunDir(copied)).step == 160
