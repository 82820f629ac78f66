"""What a cloud tells the machines that it will take back: a thread asks its metadata server every five seconds.

AWS   instance metadata, version 2: /latest/meta-data/spot/instance-action is {"action": "terminate", "time": "..."} two
      minutes before a spot machine goes, events/recommendations/rebalance {"noticeTime": "..."} when that is likely;
      both are 404 until then. The server is AWS_EC2_METADATA_SERVICE_ENDPOINT, if that is set.
GCP   instance/preempted turns from FALSE to TRUE half a minute before a spot machine goes, instance/maintenance-event
      from NONE to TERMINATE_ON_HOST_MAINTENANCE or MIGRATE_ON_HOST_MAINTENANCE. The server is
      GCE_METADATA_HOST, if that is set.

The servers have fixed addresses that only such machines can reach, and are asked directly, never through a proxy.
"""

from __future__ import annotations

import http.client
import json
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

Cloud = Literal["aws", "gcp"]
Setting = Literal["auto", "off", "aws", "gcp"]

POLL_S = 5.0  # as AWS recommends
TIMEOUT_S = 2.0
TOKEN_S = 21600  # the longest that AWS gives
MOST_BYTES = 65536  # of an answer
AWS_SERVER, GCP_SERVER = "http://169.254.169.254", "169.254.169.254"


@dataclass(frozen=True)
class Notice:
    """what: in the cloud's own word, e.g. terminate      when: its time in UTC as the cloud writes it, if it says

    goes: whether the machine will be taken; if not, that has only become likely
    """

    cloud: Cloud
    what: str
    when: str | None
    goes: bool


def cloud_here(root: Path = Path("/")) -> Cloud | None:
    """Whose machine this is, by what its firmware says: nothing is asked over the network."""
    if _firmware(root, "sys_vendor") == "Amazon EC2":
        return "aws"
    return "gcp" if _firmware(root, "product_name") == "Google Compute Engine" else None


def _firmware(root: Path, name: str) -> str | None:
    try:
        return (root / "sys/class/dmi/id" / name).read_text().strip()
    except (OSError, ValueError):
        return None


class Watch:
    """Asks from ``start`` to ``close``; ``news`` gives each notice once, and a text if a server asked for is not there.

    setting: "auto" asks only on a machine of a cloud, and says nothing of a server that does not answer
    """

    def __init__(self, setting: Setting) -> None:
        self._must_answer = setting in ("aws", "gcp")
        self.cloud: Cloud | None = cloud_here() if setting == "auto" else None if setting == "off" else setting
        self._news = queue.SimpleQueue[Notice | str]()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="notices", daemon=True)

    def start(self) -> None:
        if self.cloud:
            self._thread.start()

    def close(self) -> None:
        self._ended.set()  # not waited for: it may be waiting for an answer, and holds nothing

    def news(self) -> Iterator[Notice | str]:
        """What came since the last call; costs nothing where there is none."""
        while not self._news.empty():
            yield self._news.get()

    def _run(self) -> None:
        assert self.cloud is not None
        ask, told, is_quiet = _ASK[self.cloud](), set[Notice](), not self._must_answer
        while not self._ended.is_set():
            standing = set[Notice]()
            try:
                for notice in ask():
                    standing.add(notice)
                    if notice not in told:
                        self._news.put(notice)
                told = standing
            except (OSError, ValueError, LookupError, http.client.HTTPException) as error:
                told |= standing
                if not is_quiet:
                    self._news.put(f"train.notices = {self.cloud!r}, but its metadata server does not answer: {error}")
            is_quiet = True  # from now on: one that fails to answer now and then is not worth a word
            self._ended.wait(POLL_S)


class _Aws:
    def __init__(self) -> None:
        self._server = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or AWS_SERVER
        self._token, self._expires = "", 0.0

    def __call__(self) -> Iterator[Notice]:
        if action := self._get("/latest/meta-data/spot/instance-action"):
            yield Notice("aws", str(action["action"]), str(action["time"]), goes=True)
        if likely := self._get("/latest/meta-data/events/recommendations/rebalance"):
            yield Notice("aws", "rebalance", str(likely["noticeTime"]), goes=False)

    def _get(self, path: str) -> dict[str, object] | None:
        if time.monotonic() > self._expires:
            lasts = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_S)}
            self._token = _answer(self._server, "PUT", "/latest/api/token", lasts) or ""
            self._expires = time.monotonic() + TOKEN_S - 60
        try:
            text = _answer(self._server, "GET", path, {"X-aws-ec2-metadata-token": self._token})
        except ValueError:  # also if the token has become invalid: take another next time
            self._expires = 0.0
            raise
        if text is None:
            return None
        said = json.loads(text)
        if not isinstance(said, dict):
            raise ValueError(f"{path} is {text[:80]!r}")
        return said


class _Gcp:
    def __init__(self) -> None:
        self._server = os.environ.get("GCE_METADATA_HOST") or GCP_SERVER

    def __call__(self) -> Iterator[Notice]:
        if self._get("preempted") == "TRUE":
            yield Notice("gcp", "preempted", None, goes=True)
        event = self._get("maintenance-event") or "NONE"
        if event != "NONE":
            yield Notice("gcp", event, None, goes=event.startswith("TERMINATE"))

    def _get(self, name: str) -> str | None:
        path = f"/computeMetadata/v1/instance/{name}"
        text = _answer(self._server, "GET", path, {"Metadata-Flavor": "Google"})
        return text and text.strip()


_ASK: dict[Cloud, Callable[[], Callable[[], Iterator[Notice]]]] = {"aws": _Aws, "gcp": _Gcp}


def _answer(server: str, method: str, path: str, headers: dict[str, str]) -> str | None:
    """What a server says; None if it has no such thing. OSError if it cannot be reached, ValueError if it is odd."""
    connection = http.client.HTTPConnection(urlsplit(server).netloc or server, timeout=TIMEOUT_S)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        if response.status == 404:
            return None
        if response.status != 200:
            raise ValueError(f"{path} gives {response.status} {response.reason}")
        return response.read(MOST_BYTES).decode()
    finally:
        connection.close()
