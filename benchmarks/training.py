"""Top-1 and training time of real runs: Fashion-MNIST from IDX files and flowers from scratch, a run a seed.

    python benchmarks/training.py fashion-mnist     >= 92 % in <= 300 s
    python benchmarks/training.py flowers           >= 75 % in <= 720 s

The time is that of the whole run: data, steps, evaluations and checkpoints, from the first step to the end.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from cifar10 import cifar10
from record import DATA, RESULTS, record, spread

import eighteen
from eighteen.base.hardware import num_cpus
from eighteen.base.rundir import RunDir

SEEDS = (0, 1, 2)


def measure(name: str, seeds: tuple[int, ...]) -> None:
    results = []
    with tempfile.TemporaryDirectory() as folder:
        source = cifar10(DATA / "cifar10" / "cifar10.tar") if name == "cifar10" else DATA / name
        data = eighteen.pack(source, Path(folder) / f"{name}.e18")
        for seed in seeds:
            result = eighteen.train(data, changes=[f"train.seed={seed}"], runs_dir=folder, on_event=show)
            results.append(result)
            log = RunDir(result.run).log
            (RESULTS / f"{name}-seed{seed}.log").write_text(log.read_text().replace(f"{folder}/", ""))
    tops = [100 * (result.top1 or 0) for result in results]
    seconds = [result.seconds for result in results]
    record(name, seeds=seeds, top1=spread(tops), each_top1=tops, seconds=spread(seconds), cpus=num_cpus())


def show(event: dict) -> None:
    if event["event"] == "epoch" and event["top1"] is not None:
        print(f"epoch {event['epoch']}  {3600 * event['hours']:.0f} s  top-1 {event['top1']:.2f} %", flush=True)


if __name__ == "__main__":
    names = sys.argv[1:2] or ["fashion-mnist", "flowers"]
    for name in names:
        measure(name, tuple(int(seed) for seed in sys.argv[2:]) or SEEDS)
