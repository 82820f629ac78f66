"""What must be known to use a model's weights: its classes, how its pictures are prepared, how it is built. Stored beside the weights."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, Self


@dataclass(frozen=True)
class Card:
    """size: side of the picture in pixels after the centre crop; crop: share of the short side that the crop keeps; mean, std: per channel, of pixels in [0, 1].

    kind: how the training pictures were packed, "jpeg" or "raw"; model: ``{"name": ..., "args": {...}}`` as the recipe has it.
    """

    classes: tuple[str, ...]
    channels: int
    size: int
    crop: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    kind: Literal["jpeg", "raw"]
    model: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> Self:
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in tree.items()})
