"""Datasets that lie elsewhere: on another filesystem of fsspec, which breaks off, sends wrong bytes, and counts."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

import eighteen
from eighteen import cli
from eighteen.base import rundir
from eighteen.base.errors import DataError, MachineError
from eighteen.data import arriving, dataset, staging


class Far(MemoryFileSystem):
    """Another machine's disk. asked: path and first byte of each question      breaks: how many fail, of each file"""

    protocol = "far"
    store: dict = {}  # noqa: RUF012  # as its base has it
    pseudo_dirs = [""]  # noqa: RUF012
    cachable = False
    asked: list = []  # noqa: RUF012
    breaks = 0
    spoilt: dict = {}  # noqa: RUF012  # how often a file comes with a wrong byte, by the end of its name

    def cat_file(self, path, start=None, end=None, **kwargs):
        if start is None:
            return super().cat_file(path, **kwargs)
        Far.asked.append((path, start))
        if Far.breaks:
            Far.breaks -= 1
            raise ConnectionResetError("reset by peer")
        content = super().cat_file(path, start=start, end=end, **kwargs)
        for name in [name for name, left in Far.spoilt.items() if path.endswith(name) and left]:
            Far.spoilt[name] -= 1
            content = bytes([content[0] ^ 1]) + content[1:]
        return content


@pytest.fixture
def far(monkeypatch):
    fsspec.register_implementation("far", Far, clobber=True)
    for name, value in {"store": {}, "asked": [], "breaks": 0, "spoilt": {}, "pseudo_dirs": [""]}.items():
        monkeypatch.setattr(Far, name, value)
    monkeypatch.setattr(arriving, "WAITS_S", (0.0, 0.0))
    return Far


@pytest.fixture(scope="module")
def packed(pictures, tmp_path_factory):
    path = tmp_path_factory.mktemp("near") / "photos.e18"
    return eighteen.pack(pictures, path, renditions=(64,), procs=1)


def test_what_was_sent_comes_back_and_is_not_read_again(packed, far, tmp_path, capsys):
    assert cli.main(["push", str(packed.path), "far://bucket/data"]) == 0
    assert capsys.readouterr().out == "sent to far://bucket/data/photos.e18\n"
    here = staging.stage("far://bucket/data/photos.e18", tmp_path)
    found = dataset.open(here)
    assert found.digest == packed.digest
    assert here.name.startswith("photos-")
    assert found.splits["train"].renditions["64"].read(5) == packed.splits["train"].renditions["64"].read(5)
    num_asked = len(far.asked)
    assert staging.stage("far://bucket/data/photos.e18", tmp_path) == here
    assert len(far.asked) == num_asked


def test_many_at_once_bring_it_once(packed, far, tmp_path):
    url = staging.push(packed.path, "far://bucket")
    with ThreadPoolExecutor(4) as threads:
        assert len({*threads.map(lambda _: staging.stage(url, tmp_path), range(4))}) == 1
    assert len(far.asked) == len({*far.asked})


def test_what_was_cut_off_goes_on_where_it_stopped(packed, far, tmp_path, monkeypatch):
    monkeypatch.setattr(arriving, "PIECE_BYTES", 10_000)
    monkeypatch.setattr(arriving, "AT_ONCE", 1)
    url, wanted = staging.push(packed.path, "far://bucket"), far.asked
    monkeypatch.setattr(arriving, "WAITS_S", ())
    cat_file = Far.cat_file
    monkeypatch.setattr(Far, "cat_file", lambda self, path, **how: _until(6, wanted, cat_file, self, path, **how))
    with pytest.raises(MachineError, match="bring far://bucket"):
        staging.stage(url, tmp_path)
    (partly,) = tmp_path.iterdir()
    with pytest.raises(DataError):
        dataset.open(partly)
    monkeypatch.setattr(Far, "cat_file", cat_file)
    assert dataset.open(staging.stage(url, tmp_path)).digest == packed.digest
    assert len(wanted) == len({*wanted})  # no piece came twice


def _until(count, asked, cat_file, *place, **how):
    if len(asked) >= count and how:
        raise ConnectionResetError("the cable is cut")
    return cat_file(*place, **how)


def test_a_connection_that_breaks_is_made_again(packed, far, tmp_path):
    url = staging.push(packed.path, "far://bucket")
    far.breaks = 2
    assert dataset.open(staging.stage(url, tmp_path)).digest == packed.digest


def test_wrong_bytes_are_brought_again_once_and_never_kept(packed, far, tmp_path):
    url = staging.push(packed.path, "far://bucket")
    shard = packed.splits["train"].renditions["full"].shards[0]
    far.spoilt[shard] = 1
    shutil.rmtree(staging.stage(url, tmp_path))
    far.spoilt[shard] = 2
    with pytest.raises(DataError, match="do not match its digest, twice"):
        staging.stage(url, tmp_path)
    assert not [*tmp_path.glob(f"*/{shard}")]


def test_no_room_and_no_dataset_are_said_before_anything_comes(packed, far, tmp_path, monkeypatch):
    url = staging.push(packed.path, "far://bucket")
    monkeypatch.setattr("eighteen.base.files.free_bytes", lambda path: 1000)
    with pytest.raises(MachineError, match="1,000 bytes free"):
        staging.stage(url, tmp_path)
    with pytest.raises(DataError, match=r"no dataset\.json there"):
        staging.stage("far://bucket/nothing.e18", tmp_path)
    assert far.asked == []


def test_a_run_on_a_url_goes_on_by_it(packed, far, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    url = staging.push(packed.path, "far://bucket")
    options = {"recipe": "demo", "epochs": 1, "changes": ["phases.0.size=32", "eval.size=32"], "runs_dir": tmp_path}
    done = eighteen.train(url, **options)
    run = rundir.open(done.run)
    assert (run.path / "command.txt").read_text().splitlines()[-1] == url
    shutil.rmtree(run.checkpoints)
    run.checkpoints.mkdir()
    run.events.unlink()
    shutil.rmtree(tmp_path / "cache")
    again = eighteen.resume(done.run)
    assert np.isclose(again.top1 or 0, done.top1 or 0)


def test_a_url_with_a_password_is_refused(packed, far, tmp_path, capsys):
    assert cli.main(["push", str(packed.path), "far://me:canary@bucket/data"]) == 2
    assert "canary" not in capsys.readouterr().err
