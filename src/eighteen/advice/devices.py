"""What is published of GPUs, as far as a step can be scaled by it: ``devices.csv``."""

from __future__ import annotations

from datetime import date
from typing import Annotated

from pydantic import Field

from eighteen.advice.published import Fact, bundled

Positive = Annotated[float, Field(gt=0)]


class Device(Fact):
    """tflop_s: of a dense matrix product in bf16, or in fp16 where there is no bf16      gb_s: of its memory
    link_gb_s: to the other GPUs of the machine, both ways together      watts: the most it is made for
    resnet50_images_s: training on one, at 224 px in mixed precision
    """

    gpu: Annotated[str, Field(min_length=1)]
    tflop_s: Positive
    memory_gb: Positive
    gb_s: Positive
    watts: Positive
    link_gb_s: Positive
    resnet50_images_s: Positive | None = None
    source: str
    date: date


def devices() -> dict[str, Device]:
    """By name."""
    return {one.gpu: one for one in bundled("devices.csv", Device)}
