"""What must be known to use a model's weights, stored beside them: its classes, its preprocessing, how it is built."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, Self


@dataclass(frozen=True)
class Card:
    """size: side of the picture in pixels after the centre crop      crop: share of the short side that the crop keeps

    rect: whether a picture keeps its aspect ratio, its short side being ``size``
    mean, std: per channel, of pixels in [0, 1]
    kind: how the training pictures were packed
    model: ``{"name": ..., "args": {...}}`` as the recipe has it
    """

    classes: tuple[str, ...]
    channels: int
    size: int
    crop: float
    rect: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    kind: Literal["jpeg", "raw"]
    model: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> Self:
        tuples = {key: tuple(tree[key]) for key in ("classes", "mean", "std")}
        return cls(**{**tree, **tuples})
