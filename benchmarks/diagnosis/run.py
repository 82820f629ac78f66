"""Is the doctor right? ``python benchmarks/diagnosis/run.py FOLDER --seeds 1 2 3 [--only KIND ...]``

Each situation is a real training by ``eighteen train``, spoilt for as long as it is watched; then ``eighteen doctor``
looks at its run, and the same training without what was done to it shows what that cost. Needs root, for control
groups (version 1) and network namespaces, and a C compiler; what is not there is left out and said. The datasets are
drawn into FOLDER once. The figures go into ``results/diagnosis-DATE.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from PIL import Image
from record import dated, record
from situations import HERE, KINDS, Situation, drawn, nothing

import eighteen
from eighteen.advice import evidence
from eighteen.advice.finding import fixed
from eighteen.base import events

WATCH_S = 12.0
START_S = 90.0
CGROUP = Path("/sys/fs/cgroup/cpu/eighteen-diagnosis")
EIGHTEEN = [sys.executable, "-m", "eighteen"]
DISTURBED = 0.2  # processors that others took
WITHIN = 0.3  # of the gain that is measured, that one foretold may be off


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--only", nargs="+", choices=[kind.__name__ for kind in KINDS], default=[])
    parser.add_argument("--name", default="diagnosis")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    pack(given.folder)
    shim = build_shim(given.folder)
    log = dated(given.name, ".log")
    rows = []
    for seed in given.seeds:
        for kind, situation in zip(KINDS, drawn(seed), strict=True):
            if given.only and kind.__name__ not in given.only:
                continue
            row = {"seed": seed, "kind": kind.__name__} | judged(situation, given.folder, shim)
            rows.append(row)
            told = f"{seed} {kind.__name__:15} {'right' if row['is_right'] else 'WRONG'} {row['found']} {row['gain']}"
            print(told, flush=True)
            with log.open("a") as file:
                print(told, file=file)
    record(given.name, summary=summary(rows), situations=rows)


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    sick = [row for row in rows if row["right"]]
    well = [row for row in rows if not row["right"]]
    gains = [row["gain"] for row in sick if row["is_right"] and row["gain"]]
    errors = [abs(one["foretold"] / one["measured"] - 1) for one in gains]
    return {
        "situations": len(sick),
        "right_first": sum(row["is_right"] for row in sick),
        "healthy": len(well),
        "healthy_without_finding": sum(row["is_right"] for row in well),
        "gains": len(gains),
        "gains_within_30_percent": sum(error <= WITHIN for error in errors),
        "median_error_of_gain": statistics.median(errors) if errors else None,
    }


def judged(situation: Situation, folder: Path, shim: Path) -> dict[str, Any]:
    """What the doctor says of it, and what it costs."""
    run, images_per_s = undisturbed(situation, folder, shim)
    out = folder / "findings.json"
    words = [*EIGHTEEN, "doctor", str(run), "--json", str(out)]
    env = {**os.environ, "PYTHONPATH": f"{Path(eighteen.__file__).parents[1]}:{HERE}"}
    said = subprocess.run(words, env=env, capture_output=True, text=True)
    if said.returncode:
        raise SystemExit(said.stderr)
    found = json.loads(out.read_text())["findings"]
    first = found[0]["code"] if found else None
    is_right = first in situation.right if situation.right else first is None
    gain = None
    if found and found[0]["gain"] and (is_right or not situation.right):
        cure, fix = situation.cure or applied, found[0]["fix"]
        _, cured = undisturbed(cure(situation, fix), folder, shim)
        gain = {"foretold": found[0]["gain"][1], "measured": cured / images_per_s}
    return {
        "right": sorted(situation.right),
        "is_right": is_right,
        "found": [[one["code"], one["gain"] and round(one["gain"][1], 3)] for one in found],
        "evidence": [one["evidence"] for one in found],
        "images_per_s": images_per_s,
        "gain": gain,
        "options": list(situation.options),
        "run": run.name,
    }


def applied(situation: Situation, fix: Mapping[str, Any]) -> Situation:
    return replace(situation, options=[*situation.options, *fixed(fix).split()])


def undisturbed(situation: Situation, folder: Path, shim: Path) -> tuple[Path, float]:
    """As ``trained``; again, up to twice, where others than we made took processors: this machine may be shared."""
    for left in (2, 1, 0):
        run, images_per_s = trained(situation, folder, shim)
        now = evidence.window(list(events.read(run / "events.jsonl")))
        is_quiet = now is None or (now.others or 0.0) < DISTURBED
        if is_quiet or not left or (situation.right == {"neighbours"} and situation.spoil is not nothing):
            return run, images_per_s
    raise AssertionError


def trained(situation: Situation, folder: Path, shim: Path) -> tuple[Path, float]:
    """A run that was spoilt and watched for a while, and the images/s of that time."""
    runs = folder / "runs"
    before = set(runs.glob("*"))
    with ExitStack() as stack:
        process = started(situation, folder, runs, shim, stack)
        run = waited(lambda: next(iter(set(runs.glob("*")) - before), None), process)
        waited(lambda: len(steps(run)) >= 2, process)
        with situation.spoil(process):
            began = time.monotonic()
            count = len(steps(run))
            waited(lambda: time.monotonic() - began > WATCH_S and len(steps(run)) >= count + 4, process, 4 * START_S)
        process.send_signal(2)
        process.wait(60)
    seen = evidence.window(list(events.read(run / "events.jsonl")))
    assert seen
    return run, seen.images / seen.seconds


def started(situation: Situation, folder: Path, runs: Path, shim: Path, stack: ExitStack) -> subprocess.Popen[bytes]:
    data = folder / f"{situation.data}.e18"
    command = [*EIGHTEEN, "train", str(data), "--new", "--runs-dir", str(runs), *situation.options]
    env = {**os.environ, **situation.env, "PYTHONPATH": f"{Path(eighteen.__file__).parents[1]}:{HERE}"}
    if "SLOW_READ_MS" in situation.env:
        env["LD_PRELOAD"] = str(shim)
    prefix = []
    if situation.quota:
        prefix = stack.enter_context(quota(situation.quota))
    if situation.link_mbit:
        spaces = stack.enter_context(linked(situation.link_mbit))
        ranks = [ranked(rank, space, command, env, folder) for rank, space in enumerate(spaces)]
        stack.callback(lambda: [one.kill() for one in ranks])
        return ranks[0]
    ranks = ["--procs", str(situation.ranks)] if situation.ranks > 1 else []
    return popen([*prefix, *command, *ranks], env, folder)


def popen(command: list[str], env: dict[str, str], folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "train.log").open("ab") as log:
        return subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def ranked(rank: int, space: str, command: list[str], env: dict[str, str], folder: Path) -> subprocess.Popen[bytes]:
    """A rank as somebody else's launcher starts it, in a network namespace."""
    ranks = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "OMP_NUM_THREADS": 1}
    meet = {"MASTER_ADDR": "10.77.0.1", "MASTER_PORT": 29518, "GLOO_SOCKET_IFNAME": f"e18-{rank}"}
    told = {name: str(value) for name, value in {**ranks, **meet}.items()}
    return popen(["ip", "netns", "exec", space, *command], env | told, folder)


