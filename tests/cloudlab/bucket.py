"""S3 for the hosts of a lab: moto's server, behind a proxy that counts, and does wrong what a test asks for.

moto, and s3fs for the hosts, are no part of the project's environment. EIGHTEEN_MOTO names the Python of one that has
them, of the same version as this:

    python3 -m venv /tmp/moto && /tmp/moto/bin/pip install 'moto[server]' s3fs
    EIGHTEEN_MOTO=/tmp/moto/bin/python make soak-cloud
"""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
import time
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Self

import pytest
from elsewhere import Elsewhere, Handler
from lab import DESK_ADDRESS, USER, WITH_ME, Host, Lab

PORT = 9000
SETTINGS = f"[default]\nregion = us-east-1\nendpoint_url = http://{DESK_ADDRESS}:{PORT}\n"
SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""
KEPT_BACK = {"connection", "expect", "transfer-encoding"}  # headers of one connection


def packages() -> Path:
    """Where moto and s3fs are; without them the test is skipped."""
    python = os.environ.get("EIGHTEEN_MOTO")
    if not python:
        pytest.skip("EIGHTEEN_MOTO names no Python with moto[server] and s3fs: see tests/cloudlab/bucket.py")
    ask = "import moto.server, s3fs, sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout.strip())


class Bucket:
    """Buckets of these names, which are there for the desk and each host, if they go by SETTINGS.

    way: what goes to the hosts; its names are "ADDRESS BUCKET/KEY"      put: when each file came, by BUCKET/KEY
    """

    def __init__(self, lab: Lab, *names: str) -> None:
        words = [*WITH_ME, os.environ["EIGHTEEN_MOTO"], "-W", "ignore", "-c", SERVER]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        assert self._process.stdout
        self.port, self.put = int(self._process.stdout.readline()), dict[str, float]()
        self.way = Elsewhere(Path(), at=lab.listen(PORT), handler=type("Forwards", (_Forwards,), {"bucket": self}))
        for name in names:
            assert self.ask("PUT", f"/{name}")[0] == 200

    def __enter__(self) -> Self:
        self.way.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.way.__exit__()
        self._process.communicate()

    def ask(self, method: str, path: str) -> tuple[int, bytes]:
        """moto itself: a status, and what it says."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path)
        answer = connection.getresponse()
        found = answer.status, answer.read()
        connection.close()
        return found


class _Forwards(Handler):
    bucket: Bucket

    def handle(self) -> None:
        with suppress(ConnectionError):  # who asked was killed
            super().handle()

    def do_GET(self) -> None:
        name = self.path.partition("?")[0].lstrip("/")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {key: value for key, value in self.headers.items() if key.lower() not in KEPT_BACK}
        connection = HTTPConnection("127.0.0.1", self.bucket.port, timeout=600)
        connection.request(self.command, self.path, body or None, headers)
        answer = connection.getresponse()
        if self.command == "PUT" and answer.status == 200:
            self.bucket.put[name] = time.time()
        content = None if answer.length or self.command == "HEAD" else answer.read()
        self.send_response(answer.status)
        for key, value in answer.getheaders():
            if key.lower() not in KEPT_BACK | {"content-length", "server", "date"}:
                self.send_header(key, value)
        length = answer.headers.get("Content-Length") if content is None else len(content)
        self.send_header("Content-Length", str(length or 0))
        self.end_headers()
        if content is not None:
            self.wfile.write(content)
        elif self.command != "HEAD":
            first = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
            start = int(first[1]) if first else 0
            self.send(answer, f"{self.client_address[0]} {name}", start, start + int(length or 0))  # type: ignore[arg-type]
        connection.close()

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET


def furnish(host: Host, packages: Path) -> None:
    """From its next boot on it finds s3fs, and the server where S3 would be; who it is there, it is not told."""
    own = f"{sysconfig.get_path('purelib')}/bucket.pth"
    host.shown = [packages]
    host.at_boot = f"""
echo 'import sys; sys.path.insert(0, "{packages}")' >{own}
install -d -o {USER} /home/{USER}/.aws
echo '{SETTINGS}' >/home/{USER}/.aws/config
chown {USER} /home/{USER}/.aws/config
"""
