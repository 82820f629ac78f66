"""One optimiser step: the hot path. Nothing here waits for the device, and nothing is done per picture."""

from __future__ import annotations

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor

from eighteen.base.order import random_bits
from eighteen.base.schedule import Step
from eighteen.data.augment import augment
from eighteen.data.maker import Batch
from eighteen.training.job import Job
from eighteen.training.models import check_logits
from eighteen.training.optim import set_rates
from eighteen.training.state import State

_DROPOUT = 0xD0  # keys the random bits of dropout apart from those of samples


def train_step(job: Job, state: State, batch: Batch, now: Step, *, count_hits: bool, asks: tuple[bool, ...]) -> Tensor:
    """Learn from this rank's slice of a batch; returns the ``reporting.Outcome`` of all ranks as a [9] float32 tensor.

    If the loss or a gradient of any rank is not finite no weight and no running statistic changes.
    asks: (stop, save, revise, spent, taken), or the first of them, told to all ranks
    """
    recipe, world, parts = job.recipe, job.world, state.parts.cut(batch, now.batch, now.micro_batch)
    images, targets = augment(
        batch,
        recipe.augment.at_strength(now.row.strength),
        seed=recipe.train.seed,
        num_classes=job.num_classes,
        mean=state.card.mean,
        std=state.card.std,
    )
    outcome = torch.zeros(9, device=job.device)
    for place, asked in enumerate(asks, start=4):
        if asked:  # hardly ever, and each write is a kernel
            outcome[place] = 1
    set_rates(state.optimizer, now)
    told = None
    for part in parts:
        _seed(job.device, int(random_bits(recipe.train.seed, now.number, part.key, _DROPOUT)[0] >> 1))
        with state.parts.computing(part):
            with torch.autocast(job.device.type, job.dtype, enabled=job.dtype is not None):
                logits = state.net(images[part.start : part.stop])
            loss = _loss(job, logits, targets[part.start : part.stop], now.label_smoothing)
            outcome[0] += loss.detach()
            if count_hits:
                outcome[1:3] += _hits(logits, batch.labels[part.start : part.stop])
            if part.is_last and world.size > 1:
                outcome[3] = ~outcome[0].isfinite()
                told = torch.distributed.all_reduce(outcome, async_op=True)  # travels while backward computes
            (loss * (state.parts.loss_scale / now.batch)).backward()
    state.parts.finish()
    if state.communication:
        state.communication.step_done()
    if told:
        told.wait()
    update(job, state, outcome)
    return outcome


def _seed(device: torch.device, seed: int) -> None:
    """Key dropout and its like, which draw from the default generators, by step and part: a resumed run repeats them.

    torch.manual_seed takes 0.1 to 0.4 ms: where no GPU is in use it notes the whole call stack for one that might be.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def update(job: Job, state: State, outcome: Tensor) -> None:
    """Clip, then let the fused optimiser step, or not if anything was not finite; all decided on the device."""
    gradients = [weight.grad for weight in state.weights if weight.grad is not None]
    bad = (~outcome[:1].isfinite() | (outcome[3:4] > 0)).float()
    # what torch's GradScaler asks for: does nothing to finite gradients, since they are scaled by 1
    torch.ops.aten._amp_foreach_non_finite_check_and_unscale_(gradients, bad, torch.ones_like(bad))
    outcome[3:4] = bad
    if clip := job.recipe.optim.clip:
        torch.nn.utils.clip_grad_norm_(state.weights, clip, foreach=True)
    state.optimizer.found_inf = bad[0]  # type: ignore[attr-defined]  # fused kernels change nothing when it is 1
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=state.drops_gradients)
    torch.where(bad > 0, state.parts.before[0], state.buffers, out=state.buffers)
    if state.ema:
        state.ema.update(state.step - state.plan.first_from(job.recipe.optim.ema_from))


def _loss(job: Job, logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy in float32, summed over the samples."""
    check_logits(logits, job.recipe.model.name, num_samples=len(targets), num_classes=job.num_classes)
    return F.cross_entropy(logits.float(), targets, job.class_weights, label_smoothing=smoothing, reduction="sum")


def _hits(logits: Tensor, labels: Tensor) -> Tensor:
    """How many samples have their label first, and among the first five: [2]."""
    found = logits.detach().topk(min(5, logits.shape[1]), 1).indices == labels[:, None]
    return torch.stack([found[:, 0].sum(), found.sum()])