@contextmanager
def linked(mbit: int) -> Iterator[list[str]]:
    """Two network namespaces with a link of so many Mbit/s between them."""
    spaces = ["e18-a", "e18-b"]
    do = lambda *words: subprocess.run(words, check=True)  # noqa: E731
    for space in spaces:
        do("ip", "netns", "add", space)
    try:
        do("ip", "link", "add", "e18-0", "netns", spaces[0], "type", "veth", "peer", "e18-1", "netns", spaces[1])
        for rank, space in enumerate(spaces):
            inside = ["ip", "netns", "exec", space]
            do(*inside, "ip", "addr", "add", f"10.77.0.{rank + 1}/24", "dev", f"e18-{rank}")
            do(*inside, "ip", "link", "set", "lo", "up")
            do(*inside, "ip", "link", "set", f"e18-{rank}", "up")
            rate = ["rate", f"{mbit}mbit", "burst", "256kb", "latency", "200ms"]
            do(*inside, "tc", "qdisc", "add", "dev", f"e18-{rank}", "root", "tbf", *rate)
        yield spaces
    finally:
        for space in spaces:
            subprocess.run(["ip", "netns", "del", space], check=False)


@contextmanager
def quota(cpus: float) -> Iterator[list[str]]:
    """A command's prefix that lets it use the time of so many processors."""
    CGROUP.mkdir(exist_ok=True)
    (CGROUP / "cpu.cfs_quota_us").write_text(str(round(100_000 * cpus)))
    try:
        yield ["sh", "-c", f'echo $$ > {CGROUP}/tasks && exec "$@"', "sh"]
    finally:
        CGROUP.rmdir()


