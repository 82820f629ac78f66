"""Batch norm's statistics, taken anew for averaged weights: those of every step's weights, averaged, are not theirs.

In: the run's own train pictures. Out: running statistics, the same on any number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from eighteen.data.augment import normalise
from eighteen.data.loader import eval_batches
from eighteen.training.dist import sum_
from eighteen.training.job import Job
from eighteen.training.state import State


def recalibrate(this: Job, state: State) -> None:
    """Give the model, which has the averaged weights now, statistics over ``optim.recalibrate`` pictures (Izmailov et
    al. 2018, arXiv 1803.05407), if the recipe wants it.

    The pictures are the first of the run's order, as evaluation sees them, in batches of its size. Each statistic is
    the mean of those of the batches, by their pictures; frozen layers keep theirs. Bad samples are left out: training
    tells of them. All ranks have to call it; after one step it computes once. The model is in evaluation mode after it.
    """
    if not this.recipe.optim.recalibrate:
        return
    if state.recalibrated is None or state.recalibrated[0] != state.step:
        state.recalibrated = state.step, _taken(this, state)
    state.buffers.copy_(state.recalibrated[1])


@torch.no_grad()
def _taken(this: Job, state: State) -> Tensor:
    """Every batch has a row of its own, which one rank fills: sums do not depend on how the ranks shared them."""
    row = state.plan.at(max(0, state.step - 1)).row
    settings = this.recipe.eval_in(row).model_copy(update={"rect": False})
    split = this.data.splits["train"]
    count = min(this.recipe.optim.recalibrate, split.num_samples)
    if count % settings.batch == 1 and count > 1:
        count -= 1  # one picture has no variance where a layer has seen it shrink to one pixel
    rows = torch.zeros(-(-count // settings.batch), 1 + state.buffers.numel(), dtype=torch.float64, device=this.device)
    how: dict[str, Any] = {"device": this.device, "channels": this.channels, "on_bad": lambda _: None}
    batches = eval_batches(split, settings, this.world, samples=this.order.at(0, count)[0], **how)
    with _measuring(state):
        for number, batch in enumerate(batches):
            with torch.autocast(this.device.type, this.dtype, enabled=this.dtype is not None):
                state.model(normalise(batch.images, state.card.mean, state.card.std))
            mine = rows[this.world.rank + number * this.world.size]
            mine[0] = len(batch.ids)
            mine[1:] = state.buffers
    sum_(rows, this.world)
    return (rows[:, :1] * rows[:, 1:]).sum(0).div_(rows[:, 0].sum()).float()


@contextmanager
def _measuring(state: State) -> Iterator[None]:
    """For as long as the block lasts a forward pass leaves the statistics of its own batch, and nothing else."""
    frozen = {inner for module in state.frozen for inner in module.modules()}
    state.model.eval()
    norms = [one for one in state.model.modules() if isinstance(one, _BatchNorm) and one not in frozen]
    norms = [one for one in norms if one.track_running_stats]
    counters = [one.num_batches_tracked for one in norms if one.num_batches_tracked is not None]
    momenta, counted = [one.momentum for one in norms], [one.clone() for one in counters]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for counter, before in zip(counters, counted, strict=True):
            counter.copy_(before)
        state.model.eval()
