"""Flowers fine-tuned from a run on CIFAR-10 against flowers from scratch, at equal training time.

The CIFAR-10 pictures are a tar of mosaics, 250 pictures each. The pre-training is not counted. The run from scratch is
the recipe ``small``, with as many epochs as go through the same number of pixels.
"""

from __future__ import annotations

import io
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from record import DATA, RESULTS, record

import eighteen
from eighteen.base import recipe as recipes
from eighteen.base.rundir import RunDir

SIDE, ACROSS, DOWN = 32, 25, 10


def cifar10(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{"train": (images [50000, 32, 32, 3] uint8, labels), "val": (images [10000, ...], labels)}, by folder."""
    found: dict[str, list[tuple[np.ndarray, str]]] = {"train": [], "test": []}
    with tarfile.open(path) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isfile() else None
            parts = Path(member.name).parts
            if file and len(parts) >= 3 and parts[-3] in found:
                mosaic = np.asarray(Image.open(io.BytesIO(file.read())).convert("RGB"))
                tiles = mosaic.reshape(DOWN, SIDE, ACROSS, SIDE, 3).swapaxes(1, 2).reshape(-1, SIDE, SIDE, 3)
                found[parts[-3]].append((tiles, parts[-2]))
    classes = sorted({name for _, name in found["train"]})

    def arrays(split: str) -> tuple[np.ndarray, np.ndarray]:
        labels = np.concatenate([np.full(len(tiles), classes.index(name)) for tiles, name in found[split]])
        return np.concatenate([tiles for tiles, _ in found[split]]), labels

    return {"train": arrays("train"), "val": arrays("test")}


def pixels(recipe: eighteen.Recipe) -> float:
    """What a recipe costs, in proportion to others."""
    return sum(phase.epochs * phase.sizes[0] ** 2 for phase in recipe.flat_phases)


def top1(name: str, data: eighteen.Dataset, folder: str, **options: object) -> eighteen.Result:
    result = eighteen.train(data, runs_dir=folder, name=name, **options)  # type: ignore[arg-type]
    (RESULTS / f"{name}.log").write_text(RunDir(result.run).log.read_text().replace(f"{folder}/", ""))
    print(f"{name}: {100 * (result.top1 or 0):.2f} % in {result.seconds:.0f} s", flush=True)
    return result


if __name__ == "__main__":
    widths = "model.args.widths=[32, 64, 128, 256]"  # those of ``small``: the same weights, whatever the stem's stride
    small, finetune = recipes.load("small"), recipes.load("finetune")
    epochs = small.epochs * pixels(finetune) / pixels(small)
    with tempfile.TemporaryDirectory() as folder:
        base = eighteen.pack(cifar10(DATA / "cifar10" / "cifar10.tar"), Path(folder) / "cifar10.e18")
        flowers = eighteen.pack(DATA / "flowers", Path(folder) / "flowers.e18")
        start = top1("cifar10-base", base, folder, recipe="tiny", changes=[widths])
        coarser = ["model.args.stem_stride=4"]
        tuned = top1("flowers-finetuned", flowers, folder, recipe=finetune, init=start.run, changes=coarser)
        scratch = top1("flowers-equal-time", flowers, folder, recipe=small, epochs=epochs)
    runs = {"cifar10_base": start, "finetuned": tuned, "from_scratch": scratch}
    figures = {name: {"top1": 100 * (run.top1 or 0), "seconds": run.seconds} for name, run in runs.items()}
    record("finetuning", **figures)
