"""What a run is asked for from outside: by ``eighteen stop``, and by the cloud that takes one of its machines back.

The first rank of each machine hears its cloud, the first of all looks for what ``eighteen stop`` writes. In a launch
the machine's folder keeps the notice ($EIGHTEEN_LAUNCH/notice.json), so that the launch does not count on the machine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eighteen.base import request
from eighteen.base.files import write_json
from eighteen.base.notices import Notice, Setting, Watch
from eighteen.base.request import When
from eighteen.base.rundir import RunDir

LOOK_S = 1.0  # between two looks at the run's folder


class Requests:
    """Listens from ``start`` to ``close``.

    is_first: whether this is the first rank of all
    tell: called as ``tell(kind, **facts)`` with what a person should know
    machine_goes: whether the cloud has said that it will take this machine back
    """

    def __init__(self, run: RunDir, notices: Setting, tell: Callable[..., Any], *, is_first: bool) -> None:
        self._run, self._watch, self._tell, self._is_first = run, Watch(notices), tell, is_first
        self._looked_at = 0.0
        self._when: When | None = None
        self.machine_goes = False

    def start(self) -> None:
        self._watch.start()

    def close(self) -> None:
        self._watch.close()
        if self._is_first:
            request.clear(self._run)

    def take(self, *, ends_epoch: bool) -> tuple[bool, bool]:
        """(stop, save) that is asked for at this step, which may end an epoch."""
        save = False
        for news in self._watch.news():
            if isinstance(news, Notice):
                self._tell("notice", cloud=news.cloud, what=news.what, when=news.when, goes=news.goes)
                if news.goes and (launch := os.environ.get("EIGHTEEN_LAUNCH")):
                    write_json(Path(launch) / "notice.json", {"v": 1, **asdict(news)})
                self.machine_goes |= news.goes
                save = True
            else:
                self._tell("warning", text=news)
        if self._is_first and (now := time.monotonic()) - self._looked_at >= LOOK_S:
            self._looked_at, self._when = now, request.asked(self._run)
        return self.machine_goes or self._when == "step" or (self._when == "epoch" and ends_epoch), save