def waited(what: Any, process: subprocess.Popen[bytes], limit_s: float = START_S) -> Any:
    """What ``what`` returns, once that is something; an error if the process fails first, or time is up."""
    ends = time.monotonic() + limit_s
    while not (found := what()):
        if process.poll() == 0:
            return None  # it has come to its end
        if process.poll() is not None or time.monotonic() > ends:
            raise SystemExit(f"no training: exit code {process.returncode}, see train.log")
        time.sleep(0.1)
    return found


def steps(run: Path) -> list[events.Event]:
    path = run / "events.jsonl"
    return [one for one in events.read(path) if one["event"] == "step"] if path.exists() else []


def build_shim(folder: Path) -> Path:
    shim = folder / "slow_reads.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", shim, HERE / "slow_reads.c", "-ldl"], check=True)
    return shim


def pack(folder: Path) -> None:
    """The datasets, of so many pictures that one epoch of most lasts for as long as it is watched."""
    for name, (sides, count, val) in KINDS_OF_PICTURES.items():
        if not (folder / f"{name}.e18").exists():
            source = draw(folder / name, sides, count)
            eighteen.pack(source, folder / f"{name}.e18", val=val)
    if not (folder / "huge-small.e18").exists():
        eighteen.pack(folder / "huge", folder / "huge-small.e18", val=0.1, renditions=(96,))
    if not (folder / "raw.e18").exists():
        rng = np.random.default_rng(18)
        sets = {
            name: (rng.integers(0, 256, (n, 32, 32, 3), np.uint8), rng.integers(0, 5, n)) for name, n in RAW.items()
        }
        eighteen.pack(sets, folder / "raw.e18")


KINDS_OF_PICTURES = {  # sides in pixels, how many, share of the validation split
    "middle": ((160, 128), 12_000, 0.02),
    "dense": ((192, 144), 12_000, 0.02),
    "few": ((192, 144), 1_000, 0.1),
    "huge": ((2000, 1500), 600, 0.1),
    "many-val": ((160, 128), 1_500, 0.4),
}
RAW = {"train": 8000, "val": 500}


def draw(folder: Path, sides: tuple[int, int], count: int) -> Path:
    """JPEGs of smooth noise with grain, which take about as many bytes as photographs do."""
    rng, (width, height) = np.random.default_rng(18), sides
    is_dense = folder.name in ("dense", "few")  # as many bytes as there are pixels, so that decoding is the narrowest
    grain = rng.normal(0, 25 if is_dense else 6, (height // 2, width // 2, 1)).astype(np.float32)
    grain = grain.repeat(2, 0).repeat(2, 1)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).resize(sides, Image.Resampling.BICUBIC)
        pixels = np.asarray(coarse)[: len(grain), : grain.shape[1]] + np.roll(grain, number, (0, 1))
        path = folder / f"class{number % 5}" / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=100 if is_dense else 92)
    return folder


if __name__ == "__main__":
    main()
