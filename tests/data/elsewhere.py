"""A server of files, as a bucket has it: parts of files over HTTP. It counts, and does wrong what a test asks for."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO

PIECE = 2**16


class Elsewhere:
    """Files of a folder at ``url``, or of wherever a handler has them from.

    at: where it listens, if not at a port of the loopback interface
    sent: bytes by file, and ended: when the last answer of each did
    asked: (file, first byte) of each question for a part or all of one, as they came
    resets, spoilt: how often a connection breaks in the middle of a file, or a wrong byte comes
    gates: a file is only sent once its gate is open      bytes_per_s: of each answer      knows_ranges: or sends all
    """

    def __init__(self, root: Path, *, at: socket.socket | None = None, handler: type[Handler] | None = None) -> None:
        self.root = root
        self.ended = dict[str, float]()
        self.sent, self.asked = Counter[str](), list[tuple[str, int]]()
        self.resets, self.spoilt = Counter[str](), Counter[str]()
        self.gates: dict[str, threading.Event] = {}
        self.bytes_per_s, self.knows_ranges = 0.0, True
        self.lock = threading.Lock()
        handles: Any = type("Handles", (handler or Handler,), {"place": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handles, bind_and_activate=at is None)
        if at is not None:
            self._server.socket.close()
            self._server.socket = at
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.url = "http://{}:{}".format(*self._server.socket.getsockname())

    def __enter__(self) -> Elsewhere:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for gate in self.gates.values():
            gate.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def takes(self, wrongs: Counter[str], name: str) -> bool:
        """Whether something goes wrong once more."""
        with self.lock:
            if not wrongs[name]:
                return False
            wrongs[name] -= 1
            return True


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    place: Elsewhere

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        name, place = self.path.lstrip("/"), self.place
        path = place.root / name
        if not path.is_file():
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        size = path.stat().st_size
        start, stop = 0, size
        asked = self.headers.get("Range") if place.knows_ranges else None
        if asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(size, int(last) + 1 if last else size)
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(stop - start))
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
        self.end_headers()
        if with_body:
            with path.open("rb") as file:
                file.seek(start)
                self.send(file, name, start, stop)

    def send(self, source: BinaryIO, name: str, start: int, stop: int) -> None:
        """The bytes of a file from one to another, counted as those of ``name``."""
        place = self.place
        with place.lock:
            place.asked.append((name, start))
        if gate := place.gates.get(name):
            gate.wait(600)
        breaks = start + (stop - start) // 2 if place.takes(place.resets, name) else None
        is_wrong = place.takes(place.spoilt, name)
        while start < stop:
            piece = source.read(min(PIECE, stop - start))
            if is_wrong:
                piece, is_wrong = bytes([piece[0] ^ 1]) + piece[1:], False
            try:
                self.wfile.write(piece)
            except OSError:  # who asked is gone
                self.close_connection = True
                return
            start += len(piece)
            with place.lock:
                place.sent[name] += len(piece)
            if breaks is not None and start >= breaks:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                self.connection.close()  # with this option a reset
                self.close_connection = True
                return
            if place.bytes_per_s:
                time.sleep(len(piece) / place.bytes_per_s)
        place.ended[name] = time.time()

    def log_message(self, format: str, *args: object) -> None:
        pass
