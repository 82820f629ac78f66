"""Our loader, on each rendition, in the project's own environment.

Takes turns as ``turns`` says: python ours.py FOLDER, which holds packed.e18 and folder/CLASS/*.jpg.
"""

from __future__ import annotations

import sys
from pathlib import Path

from turns import BATCH, SIZES, Pass, serve

from eighteen import __version__
from eighteen.advice.passes import evaluation, some, training
from eighteen.data import dataset as datasets
from eighteen.data.decoding import DECODER

FOLDER = Path(sys.argv[1])


def prepare(contender: str, task: str) -> Pass:
    num_pictures = sum(1 for _ in (FOLDER / "folder").glob("*/*")) // BATCH * BATCH
    split = some(datasets.open(FOLDER / "packed.e18").splits["train"], num_pictures)
    how = {"size": SIZES[task], "batch": BATCH, "rendition": contender.removeprefix("ours "), "num_threads": 1}

    def train() -> int:
        with training(split, **how) as loader:
            return sum(len(batch.ids) for _, batch in loader)

    def evaluate() -> int:
        return sum(len(batch.ids) for batch in evaluation(split, **how))

    return train if task.startswith("crop") else evaluate


if __name__ == "__main__":
    serve(prepare, eighteen=__version__, decoder=DECODER)
