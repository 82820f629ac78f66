"""A net that takes its time while ``/tmp/slow`` is there, so that much can happen to a training of few steps."""

from __future__ import annotations

import time
from pathlib import Path

from torch import nn

from eighteen.training.compact import CompactNet


def net(num_classes: int, in_chans: int = 3) -> nn.Module:
    made = CompactNet(num_classes, in_chans, widths=[8, 16], stem_stride=2)
    made.register_forward_pre_hook(_wait)
    return made


def _wait(*_: object) -> None:
    if Path("/tmp/slow").exists():
        time.sleep(0.2)
