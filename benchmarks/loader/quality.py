"""What the fast ways cost in pixels: PSNR against Pillow, which decodes all of a picture and resizes the same box.

Random crops at 128, 160 and 224 px, and the centre at 224, of each picture of DATA/imagenet-sample: the native decoder,
apart where it lets the DCT shrink the picture and where it does not; the same where Pillow lets the DCT shrink it too;
and the renditions, where ``auto`` would read them and where it would not. A busy machine does not matter here.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from record import DATA, dated, record

from eighteen.advice.passes import EVAL_CROP, MIN_SCALE
from eighteen.base.recipe import Augment
from eighteen.data import dataset as datasets
from eighteen.data import native, reference
from eighteen.data.crops import eval_boxes, train_boxes
from eighteen.data.dataset import Rendition, Split
from eighteen.data.loader import choose_rendition
from eighteen.data.pack import pack

TASKS = {"crop 128": 128, "crop 160": 160, "crop 224": 224, "val 224": 224}
RENDITIONS = ("352", "256")
TARGETS = {"not shrunk": 54.0, "shrunk by the DCT": 49.0, "all": 49.0}  # dB, mean of all tasks
WAYS = ("not shrunk", "shrunk by the DCT", "shrunk by both", "all", *(f"from {name}" for name in RENDITIONS))
AUGMENT = Augment()

Found = dict[str, dict[str, list[float]]]  # dB of each picture, by task and way


def measure(split: Split, *, seed: int) -> Found:
    found: Found = {task: {} for task in TASKS}
    for task, size in TASKS.items():
        boxes = boxes_of(split.renditions["full"], task, seed)
        for sample in range(split.num_samples):
            for way, decibels in compare(split, sample, boxes[sample], size):
                found[task].setdefault(way, []).append(decibels)
    return found


def boxes_of(full: Rendition, task: str, seed: int) -> NDArray[np.float32]:
    widths, heights, samples = full.index["width"], full.index["height"], np.arange(len(full.index))
    if task.startswith("val"):
        return eval_boxes(widths, heights, crop=EVAL_CROP)
    return train_boxes(
        widths,
        heights,
        seed=seed,
        visits=np.zeros_like(samples),
        samples=samples,
        min_scale=MIN_SCALE,
        min_ratio=AUGMENT.min_ratio,
        max_ratio=AUGMENT.max_ratio,
    )


def compare(split: Split, sample: int, box: NDArray[np.float32], size: int) -> Iterator[tuple[str, float]]:
    """Each way to make the pixels of a box, and how near it comes to Pillow."""
    full = split.renditions["full"]
    width, height = side(full, sample)
    content = full.read(sample)
    expected = by_pillow(content, box.tolist(), size)
    made = native.decode(content, box.tolist(), (width, height), expected.shape)
    is_shrunk = min(box[2:]) >= 2 * size
    yield "shrunk by the DCT" if is_shrunk else "not shrunk", psnr(made, expected)
    yield "all", psnr(made, expected)
    if is_shrunk:
        yield "shrunk by both", psnr(made, reference.decode(content, box.tolist(), expected.shape))
    for name in RENDITIONS:
        smaller = split.renditions[name]
        across, down = side(smaller, sample)
        scaled = box * np.tile([across / width, down / height], 2)
        made = native.decode(smaller.read(sample), scaled.tolist(), (across, down), expected.shape)
        yield f"from {name}", psnr(made, expected)


def side(rendition: Rendition, sample: int) -> tuple[int, int]:
    row = rendition.index[sample]
    return int(row["width"]), int(row["height"])


def by_pillow(content: bytes, box: list[float], size: int) -> NDArray[np.uint8]:
    """All of the picture decoded, the box resized with antialiasing; [size, size, 3]."""
    left, top, width, height = box
    image = Image.open(io.BytesIO(content)).convert("RGB")
    corners = (left, top, min(left + width, image.width), min(top + height, image.height))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=corners))


def psnr(made: NDArray[np.uint8], expected: NDArray[np.uint8]) -> float:
    """In dB; equal pictures count as if a twentieth of their pixels were off by one, which is 61 dB."""
    error = ((made.astype(np.float64) - expected) ** 2).mean()
    return float(10 * np.log10(255**2 / max(error, 0.05)))


def chosen(split: Split) -> dict[str, str]:
    """Task -> the rendition that ``auto`` reads."""
    found = {}
    for task, size in TASKS.items():
        is_central = task.startswith("val")
        share = EVAL_CROP**2 if is_central else (1 + MIN_SCALE) / 2
        rendition = choose_rendition(split, "auto", size=size, share=share, square=is_central)
        found[task] = next(name for name, one in split.renditions.items() if one is rendition)
    return found


def table(found: Found, choice: dict[str, str]) -> str:
    lines = ["| PSNR, dB | " + " | ".join(WAYS) + " | auto reads |", "|---|" + "---|" * (len(WAYS) + 1)]
    for task, by_way in found.items():
        cells = [f"{mean(by_way[way]):.1f} (n {len(by_way[way])})" if way in by_way else "-" for way in WAYS]
        lines.append(f"| {task} | " + " | ".join(cells) + f" | {choice[task]} |")
    return "\n".join(lines) + "\n"


def main(*, rounds: int) -> None:
    found: Found = {task: {} for task in TASKS}
    with tempfile.TemporaryDirectory() as folder:
        split = packed(Path(folder))
        choice = chosen(split)
        for seed in range(rounds):
            for task, by_way in measure(split, seed=seed).items():
                for way, decibels in by_way.items():
                    found[task].setdefault(way, []).extend(decibels)
    by_target = {way: [one for by_way in found.values() for one in by_way.get(way, [])] for way in TARGETS}
    means = {way: mean(decibels) for way, decibels in by_target.items()}
    by_task = {
        task: {way: {"n": len(all_), "mean": mean(all_), "min": min(all_)} for way, all_ in by_way.items()}
        for task, by_way in found.items()
    }
    record("quality", rounds=rounds, decoder=native.about(), auto=choice, mean_db=means, tasks=by_task)
    dated("quality", ".md").write_text(table(found, choice))
    print(f"\n{table(found, choice)}")
    for way, least in TARGETS.items():
        print(f"{way:20} {means[way]:.1f} dB  >= {least}  {'reached' if means[way] >= least else 'MISSED'}")


def packed(folder: Path) -> Split:
    source = folder / "pictures"
    for path in sorted((DATA / "imagenet-sample").glob("*.JPEG")):
        link = source / path.name.split("_")[0] / path.name
        link.parent.mkdir(parents=True)
        link.symlink_to(path.resolve())
    pack(source, folder / "packed.e18", val=0.0, renditions=[int(name) for name in RENDITIONS])
    return datasets.open(folder / "packed.e18").splits["train"]


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=1, help="crops of each picture and task")
    main(**vars(arguments.parse_args()))
