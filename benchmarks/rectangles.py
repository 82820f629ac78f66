"""Rectangular against square validation of the same checkpoints: top-1 of each, a run a seed.

    python benchmarks/rectangles.py                                            # drawn pictures of ImageNet's shapes
    python benchmarks/rectangles.py photos.e18 --recipe small --sizes 128,160  # pictures of your own

Every checkpoint is evaluated at each size and crop as squares and as rectangles, without TTA and with (flip).
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import product
from pathlib import Path
from statistics import mean, stdev

from record import dated, record

import eighteen
from eighteen.base.rundir import RunDir
from eighteen.demo.pictures import CLASSES, picture

# Width and height, and about how many of 100 pictures of ImageNet have that ratio; a quarter of their size.
SHAPES = {(125, 94): 56, (94, 125): 18, (125, 83): 12, (83, 125): 5, (125, 125): 9}
CROPS = (0.875, 1.0)
RECIPE = ("phases.0.size=64", "phases.0.min_scale=0.35", "eval.size=64", "eval.every=100")  # over that of the demo


def draw(folder: Path, num_samples: int) -> Path:
    """Pictures whose thing lies anywhere in them, packed with a third of them for validation."""
    shapes = [sides for sides, count in SHAPES.items() for _ in range(count)]
    for sample in range(num_samples):
        number, label = divmod(sample, len(CLASSES))
        sides = shapes[(37 * number + 7 * label) % len(shapes)]  # 37 has no factor of 100: each shape in each class
        image, quality = picture(label, number, seed=18, sides=sides)
        path = folder / "pictures" / CLASSES[label] / f"{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=quality)
    return eighteen.pack(folder / "pictures", folder / "pictures.e18", val=1 / 3).path


def measure(data: Path, folder: Path, options: argparse.Namespace, sizes: list[int]) -> dict[str, dict]:
    """{setting: {top1: of each seed, mean, spread ...}}"""
    found: dict[str, list[dict]] = {}
    log, changes = [], RECIPE if options.recipe == "demo" else ()
    for seed in range(options.seeds):
        result = eighteen.train(
            data, recipe=options.recipe, changes=[*changes, f"train.seed={seed}"], runs_dir=folder, name=f"seed{seed}"
        )
        log += [f"seed {seed}", RunDir(result.run).log.read_text().replace(f"{folder}/", "")]
        for size, crop, rect in product(sizes, CROPS, (False, True)):
            name = f"{size} px, crop {crop:g}, {'rectangles' if rect else 'squares'}"
            one = eighteen.evaluate(result.run, data, size=size, crop=crop, rect=rect, tta="flip")
            assert one.confusion.sum() == one.num_samples
            found.setdefault(name, []).append({"top1": one.top1, "top1_tta": one.top1_tta, "seconds": one.seconds})
            line = f"seed {seed}  {name}: {one.top1:.2%} without TTA, {one.top1_tta:.2%} with TTA (flip)"
            print(line, flush=True)
            log.append(line)
    dated("rectangles", ".log").write_text("\n".join(log) + "\n")
    return {name: summed_up(runs) for name, runs in found.items()}


def summed_up(runs: list[dict]) -> dict:
    figures: dict = {"n": len(runs), "seconds_with_tta": [round(run["seconds"], 2) for run in runs]}
    for key in ("top1", "top1_tta"):
        each = [100 * run[key] for run in runs]
        spread = stdev(each) if len(each) > 1 else 0.0
        figures[key] = {
            "mean": round(mean(each), 2),
            "stdev": round(spread, 2),
            "each": [round(one, 2) for one in each],
        }
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", nargs="?", type=Path, help="packed, with a val split; drawn pictures if left out")
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--sizes", default="64,96", help="multiples of 32")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=3600, help="to draw")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = options.dataset or draw(Path(folder), options.pictures)
        figures = measure(data, Path(folder), options, [int(size) for size in options.sizes.split(",")])
        about = eighteen.open(data)
        counts = {name: split.num_samples for name, split in about.splits.items()}
    drawn = {f"{width}x{height}": share for (width, height), share in SHAPES.items()} if not options.dataset else None
    record("rectangles", recipe=options.recipe, pictures=counts, shapes_percent=drawn, settings=figures)
