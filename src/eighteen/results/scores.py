"""What an evaluation says about a classifier, as numbers: figures of each class, calibration, and one summary.

In: an ``Evaluation``, the counts of one pass over a split. Out: plain values; None where there is nothing to divide by.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

import numpy as np


class Evaluation(Protocol):
    """What one pass over a split counted. top1, top5: shares in [0, 1]; loss: mean of a sample, in nats."""

    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def confusion(self) -> np.ndarray:
        """[K, K] int64, rows the true class, columns the predicted one."""
        ...

    @property
    def calibration(self) -> np.ndarray:
        """[B, 3] float64, a row a bin of confidence, all as wide: samples, sum of confidence, number right."""
        ...

    @property
    def num_samples(self) -> int: ...
    @property
    def top1(self) -> float: ...
    @property
    def top5(self) -> float: ...
    @property
    def loss(self) -> float: ...
    @property
    def split(self) -> str: ...
    @property
    def seconds(self) -> float: ...
    @property
    def size(self) -> int:
        """Of the pictures, in pixels: their shorter side if ``rect``."""
        ...

    @property
    def rect(self) -> bool: ...
    @property
    def tta(self) -> str:
        """What ``top1_tta`` and ``top5_tta`` were taken with; they are None if it is "none"."""
        ...

    @property
    def top1_tta(self) -> float | None: ...
    @property
    def top5_tta(self) -> float | None: ...


class ClassScore(NamedTuple):
    """Figures of one class, shares in [0, 1]; None for want of samples, or of predictions."""

    name: str
    samples: int
    precision: float | None
    recall: float | None
    f1: float | None
    most_confused_with: str | None  # the wrong class that its samples most often got
    times_confused: int


def per_class(evaluation: Evaluation) -> list[ClassScore]:
    """One score a class, in the order of the classes."""
    matrix = evaluation.confusion
    samples, predicted, right = (counts.tolist() for counts in (matrix.sum(1), matrix.sum(0), np.diag(matrix)))
    wrong = matrix - np.diag(np.diag(matrix))
    scores = []
    for k, (name, other) in enumerate(zip(evaluation.classes, wrong.argmax(1).tolist(), strict=True)):
        precision, recall = share(right[k], predicted[k]), share(right[k], samples[k])
        f1 = share(2 * right[k], samples[k] + predicted[k])
        times = int(wrong[k, other])
        confused_with = evaluation.classes[other] if times else None
        scores.append(ClassScore(name, samples[k], precision, recall, f1, confused_with, times))
    return scores


def expected_calibration_error(calibration: np.ndarray) -> float:
    """How far confidence is from accuracy: the gap of each bin, by its samples (Guo et al. 2017, arXiv 1706.04599).

    calibration: [B, 3] float64, a row a bin: samples, sum of confidence, number right -> in [0, 1]; 0 without samples
    """
    samples, confidence, right = calibration.T
    return float(np.abs(confidence - right).sum() / max(samples.sum(), 1))


def summary(evaluation: Evaluation) -> dict[str, Any]:
    """The figures of a whole split, ready for JSON. The macro means leave out classes without a value."""
    scores = per_class(evaluation)
    return {
        "split": evaluation.split,
        "num_samples": evaluation.num_samples,
        "num_classes": len(evaluation.classes),
        "top1": evaluation.top1,
        "top5": evaluation.top5,
        **{name: getattr(evaluation, name) for name in ("size", "rect", "tta", "top1_tta", "top5_tta")},
        "loss": evaluation.loss if math.isfinite(evaluation.loss) else None,
        "ece": expected_calibration_error(evaluation.calibration),
        "macro_precision": _mean(score.precision for score in scores),
        "macro_recall": _mean(score.recall for score in scores),
        "macro_f1": _mean(score.f1 for score in scores),
        "seconds": evaluation.seconds,
    }


def share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return share(sum(known), len(known))
