"""Files from strangers: no code runs, nothing is written elsewhere, and each is refused quickly, in little memory."""

from __future__ import annotations

import json
import os
from pathlib import Path

import hostile_files
import pytest
import small_runs
from hostile_commands import run_all

from eighteen.data.pack import pack

MAX_BYTES, MAX_CPU_S = 512 * 2**20, 2.0
WARM = 3  # commands whose cost is not counted: they import what is needed


@pytest.fixture(scope="module")
def results(data, pictures, tmp_path_factory):
    """Each case, with what became of it, and what the one process that ran them all has written."""
    folder = tmp_path_factory.mktemp("hostile")
    run = small_runs.train(data, folder, "phases.0.epochs=6").run
    pack(pictures, folder / "jpegs.e18", procs=1)
    (folder / "files").mkdir()
    cases = hostile_files.make(folder / "files", data.path, folder / "jpegs.e18", run, folder / "ran")
    sound = [["eval", str(run), str(data.path)], ["check", str(folder / "jpegs.e18")]]
    sound += [["train", "--resume", str(run)]]  # goes as far as it can: the run is finished
    before = listing(folder)
    if not (child := os.fork()):  # a process of its own, but one that need not import torch
        try:
            run_all(sound + [case.command for case in cases], folder / "results")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    lines = [json.loads(line) for line in (folder / "results").read_text().splitlines()]
    assert [line["code"] for line in lines[:WARM]] == [0, 0, 2]
    return list(zip(cases, lines[WARM:], strict=True)), listing(folder) - before, folder


def listing(folder: Path) -> set[str]:
    return {os.path.relpath(path, folder) for path in folder.rglob("*")}


def test_there_are_enough_of_them(results):
    cases, _, _ = results
    assert len({case.command[-1] for case, _ in cases}) > 50


def test_no_code_runs_and_nothing_is_written_elsewhere(results):
    _, written, folder = results
    assert not (folder / "ran").exists()
    allowed = ("results", "files/runs", "files/packed", "files/out.csv", "files/checkpoints/", "runs/")
    assert [name for name in sorted(written) if not name.startswith(allowed)] == []


def test_each_is_refused_in_four_parts(results):
    cases, _, _ = results
    wrong = [
        (case.name, found["code"], found["said"][-600:])
        for case, found in cases
        if found["code"] != case.code
        or case.says not in found["said"]
        or not all(part in found["said"] for part in (": got ", ", need ", "\n  Try: "))
        or "Traceback" in found["said"]
    ]
    assert wrong == []


def test_each_costs_little(results):
    cases, _, _ = results
    dear = [
        (case.name, found["bytes"] >> 20, round(found["cpu_s"], 2))
        for case, found in cases
        if found["bytes"] > MAX_BYTES or found["cpu_s"] > MAX_CPU_S
    ]
    assert dear == []
