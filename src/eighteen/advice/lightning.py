"""Steps of Lightning's Trainer, with all left out that it can do without: no logger, no checkpoints, no progress bar.

Lightning is no dependency of ours; ImportError, with what to type, where it is not installed.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from eighteen.advice.ceilings import synchronize

PRECISIONS: dict[torch.dtype | None, Any] = {None: "32-true", torch.bfloat16: "bf16-mixed"}


def step_seconds(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    batches: Sequence[tuple[Tensor, Tensor]],
    dtype: torch.dtype | None,
    *,
    num_warm: int,
) -> float:
    """A run of a step a batch: seconds of one of those after the first ``num_warm``.

    loss: of a batch (images, labels), by ``model``      dtype: what autocast computes in, None for float32
    """
    try:
        from lightning import pytorch as lightning
    except ImportError as error:
        raise ImportError("no Lightning to compare with: pip install lightning") from error
    device = batches[0][0].device

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.began = model, 0.0

        def training_step(self, batch: tuple[Tensor, Tensor], number: int) -> Tensor:
            if number == num_warm:
                synchronize(device)
                self.began = time.perf_counter()
            return loss(*batch)

        def on_train_end(self) -> None:
            synchronize(device)
            self.seconds = (time.perf_counter() - self.began) / (len(batches) - num_warm)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return optimizer

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            max_steps=len(batches),
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=1,
            precision=PRECISIONS[dtype],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        module = Module()
        made: Any = list(batches)  # a list has all that a DataLoader asks of a dataset
        trainer.fit(module, torch.utils.data.DataLoader(made, batch_size=None))
    model.to(device)  # Lightning leaves it on the CPU
    return module.seconds
