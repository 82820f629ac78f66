"""Machines that one has already, as somebody names them: ``a,b,user@c:2222``, or a file with one a line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from eighteen.base.errors import UsageError

# no name begins with "-", which ssh would take for an option
PATTERN = re.compile(r"(?:(?P<user>[A-Za-z0-9_][\w.-]*)@)?(?P<name>[A-Za-z0-9][A-Za-z0-9.-]*)(?::(?P<port>\d{1,5}))?")


@dataclass(frozen=True)
class Host:
    """name: as ssh and the other machines know it      user, port: None: as ssh's own settings have it"""

    name: str
    user: str | None = None
    port: int | None = None

    def __str__(self) -> str:
        return f"{self.user}@{self.name}" if self.user else self.name


def hosts(text: str) -> list[Host]:
    """UsageError for a name that none can have, one that comes twice, or none at all."""
    path = Path(text)
    words = path.read_text("utf-8").splitlines() if "/" in text or path.is_file() else text.split(",")
    found = list(_hosts(words))
    names = [one.name for one in found]
    twice = {name for name in names if names.count(name) > 1}
    if not found or twice:
        got = f"{' and '.join(sorted(twice))} twice" if twice else "no machine"
        raise UsageError("--hosts", got=got, need="each machine once", hint="--hosts a,b, or a file with one a line")
    return found


def _hosts(words: list[str]) -> Iterator[Host]:
    for word in (one.partition("#")[0].strip() for one in words):
        if not word:
            continue
        if (found := PATTERN.fullmatch(word)) is None:
            need = "names such as node1 or user@10.0.0.7:2222"
            raise UsageError("--hosts", got=repr(word), need=need, hint="--hosts node1,node2")
        yield Host(found["name"], found["user"], int(found["port"]) if found["port"] else None)
