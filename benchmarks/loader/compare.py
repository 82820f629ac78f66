"""Whole loaders against each other, in turns: CPU time a picture, one thread or worker each. And ours with its parts.

Every loader lives in a process, most in an environment, of its own (``peers/setup.sh`` makes them); in each round each
task is given to all of them, in an order drawn anew, one at a time. Input: the JPEGs of DATA/imagenet-sample, repeated.
Kept under ``results``: loader-DATE.json, and the same as a table (.md) and a picture (.svg).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from record import DATA, dated, record

from eighteen.advice.feeding import TASKS, Setting
from eighteen.advice.passes import in_turns, make_pass, some
from eighteen.data import dataset as datasets
from eighteen.data.pack import pack

HERE = Path(__file__).parent
PEERS, BUILT = HERE / "peers", HERE.parents[1] / "build" / "peers"
COPIES = 9  # of 120 pictures
LONG_PASS = 8192  # pictures: so many that what a loader takes once, threads and memory, is little of it, as in training
ONE_THREAD = {"OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
CONTENDERS = {  # by script: the environment, None for our own, and who runs in it
    "stock.py": ("torch", ["stock", "webdataset"]),
    "dali_cpu.py": ("dali", ["DALI"]),
    "ffcv_500.py": ("ffcv", ["FFCV-500"]),
    "tf_data.py": ("tensorflow", ["tf.data"]),
    "ours.py": (None, ["ours full", "ours 352", "ours 256"]),
}
TARGETS = [  # slower, faster, task, how many times
    ("stock", "ours full", "crop 128", 2.6),
    ("stock", "ours full", "crop 224", 2.5),
    ("stock", "ours full", "val 224", 2.7),
    *(("DALI", "ours full", task.name, 1.6) for task in TASKS),
    *(("FFCV-500", "ours full", task.name, 1.35) for task in TASKS),
    ("stock", "ours 256", "crop 128", 7.5),
]
Times = dict[str, dict[str, list[float]]]  # CPU-ms a picture: by contender and task, a figure a round


@dataclass(frozen=True)
class Finding:
    """A ratio, round by round (none where there was nothing to measure), and the bound that its median should keep."""

    what: str
    figures: list[float]
    least: float | None = None
    most: float | None = None

    @property
    def verdict(self) -> str:
        if not self.figures:
            return "not measured"
        kept = (self.least or 0.0) <= median(self.figures) <= (self.most or float("inf"))
        return "reached" if kept else "MISSED"

    def __str__(self) -> str:
        found = f"{median(self.figures):.2f} ({min(self.figures):.2f}-{max(self.figures):.2f})" if self.figures else "-"
        bound = f">= {self.least}" if self.least else f"<= {self.most}"
        return f"{self.what:45} {found:20} {bound:8} {self.verdict}"


@dataclass(frozen=True)
class Loader:
    """A process that waits for its turns."""

    process: subprocess.Popen[str]
    log: Path

    def turn(self, contender: str, task: str) -> dict[str, float]:
        print(f"{contender}\t{task}", file=self.process.stdin, flush=True)
        return self.hear()

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("; ".join(Path(self.log).read_text().strip().splitlines()[-1:]) or "it ended")
        return json.loads(line)


def lay_out(folder: Path) -> None:
    """``folder/CLASS/NAME-COPY.jpg`` as links, as often as COPIES says, and ``packed.e18``, each picture once."""
    for path in sorted((DATA / "imagenet-sample").glob("*.JPEG")):
        for copy in range(COPIES):
            link(path, folder / "folder", copy)
        link(path, folder / "once", 0)
    pack(folder / "once", folder / "packed.e18", val=0.0, renditions=[352, 256])


def link(path: Path, folder: Path, copy: int) -> None:
    linked = folder / path.name.split("_")[0] / f"{path.stem}-{copy}.jpg"
    linked.parent.mkdir(parents=True, exist_ok=True)
    linked.symlink_to(path.resolve())


@contextmanager
def started(
    script: str, environment: str | None, folder: Path, *words: str, settings: Mapping[str, str] = ONE_THREAD
) -> Iterator[Loader]:
    """Its process, which says first what it is. Raises RuntimeError where there is no such environment."""
    python = BUILT / environment / "bin" / "python" if environment else Path(sys.executable)
    if not python.exists():
        raise RuntimeError(f"no environment: peers/setup.sh {environment}, or see build/peers/{environment}.log")
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    log = folder / f"{script}.log"
    with log.open("w") as stderr:
        command = [python, PEERS / script, folder, *words]
        process = subprocess.Popen(command, **pipes, stderr=stderr, env=os.environ | settings)
    try:
        yield Loader(process, log)
    finally:
        assert process.stdin
        process.stdin.close()  # which ends it
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()


def take_turns(loaders: Mapping[str, Loader], *, rounds: int) -> Times:
    """loaders: by contender"""
    times: Times = {contender: {task.name: [] for task in TASKS} for contender in loaders}
    for number in range(rounds):
        for task in TASKS:
            for contender in random.sample(list(loaders), len(loaders)):
                done = loaders[contender].turn(contender, task.name)
                times[contender][task.name].append(1000 * done["cpu_s"] / done["pictures"])
        print(f"round {number + 1} of {rounds}: {', '.join(loaders)}", file=sys.stderr)
    return times


def parts(path: Path, *, rounds: int, num_pictures: int) -> list[Finding]:
    """Our loader on full pictures against its bare decoder, and on two threads against one."""
    split, found = some(datasets.open(path).splits["train"], num_pictures), []
    kinds = [(1, False), (1, True), (2, False)]
    settings = [Setting(task, "full", threads, bare) for task in TASKS for threads, bare in kinds]
    passes = in_turns(settings, partial(make_pass, split, batch=256), num_repeats=rounds)
    for task in TASKS:
        one, bare, two = (passes[Setting(task, "full", threads, bare)] for threads, bare in kinds)
        over = [a.cpu_s / b.cpu_s for a, b in zip(one, bare, strict=True)]
        found.append(Finding(f"loader / bare decoder, {task.name}", over, most=1.05))
        more = [a.wall_s / b.wall_s for a, b in zip(one, two, strict=True)]
        found.append(Finding(f"images/s of 2 threads / 1 thread, {task.name}", more, least=1.9))
    return found


def peers(times: Times) -> list[Finding]:
    return [
        Finding(f"{above} / {below}, {task}", ratios(times, above, below, task), least=least)
        for above, below, task, least in TARGETS
    ]


def ratios(times: Times, above: str, below: str, task: str) -> list[float]:
    """Round by round; none where one of them was not there."""
    if above not in times or below not in times:
        return []
    return [a / b for a, b in zip(times[above][task], times[below][task], strict=True)]


def table(times: Times, absent: Mapping[str, str]) -> str:
    """Markdown: CPU-ms a picture, median and range, and how many times ours that is."""
    names = [task.name for task in TASKS]
    lines = ["| CPU-ms a picture | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for contender, by_task in times.items():
        cells = []
        for name in names:
            cell = f"{median(by_task[name]):.2f} ({min(by_task[name]):.2f}-{max(by_task[name]):.2f})"
            factor = ratios(times, contender, "ours full", name)
            cells.append(f"{cell}, {median(factor):.2f}x" if factor else cell)
        lines.append(f"| {contender} | " + " | ".join(cells) + " |")
    lines += [f"| {contender} | not measured: {why} |" + " |" * (len(names) - 1) for contender, why in absent.items()]
    return "\n".join(lines) + "\n"


def picture(times: Times) -> str:
    """The table as bars: an SVG."""
    bar, left, wide = 14, 100, 560
    scale = (wide - left - 40) / max(median(figures) for by_task in times.values() for figures in by_task.values())
    parts, y = [], 10
    for task in TASKS:
        parts.append(f'<text x="4" y="{y + 12}" font-weight="bold">{task.name}: CPU-ms a picture</text>')
        for contender, by_task in times.items():
            y += bar + 4
            figure, colour = median(by_task[task.name]), "#2a7" if contender.startswith("ours") else "#89a"
            parts.append(f'<text x="{left - 6}" y="{y + 11}" text-anchor="end">{contender}</text>')
            parts.append(f'<rect x="{left}" y="{y}" width="{figure * scale:.1f}" height="{bar}" fill="{colour}"/>')
            parts.append(f'<text x="{left + figure * scale + 4:.1f}" y="{y + 11}">{figure:.2f}</text>')
        y += 2 * bar
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{y}" font-family="sans-serif" font-size="11">'
    )
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>\n"])


def main(*, rounds: int) -> None:
    loaders: dict[str, Loader] = {}
    versions: dict[str, dict[str, str]] = {}
    absent: dict[str, str] = {}  # contender -> why
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        lay_out(folder)
        for script, (environment, contenders) in CONTENDERS.items():
            try:
                loader = stack.enter_context(started(script, environment, folder))
                versions[script] = loader.hear()
                take_turns(dict.fromkeys(contenders, loader), rounds=1)  # warms it up, and does not count
                loaders |= dict.fromkeys(contenders, loader)
            except (RuntimeError, BrokenPipeError) as error:
                absent |= dict.fromkeys(contenders, str(error))
        times = take_turns(loaders, rounds=rounds)
        findings = [*peers(times), *parts(folder / "packed.e18", rounds=rounds, num_pictures=LONG_PASS)]
    record(
        "loader",
        rounds=rounds,
        versions=versions,
        absent=absent,
        cpu_ms=times,
        ratios=[asdict(finding) | {"verdict": finding.verdict} for finding in findings],
    )
    dated("loader", ".md").write_text(table(times, absent))
    dated("loader", ".svg").write_text(picture(times))
    print(f"\n{table(times, absent)}", *findings, sep="\n")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=5)
    main(**vars(arguments.parse_args()))
