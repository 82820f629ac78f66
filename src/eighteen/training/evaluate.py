"""Count what a model gets right: every sample of a split exactly once, the same counts on any world."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from eighteen.base.recipe import Eval, Tta
from eighteen.base.world import World
from eighteen.data.augment import normalise
from eighteen.data.dataset import Split
from eighteen.data.loader import eval_batches
from eighteen.data.maker import Batch
from eighteen.data.tolerance import OnBad, refuse
from eighteen.data.views import views
from eighteen.training.card import Card
from eighteen.training.dist import sum_

NUM_BINS = 15  # of confidence, as Guo et al. 2017 (arXiv 1706.04599)


@dataclass(frozen=True)
class Evaluation:
    """top1, top5: shares of num_samples in [0, 1]; loss: mean cross-entropy in nats; all without TTA.

    size, rect: of the pictures, in pixels      tta: "none", or what top1_tta and top5_tta were taken with

    confusion: [K, K] int64, rows are the true classes
    calibration: [15, 3] float64 of count, summed confidence and number correct by confidence
    """

    classes: tuple[str, ...]
    split: str
    num_samples: int
    top1: float
    top5: float
    loss: float
    confusion: NDArray[np.int64]
    calibration: NDArray[np.float64]
    seconds: float
    size: int
    rect: bool
    tta: Tta = "none"
    top1_tta: float | None = None
    top5_tta: float | None = None


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    split: Split,
    card: Card,
    settings: Eval,
    world: World,
    *,
    device: torch.device,
    dtype: torch.dtype | None,
    on_bad: OnBad = refuse,
    watched: Callable[[Iterable[Batch]], Iterable[Batch]] = iter,
) -> Evaluation:
    """Run ``model`` ([N, C, H, W] float -> [N, K] logits) over a split and count.

    dtype: of autocast; None computes in float32. Batches are cut the same way at any world size and added up in
    float64, so ranks change nothing. num_samples is what was counted: all that ``on_bad`` did not let be left out.
    watched: passes the batches on; who looks on sees how far it is
    With ``settings.tta`` each picture is computed 2 or 6 times, and the plain scores are those without it.
    """
    began, num_classes = time.perf_counter(), len(card.classes)
    confusion = torch.zeros(num_classes * num_classes, dtype=torch.int64, device=device)
    calibration = torch.zeros(NUM_BINS, 3, dtype=torch.float64, device=device)
    totals = torch.zeros(4, dtype=torch.float64, device=device)  # summed loss; hits: top-5, and those with TTA

    def logits_of(images: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            return cast(Tensor, model(normalise(images, card.mean, card.std))).float()

    was_training = model.training
    model.eval()
    batches = eval_batches(split, settings, world, device=device, channels=card.channels, on_bad=on_bad)
    for batch in watched(batches):
        own, others = views(batch.images, batch.moved, settings.tta)
        logits = logits_of(batch.images)
        mean = sum((weight * logits_of(images) for weight, images in others), start=own * logits)
        confidence, predicted = logits.softmax(1).max(1)
        confidence = confidence.nan_to_num()  # logits that are not finite have none; the loss tells of them
        hit = predicted == batch.labels
        in_top5 = (logits.topk(min(5, num_classes), 1).indices == batch.labels[:, None]).any(1)
        top_tta = mean.topk(min(5, num_classes), 1).indices == batch.labels[:, None]
        confusion.index_add_(0, batch.labels * num_classes + predicted, torch.ones_like(predicted))
        bins = (confidence * NUM_BINS).long().clamp_(max=NUM_BINS - 1)
        calibration.index_add_(0, bins, torch.stack([torch.ones_like(confidence), confidence, hit], 1).double())
        loss = F.cross_entropy(logits, batch.labels, reduction="sum")
        totals += torch.stack([each.double() for each in (loss, in_top5.sum(), top_tta[:, 0].sum(), top_tta.sum())])
    model.train(was_training)
    for counted in (confusion, calibration, totals):
        sum_(counted, world)
    matrix = confusion.view(num_classes, num_classes).cpu().numpy()
    num_samples = int(matrix.sum())
    mean_loss, top5, *with_tta = (totals / max(1, num_samples)).tolist()
    top1 = float(np.trace(matrix)) / max(1, num_samples)
    return Evaluation(
        card.classes,
        split.name,
        num_samples,
        top1,
        top5,
        mean_loss,
        matrix,
        calibration.cpu().numpy(),
        time.perf_counter() - began,
        settings.size,
        settings.rect,
        settings.tta,
        *(with_tta if settings.tta != "none" else ()),
    )
