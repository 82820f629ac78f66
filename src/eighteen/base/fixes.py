"""What the doctor changes while a run trains: ``RUN/fixes.json``, which all ranks take up at the end of an epoch.

Keys of the recipe that change nothing of which pictures are seen: ``data.threads``, ``data.prefetch`` and, where memory
is short, ``train.micro_batch``. Whoever goes on with the run goes on with them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from eighteen.base.files import write_json
from eighteen.base.rundir import RunDir

KEYS = ("data.threads", "data.prefetch", "train.micro_batch")


def asked(run: RunDir) -> dict[str, int]:
    """What is to be changed; a file that says something else asks for nothing."""
    try:
        found = json.loads(run.fixes.read_text("utf-8"))["fixes"]
        return {key: int(found[key]) for key in KEYS if key in found and int(found[key]) > 0}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def ask(run: RunDir, fix: Mapping[str, int]) -> None:
    """Beside what was asked for before."""
    write_json(run.fixes, {"v": 1, "fixes": asked(run) | dict(fix)})
