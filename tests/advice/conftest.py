"""The nets and short runs of the trainer's tests are found here too, and in the processes that tests start."""

from __future__ import annotations

import os
import sys
from pathlib import Path

THERE = str(Path(__file__).parents[1] / "training")
sys.path.insert(0, THERE)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [THERE, os.environ.get("PYTHONPATH")]))
