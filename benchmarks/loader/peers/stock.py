"""PyTorch's DataLoader with torchvision's ImageFolder and transforms on Pillow; WebDataset with the same transforms.

Takes turns as ``turns`` says: python stock.py FOLDER, which holds folder/CLASS/*.jpg and packed.e18.
"""

from __future__ import annotations

import sys
from pathlib import Path

import PIL
import torch
import torchvision
import webdataset
from torchvision import datasets
from torchvision import transforms as T
from turns import BATCH, MIN_SCALE, SIZES, Pass, serve

FOLDER = Path(sys.argv[1])


def transform(task: str) -> T.Compose:
    size = SIZES[task]
    if task.startswith("val"):
        return T.Compose([T.Resize(256), T.CenterCrop(size), T.PILToTensor()])
    return T.Compose([T.RandomResizedCrop(size, (MIN_SCALE, 1.0)), T.RandomHorizontalFlip(), T.PILToTensor()])


def shards() -> list[str]:
    """A packed dataset is one of WebDataset's too; over and over, until it has the pictures of the folder."""
    packed = sorted((FOLDER / "packed.e18" / "train").glob("full-*.tar"))
    index = [line for line in (FOLDER / "packed.e18" / "train" / "sources.jsonl").read_text().splitlines() if line]
    return [str(path) for path in packed] * (sum(1 for _ in (FOLDER / "folder").glob("*/*")) // len(index))


def prepare(contender: str, task: str) -> Pass:
    change = transform(task)
    if contender == "stock":
        folder = datasets.ImageFolder(str(FOLDER / "folder"), change)
        loader = torch.utils.data.DataLoader(folder, BATCH, shuffle=True, num_workers=1, persistent_workers=True)
    else:
        shard = webdataset.WebDataset(shards(), shardshuffle=False, empty_check=False).shuffle(100).decode("pilrgb")
        batches = shard.to_tuple("jpg", "cls").map_tuple(change).batched(BATCH)
        loader = webdataset.WebLoader(batches, batch_size=None, num_workers=1, persistent_workers=True)
    return lambda: sum(len(images) for images, _ in loader)


if __name__ == "__main__":
    torch.set_num_threads(1)
    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__, "pillow": PIL.__version__}
    serve(prepare, **versions, webdataset=webdataset.__version__)
