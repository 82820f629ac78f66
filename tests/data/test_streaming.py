"""Training on a dataset that lies elsewhere, before all of it is here."""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from elsewhere import Elsewhere

import eighteen
from eighteen import cli
from eighteen.base import events, rundir
from eighteen.base import recipe as recipes
from eighteen.base.errors import DataError, MachineError, Stopped, UsageError
from eighteen.base.lock import used
from eighteen.data import arriving, dataset, places, staging, wanted
from eighteen.data.check import check

SMALL = ["phases.0.size=32", "phases.0.batch=8", "eval.size=32", "train.log_every=1", "data.keep=never"]
HOW = {"recipe": "demo", "epochs": 1, "changes": SMALL}
FULL = {**HOW, "changes": [*SMALL, "data.rendition=full"]}


SHORTCUT = places.shortcut


@pytest.fixture(scope="module")
def packed(pictures, tmp_path_factory):
    """108 train pictures in some shards of 64 KiB, and in one of a rendition of 40 pixels."""
    path = tmp_path_factory.mktemp("near") / "photos.e18"
    return eighteen.pack(pictures, path, renditions=(40,), shard_bytes=2**16, procs=1)


@pytest.fixture
def there(packed, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(arriving, "WAITS_S", (0.0, 0.0))
    monkeypatch.setattr(wanted, "LITTLE_BYTES", 0)
    monkeypatch.setattr(places, "shortcut", lambda url: None)
    with Elsewhere(packed.path.parent) as found:
        yield found


def url_of(there):
    return f"{there.url}/photos.e18"


def copy_of(tmp_path):
    (path,) = (tmp_path / "cache" / "eighteen" / "datasets").glob("photos-*.e18")
    return path


def shards_of(packed, rendition="full"):
    return packed.splits["train"].renditions[rendition].shards


def test_only_what_the_recipe_reads_comes_and_the_rest_when_another_needs_it(packed, there, tmp_path):
    eighteen.train(url_of(there), **HOW, runs_dir=tmp_path)
    copy, full = copy_of(tmp_path), {*shards_of(packed)}
    come = {name.removeprefix("photos.e18/") for name, _ in there.asked}
    assert not come & full
    assert {*shards_of(packed, "40"), "train/full.index.npy"} <= come
    with pytest.raises(DataError, match=r"got a copy of http.* without \d+ shards"):
        dataset.open(copy)
    lacking = {problem.file for problem in check(copy, procs=1).problems if "not brought from http" in problem.cause}
    assert lacking >= full
    eighteen.train(url_of(there), **FULL, stage="first", runs_dir=tmp_path)
    assert {name.removeprefix("photos.e18/") for name, _ in there.asked} >= full
    parts = [one for one in there.asked if not one[0].endswith(dataset.FACTS)]
    assert len(parts) == len({*parts})
    staging.stage(url_of(there), copy.parent)
    assert dataset.open(copy).digest == packed.digest
    assert not check(copy, procs=1).problems


def test_training_begins_before_the_last_shard_is_here_waits_for_it_and_is_what_it_is_anywhere(
    packed, there, tmp_path, monkeypatch
):
    monkeypatch.setattr("eighteen.training.train.PATIENCE_S", 0.2)
    recipe = recipes.load("demo", epochs=1, changes=[*FULL["changes"], "data.order=by-shards"])
    late = shards_of(packed)[wanted.order_of(recipe, packed.splits["train"]).shards[-1]]
    gate, before = threading.Event(), []
    there.gates[f"photos.e18/{late}"] = gate

    def on_event(event):
        if not gate.is_set():
            before.append(event["event"])
        if event["event"] == "warning" and f"bring {late} from {url_of(there)}: not all of it" in event["text"]:
            assert not (copy_of(tmp_path) / late).exists()
            gate.set()

    done = eighteen.train(url_of(there), **FULL, runs_dir=tmp_path, on_event=on_event)
    assert before.count("step") > 5
    run = rundir.open(done.run)
    assert 'order = "by-shards"' in run.recipe.read_text("utf-8")
    steps = [event for event in events.read(run.events) if event["event"] == "step"]
    assert sum(step["stages"]["arrive_s"] for step in steps) > 0
    again = eighteen.train(packed, recipe=str(run.recipe), runs_dir=tmp_path / "here")
    losses = [event["loss"] for event in events.read(rundir.open(again.run).events) if event["event"] == "step"]
    assert [step["loss"] for step in steps] == losses


def test_ranks_of_their_own_read_while_shards_come(packed, there, tmp_path):
    done = eighteen.train(url_of(there), **FULL, procs=2, runs_dir=tmp_path)
    assert done.top1 is not None
    parts = [one for one in there.asked if not one[0].endswith(dataset.FACTS)]
    assert len(parts) == len({*parts})


def test_ranks_of_torchruns_bring_each_file_once_for_their_machine(packed, there, tmp_path):
    words = [word for change in [*FULL["changes"], "data.order=by-shards"] for word in ("--set", change)]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "eighteen"]
    command += ["train", url_of(there), "--recipe", "demo", "--epochs", "1", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    parts = [one for one in there.asked if not one[0].endswith(dataset.FACTS)]
    assert len(parts) == len({*parts})
    assert {name for name, _ in parts} >= {f"photos.e18/{name}" for name in shards_of(packed)}


def test_a_shard_that_comes_wrong_while_training_ends_it_by_its_name(packed, there, tmp_path):
    late = shards_of(packed)[-1]
    there.spoilt[f"photos.e18/{late}"] = 9
    with pytest.raises(DataError, match=rf"{late}: got bytes that do not match its digest, twice"):
        eighteen.train(url_of(there), **FULL, runs_dir=tmp_path)
    assert not (copy_of(tmp_path) / late).exists()


def test_a_run_goes_on_by_the_same_command_though_its_shards_have_come_meanwhile(packed, there, tmp_path):
    how = {**FULL, "runs_dir": tmp_path}
    with pytest.raises(Stopped):
        eighteen.train(url_of(there), **how, on_event=lambda event: eighteen.STOP if event["event"] == "step" else None)
    staging.stage(url_of(there), staging.folder())
    lines = []
    eighteen.train(url_of(there), **how, say=lines.append)
    assert any(line.startswith("going on with") for line in lines)


@pytest.mark.parametrize(
    ("changes", "options"),
    [(["data.balance=sampling"], {}), ([], {"stage": "first"}), ([], {"time": 600.0, "epochs": None})],
)
def test_what_cannot_begin_early_waits_for_all(packed, there, tmp_path, changes, options):
    how = {**FULL, "changes": [*FULL["changes"], *changes], "runs_dir": tmp_path, **options}
    seen = []

    def on_event(event):
        if event["event"] == "start":
            seen.extend(name for name in shards_of(packed) if (copy_of(tmp_path) / name).exists())
            return eighteen.STOP
        return None

    with pytest.raises(Stopped):
        eighteen.train(url_of(there), **how, on_event=on_event)
    assert seen == [*shards_of(packed)]


def test_a_connection_that_breaks_and_a_spoilt_piece_cost_only_themselves(packed, there, tmp_path):
    name = f"photos.e18/{shards_of(packed)[0]}"
    there.resets[name], there.spoilt[f"photos.e18/{shards_of(packed)[1]}"] = 2, 1
    assert dataset.open(staging.stage(url_of(there), tmp_path)).digest == packed.digest
    again = [one for one in {*there.asked} if there.asked.count(one) > 1]
    assert {one for one, _ in again} <= {name, f"photos.e18/{shards_of(packed)[1]}", "photos.e18/dataset.json"}


def test_a_shard_comes_before_those_that_nobody_waits_for(packed, there, tmp_path, monkeypatch):
    monkeypatch.setattr(arriving, "AT_ONCE", 1)
    names = shards_of(packed)
    gate = there.gates[f"photos.e18/{names[0]}"] = threading.Event()
    with ExitStack() as stack:
        copy = dataset.open(staging.begin(url_of(there), tmp_path, stack), brings=True)
        assert copy.arriving
        stack.callback(copy.arriving.close)
        stack.callback(gate.set)
        copy.arriving.want(names)
        copy.arriving.want(names[-1:])
        gate.set()
        copy.arriving.wait(names[-1:])
    order = [name.removeprefix("photos.e18/") for name, _ in there.asked if name.endswith(".tar")]
    assert order.index(names[-1]) <= 1 + arriving.AHEAD < len(names) - 1


@pytest.mark.parametrize("first", [True, False])
def test_by_obstore_too(packed, there, tmp_path, first, monkeypatch):
    pytest.importorskip("obstore")
    asked = []

    class Watched:
        def __init__(self, url):
            self.way: Any = SHORTCUT(url)

        def get_range(self, name, *, start, end):
            asked.append(name)
            if not first:
                raise OSError("no credentials")
            return self.way.get_range(name, start=start, end=end)

    monkeypatch.setattr(places, "shortcut", Watched)
    assert dataset.open(staging.stage(url_of(there), tmp_path)).digest == packed.digest
    parts = [one for one in there.asked if not one[0].endswith(dataset.FACTS)]
    assert len(parts) == len({*parts})
    assert {*shards_of(packed)} <= {*asked} if first else len(asked) <= arriving.AT_ONCE + arriving.AHEAD


def test_a_server_that_knows_no_parts_sends_each_file_once(packed, there, tmp_path, monkeypatch):
    monkeypatch.setattr(arriving, "PIECE_BYTES", 10_000)
    there.knows_ranges = False
    assert dataset.open(staging.stage(url_of(there), tmp_path)).digest == packed.digest
    assert len(there.asked) == len({*there.asked})


def test_a_copy_that_is_too_much_pushes_out_what_was_used_longest_ago(packed, tmp_path):
    copies = [tmp_path / f"{name}.e18" for name in ("old", "used", "new", "own")]
    for number, copy in enumerate(copies):
        shutil.copytree(packed.path, copy)
        os.utime(copy / dataset.FACTS, (number, number))
    size, said = sum(one.stat().st_size for one in copies[0].rglob("*") if one.is_file()), []
    with used(copies[1]):
        staging.make_room(copies[3], 0, most_bytes=4 * size, say=said.append)
        assert said == []
        staging.make_room(copies[3], size, most_bytes=4 * size, say=said.append)
        assert [copy.exists() for copy in copies] == [False, True, True, True]
        with pytest.raises(MachineError, match=f"got {4 * size:,} bytes that are in use or needed, need at most"):
            staging.make_room(copies[3], 2 * size, most_bytes=2 * size, say=said.append)
    assert [copy.exists() for copy in copies] == [False, True, False, True]
    assert said[0].startswith(f"deleted {copies[0]}, ")


def test_no_more_shards_go_than_must_and_they_alone_come_again(packed, there, tmp_path):
    with ExitStack() as stack:
        path = staging.stage(url_of(there), staging.folder())
        shards = [path / name for name in dataset.shards(dataset.read_facts(path))]
        for age, shard in enumerate(shards[2:] + shards[:2]):
            os.utime(shard, (age, age))
        others, said = staging.folder() / "others-1.e18", []
        others.mkdir()
        all_bytes = sum(one.stat().st_size for one in path.rglob("*") if one.is_file())
        excess = shards[2].stat().st_size + 1
        staging.make_room(others, 10**9, most_bytes=10**9 + all_bytes - excess, say=said.append)
        assert [shard.name for shard in shards if not shard.exists()] == [shards[2].name, shards[3].name]
        assert said == [f"deleted the oldest 2 shards of {path}, 0.00 GB, for --disk-max"]
        with pytest.raises(DataError, match=f"got a copy of {url_of(there)} without 2 shards"):
            dataset.open(path)
        there.asked.clear()
        assert dataset.open(staging.stage(url_of(there), staging.folder())).digest == packed.digest
        assert {name.partition("/")[2] for name, *_ in there.asked} == {"dataset.json"} | {
            str(shard.relative_to(path)) for shard in shards[2:4]
        }
        assert check(path).problems == ()
        stack.enter_context(used(path))
        with pytest.raises(MachineError, match="in use or needed"):
            staging.make_room(others, 10**9, most_bytes=10**9, say=said.append)
        assert all(shard.exists() for shard in shards)


@pytest.mark.parametrize(("text", "expected"), [("50GB", 50 * 10**9), ("1.5 TB", 15 * 10**11), ("200MB", 2 * 10**8)])
def test_amounts_of_bytes(text, expected):
    assert staging.bytes_of(text, flag="--disk-max") == expected


@pytest.mark.parametrize("text", ["50", "50G", "-1GB", "0GB", "much"])
def test_what_is_no_amount_is_refused(text, packed):
    with pytest.raises(UsageError, match=f"--disk-max: got '{text}', need a number of MB, GB or TB"):
        eighteen.train(packed, disk_max=text)


def test_stages_are_known_by_name(packed, capsys):
    with pytest.raises(UsageError, match="--stage: got 'frist', need stream or first"):
        eighteen.train(packed, stage="frist")  # type: ignore[arg-type]
    assert cli.main(["train", str(packed.path), "--stage", "never"]) == 2
    assert "--stage" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="asks the kernel what it has in memory")
def test_warm_files_are_in_the_page_cache(tmp_path):
    path = tmp_path / "shard"
    path.write_bytes(bytes(8 * 2**20))
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if pages_in_memory(path) > 0.5:
        pytest.skip("this file system lets nothing go")
    staging.read_ahead([path], goes_on=lambda: True)
    assert pages_in_memory(path) == 1.0


def pages_in_memory(path: Path) -> float:
    """The share that the kernel has of a file."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        num_pages = len(mapped) // mmap.PAGESIZE
        found, address = (ctypes.c_ubyte * num_pages)(), ctypes.c_char.from_buffer(mapped)
        assert ctypes.CDLL(None).mincore(ctypes.byref(address), ctypes.c_size_t(len(mapped)), found) == 0
        del address
        return sum(page & 1 for page in found) / num_pages
