"""Plans, with a bar on the screen where something has to be measured for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eighteen.cli.app import console, tidily, to_stderr

if TYPE_CHECKING:
    from eighteen.advice.planning import Planned
    from eighteen.data.dataset import Dataset


def planned(dataset: Dataset, **asked: Any) -> Planned:
    """What ``planning.make`` makes of it."""
    from eighteen.advice import planning
    from eighteen.results import packing

    with tidily(), packing.progress(console(stderr=True), "measuring") as on_progress:
        return planning.make(dataset, say=to_stderr, on_progress=on_progress, **asked)
