"""Flowers fine-tuned from a run on CIFAR-10 against flowers from scratch, at equal training time.

The pre-training is not counted. The run from scratch is
the recipe ``small``, with as many epochs as go through the same number of pixels.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from cifar10 import cifar10
from record import DATA, RESULTS, record

import eighteen
from eighteen.base import recipe as recipes
from eighteen.base.rundir import RunDir

BASE = (  # the net of ``small`` and ``finetune`` at the size of CIFAR-10: the same weights, whatever the stem's stride
    "model.args={widths=[32, 64, 128, 256], stem_stride=2}",
    "optim.batch=128",
    "optim.lr=[[0, 0.02], [0.5, 0.2], [7, 0.0]]",
    "optim.ema=0.0",
    "phases=[{epochs=3, size=24, batch=128, min_scale=1.0}, {epochs=4, size=32, batch=128, min_scale=1.0}]",
    "augment={translate=1}",
    "eval={size=32, crop=1.0}",
)


def pixels(recipe: eighteen.Recipe) -> float:
    """What a recipe costs, in proportion to others."""
    return sum(phase.epochs * phase.sizes[0] ** 2 for phase in recipe.flat_phases)


def top1(name: str, data: eighteen.Dataset, folder: str, **options: object) -> eighteen.Result:
    result = eighteen.train(data, runs_dir=folder, name=name, **options)  # type: ignore[arg-type]
    (RESULTS / f"{name}.log").write_text(RunDir(result.run).log.read_text().replace(f"{folder}/", ""))
    print(f"{name}: {100 * (result.top1 or 0):.2f} % in {result.seconds:.0f} s", flush=True)
    return result


if __name__ == "__main__":
    small, finetune = recipes.load("small"), recipes.load("finetune")
    epochs = small.epochs * pixels(finetune) / pixels(small)
    with tempfile.TemporaryDirectory() as folder:
        base = eighteen.pack(cifar10(DATA / "cifar10" / "cifar10.tar"), Path(folder) / "cifar10.e18")
        flowers = eighteen.pack(DATA / "flowers", Path(folder) / "flowers.e18")
        start = top1("cifar10-base", base, folder, recipe="small", changes=BASE)
        coarser = ["model.args.stem_stride=4"]
        tuned = top1("flowers-finetuned", flowers, folder, recipe=finetune, init=start.run, changes=coarser)
        scratch = top1("flowers-equal-time", flowers, folder, recipe=small, epochs=epochs)
    runs = {"cifar10_base": start, "finetuned": tuned, "from_scratch": scratch}
    figures = {name: {"top1": 100 * (run.top1 or 0), "seconds": run.seconds} for name, run in runs.items()}
    record("finetuning", **figures)
