"""Growing picture sizes against the largest one all the time: the same recipe, epochs and pictures, a pair a seed.

    python benchmarks/growing.py flowers    >= 1.5 times less time, top-1 within a point, mean of 3 seeds

The two of a seed follow each other. More arguments are changes of both, as of ``--set``, or ``--epochs=N``.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

from record import DATA, RESULTS, record, spread

import eighteen
from eighteen.base import recipe as recipes
from eighteen.base.recipe import Recipe
from eighteen.base.rundir import RunDir

SEEDS = (0, 1, 2)


def constant(recipe: Recipe) -> Recipe:
    """The recipe with the largest of its sizes in all phases."""
    largest = max(side for phase in recipe.phases for side in phase.sizes)
    phases = tuple(phase.model_copy(update={"size": largest}) for phase in recipe.phases)
    return recipe.model_copy(update={"phases": phases})


def measure(name: str, epochs: float | None, changes: list[str]) -> None:
    growing = recipes.load("small", epochs=epochs, changes=changes)
    kinds = {"growing": growing, "constant": constant(growing)}
    results: dict[str, list[eighteen.Result]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as folder:
        data = eighteen.pack(DATA / name, Path(folder) / f"{name}.e18")
        for seed in SEEDS:
            for kind, recipe in kinds.items():
                result = eighteen.train(data, recipe=recipe, changes=[f"train.seed={seed}"], runs_dir=folder)
                log = RunDir(result.run).log.read_text().replace(f"{folder}/", "")
                (RESULTS / f"{name}-{kind}-seed{seed}.log").write_text(log)
                print(f"{kind}, seed {seed}: {100 * (result.top1 or 0):.2f} % in {result.seconds:.0f} s", flush=True)
                results[kind].append(result)
    tops = {kind: [100 * (result.top1 or 0) for result in found] for kind, found in results.items()}
    seconds = {kind: [result.seconds for result in found] for kind, found in results.items()}
    record(
        "growing",
        dataset=name,
        epochs=growing.epochs,
        seeds=SEEDS,
        top1=tops,
        mean_top1={kind: statistics.mean(values) for kind, values in tops.items()},
        seconds=seconds,
        times_less=spread([slow / fast for fast, slow in zip(seconds["growing"], seconds["constant"], strict=True)]),
    )


if __name__ == "__main__":
    given = [one for one in sys.argv[2:] if not one.startswith("--epochs=")]
    epochs = [float(one.removeprefix("--epochs=")) for one in sys.argv[2:] if one not in given]
    measure(sys.argv[1] if sys.argv[1:] else "flowers", epochs[0] if epochs else None, given)
