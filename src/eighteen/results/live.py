"""A page that shows a run while it trains: its board, its curves, what happened. It follows the run's events alone.

Served on 127.0.0.1 to whoever asks there by that name; it only reads, and knows of no other file of the machine.
"""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from rich.console import Console

from eighteen.base import lock
from eighteen.base.errors import UsageError
from eighteen.base.events import Event, Follower, standing
from eighteen.base.rundir import RunDir
from eighteen.results.board import MAX_WIDTH, Board
from eighteen.results.curves import figures, slim
from eighteen.results.lines import clock, line, percent

MOST_LINES = 200
ALERTS = ("warning", "skip", "notice", "restart", "finding", "fixed")
QUIET = ("step", "epoch", "reached", "checkpoint")  # kinds that the curves and the board say
POLICY = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:"  # plotly styles inline
FILES = {
    "/": ("eighteen.results", "live.html", "text/html; charset=utf-8"),
    "/live.js": ("eighteen.results", "live.js", "text/javascript; charset=utf-8"),
    "/plotly.js": ("plotly", "package_data/plotly.min.js", "text/javascript; charset=utf-8"),
}


class Page:
    """What the page says at a moment. Any thread may ask.

    find: the run, or None as long as there is none
    """

    def __init__(self, find: Callable[[], RunDir | None]) -> None:
        self._find, self._run = find, None
        self._lock = threading.Lock()
        self._follower: Follower | None = None
        self._board, self._events = Board(), list[Event]()
        self._latest = dict[str, Event]()  # by kind
        self._num_told = 0

    def now(self, *, have: int = 0) -> dict[str, Any]:
        """``title``, ``board`` (HTML), ``state`` and whether it is an ``alert``; and where more has happened than the
        ``have`` events that the reader has seen, how many it ``have`` now, all ``figures`` and the newest ``lines``."""
        with self._lock:
            self._follow()
            state, alert = self._state()
            told = {"title": self._title(), "board": _html(self._board), "state": state, "alert": alert}
            if self._num_told != have:
                told |= {"have": self._num_told, "figures": figures(self._events), "lines": self._lines()}
            return told

    def _follow(self) -> None:
        if self._run is None and (found := self._find()):
            self._run, self._follower = found, Follower(found.events)
        new = self._follower.new() if self._follower else []
        for event in new:
            self._board.take(event)
            self._latest[event["event"]] = event
        self._events += map(slim, new)
        if any(event["event"] == "resume" for event in new):
            self._events = standing(self._events)
        self._num_told += len(new)

    def _title(self) -> str:
        """For a tab that is not looked at."""
        step, evaluated = self._latest.get("step", {}).get("step", 0), self._latest.get("eval")
        done = percent(step / (self._board.num_steps or 1), digits=0)
        scores = [] if evaluated is None else [f"top-1 {percent(evaluated.get('top1'))}"]
        return " · ".join([done, *scores, self._run.path.name if self._run else "eighteen"])

    def _state(self) -> tuple[str, bool]:
        if self._run is None or not self._events:
            return "waiting for the run to begin", False
        heard = f"last heard of {clock(time.time() - self._events[-1]['time_s'])} ago"
        began_s, ended_s = (self._latest.get(kind, {}).get("time_s", 0.0) for kind in ("start", "end"))
        if ended_s > began_s:
            return f"ended, {heard}", False
        if who := lock.holder(self._run):
            return f"trained by {who}, {heard}; eighteen stop {self._run.path} ends it", False
        if self._run.lock.exists():
            return f"no process trains it, {heard}; eighteen train --resume {self._run.path} goes on", True
        return heard, False  # on other machines

    def _lines(self) -> list[dict[str, Any]]:
        told = [event for event in self._events if event["event"] not in QUIET][-MOST_LINES:]
        start_s = self._board.start_s
        return [
            {
                "text": f"{clock(event['time_s'] - start_s):>8}  {line(event, num_steps=self._board.num_steps)}",
                "alert": event["event"] in ALERTS,
            }
            for event in reversed(told)
        ]


def newest(parent: Path) -> RunDir | None:
    """Of the runs in a folder, the one of which was last heard, here or on machines of a launch."""
    made = [path for path in parent.iterdir() if (path / "events.jsonl").is_file()]
    return RunDir(max(made, key=lambda path: (path / "events.jsonl").stat().st_mtime)) if made else None


def serve(page: Page, *, port: int, on_ready: Callable[[str], object]) -> None:
    """Answer at 127.0.0.1 until KeyboardInterrupt; ``on_ready`` gets the page's URL. port: 0 takes a free one

    raises UsageError for a port that cannot be had
    """

    class Handler(_Handler):
        shown = page

    try:
        server = _Server(("127.0.0.1", port), Handler)
    except (OSError, OverflowError) as error:
        need, hint = "a port that nobody listens at", "--port 0 takes a free one"
        raise UsageError(f"listen at --port {port}", got=str(error), need=need, hint=hint) from error
    with server:
        on_ready(f"http://127.0.0.1:{server.server_port}/")
        server.serve_forever(poll_interval=0.1)


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that has gone before it was answered is no error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    shown: Page

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if not re.fullmatch(r"(127\.0\.0\.1|localhost)(:\d+)?", self.headers.get("Host", "")):
            self.send_error(403, "Asked for by a name that is not this machine's")  # a page elsewhere that got rebound
        elif url.path == "/now":
            have = parse_qs(url.query).get("have", ["0"])[0]
            now = self.shown.now(have=int(have) if have.isdecimal() else 0)
            self._answer(json.dumps(now).encode(), "application/json")
        elif url.path in FILES:
            package, name, kind = FILES[url.path]
            self._answer(_content(package, name), kind)
        else:
            self.send_error(404)

    def _answer(self, content: bytes, kind: str) -> None:
        self.send_response(200)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(content))),
            ("Content-Security-Policy", POLICY),
            ("X-Content-Type-Options", "nosniff"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: whoever reads the page does not want a line for each look."""


@cache
def _content(package: str, name: str) -> bytes:
    return (resources.files(package) / name).read_bytes()


def _html(board: Board) -> str:
    """As rich draws it, with its colours inline; what is text in it is escaped."""
    console = Console(
        record=True, width=MAX_WIDTH, height=60, file=StringIO(), color_system="truecolor", force_terminal=True
    )
    console.print(board)
    return console.export_html(inline_styles=True, code_format="{code}")
