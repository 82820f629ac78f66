"""The metadata server of a cloud's machine: it says what a test wants it to say."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

ACTION = "/latest/meta-data/spot/instance-action"
REBALANCE = "/latest/meta-data/events/recommendations/rebalance"
PREEMPTED = "/computeMetadata/v1/instance/preempted"
MAINTENANCE = "/computeMetadata/v1/instance/maintenance-event"


class MetadataServer:
    """answers: path -> text; what is not in it is 404      fails: answer 503 to all but tokens
    asked: how often each path was asked for      token: what AWS's paths need; another one makes the old one invalid
    at: where it listens, if not at a port of the loopback interface
    """

    def __init__(self, at: socket.socket | None = None) -> None:
        self.answers: dict[str, str] = {}
        self.asked = Counter[str]()
        self.token, self.fails = "first", False
        self._changed = threading.Condition()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                seconds = self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
                is_good = self.path == "/latest/api/token" and 1 <= int(seconds or 0) <= 21600
                self.say(200 if is_good else 400, outer.token)

            def do_GET(self) -> None:
                is_aws = self.path.startswith("/latest/")
                if is_aws and self.headers["X-aws-ec2-metadata-token"] != outer.token:
                    self.say(401, "")
                elif not is_aws and self.headers["Metadata-Flavor"] != "Google":
                    self.say(403, "")
                elif outer.fails:
                    self.say(503, "")
                else:
                    text = outer.answers.get(self.path)
                    self.say(404 if text is None else 200, text or "")

            def say(self, status: int, text: str) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())
                with outer._changed:
                    outer.asked[self.path] += 1
                    outer._changed.notify_all()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=at is None)
        if at is not None:
            self._server.socket.close()
            self._server.socket = at
        self.address = "{}:{}".format(*self._server.socket.getsockname())

    def wait_for(self, path: str, count: int = 1) -> None:
        """Until a path has been asked for ``count`` more times."""
        with self._changed:
            enough = self.asked[path] + count
            assert self._changed.wait_for(lambda: self.asked[path] >= enough, timeout=60)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
