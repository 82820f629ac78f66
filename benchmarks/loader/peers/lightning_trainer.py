"""Lightning's Trainer, with all left out that it can do without: no logger, no checkpoints, no progress bar.

Takes turns as ``steps`` says: python lightning_trainer.py FOLDER, which holds noise.npz and sheets/CLASS/*.jpg.
"""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
import torch.nn.functional as F
from steps import BATCH, FIRST, MEAN, MIN_SCALE, NUM_STEPS, SIZE, STD, TOTAL, WIDTHS, Clocks, a_step, clocks, serve
from torchvision import datasets
from torchvision import transforms as T

from eighteen.training.compact import CompactNet  # the file alone, which needs only torch

FOLDER, IS_BF16 = Path(sys.argv[1]), sys.argv[2] == "bf16"


class Module(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = CompactNet(10, 3, widths=WIDTHS).to(memory_format=torch.channels_last)

    def training_step(self, batch: Any, _number: int) -> torch.Tensor:
        images, labels = batch
        pixels = images.float().sub_(255 * MEAN).div_(255 * STD).contiguous(memory_format=torch.channels_last)
        return F.cross_entropy(self.net(pixels).float(), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True)


class Clock(lightning.Callback):
    """Looks at the time before the first step that counts and after the last."""

    def on_train_batch_start(self, *_: Any) -> None:
        self._number = getattr(self, "_number", -1) + 1
        if self._number == FIRST:
            self._began = _now()

    def on_train_batch_end(self, *_: Any) -> None:
        if self._number == FIRST + NUM_STEPS - 1:
            self.step = a_step(self._began, _now())


def _now() -> Clocks:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clocks()


def in_memory() -> torch.utils.data.DataLoader[Any]:
    """Batches that are made already."""
    noise = np.load(FOLDER / "noise.npz")
    images, labels = torch.from_numpy(noise["images"]).permute(0, 3, 1, 2), torch.from_numpy(noise["labels"])
    made = list(zip(images.split(BATCH), labels.split(BATCH), strict=True))
    return torch.utils.data.DataLoader([made[number % len(made)] for number in range(TOTAL)], batch_size=None)


def stock() -> torch.utils.data.DataLoader[Any]:
    crop = T.RandomResizedCrop(SIZE, (MIN_SCALE, 1.0))
    folder = datasets.ImageFolder(str(FOLDER / "sheets"), T.Compose([crop, T.RandomHorizontalFlip(), T.PILToTensor()]))
    many = torch.utils.data.ConcatDataset([folder] * (1 + TOTAL * BATCH // len(folder)))
    return torch.utils.data.DataLoader(many, BATCH, shuffle=True, drop_last=True, num_workers=1)


def turn(task: str) -> Clocks:
    clock = Clock()
    trainer = lightning.Trainer(
        max_steps=TOTAL,
        accelerator="auto",
        devices=1,
        precision="bf16-mixed" if IS_BF16 else "32-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[clock],
    )
    trainer.fit(Module(), in_memory() if task == "memory" else stock())
    return clock.step


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    serve(turn, lightning=lightning.__version__, torch=torch.__version__)
