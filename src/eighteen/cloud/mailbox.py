"""What a managed job and whoever launched it tell each other: files beside the copies of the run's checkpoints, since
nothing else outlives its machines.

    URL/RUN/note.json       how the last attempt ended
            stop            there while a person wants it to save and stop
            told/...        the run's files, but for its checkpoints, as they were at the end of the last attempt
            checkpoints/... as ``--checkpoint-to`` copies them
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from eighteen.base.rundir import RunDir
from eighteen.data import places
from eighteen.data.places import Place, reaching

COMMIT = "commit.json"  # a checkpoint without it does not count
OWN = ("checkpoints", "launch", "lock", "stop.json")  # what is not told


@dataclass(frozen=True)
class Note:
    """How the last attempt ended.

    attempt: how many have told so; 0: none      reason: of the run's end; None if it told of none
    step: of its checkpoint
    failures: how many have failed in a row without a newer one      goes_on: whether another attempt is to be made
    code: what the job ended with      said: the end of what it printed, where it failed
    """

    attempt: int = 0
    reason: str | None = None
    step: int = 0
    failures: int = 0
    goes_on: bool = True
    code: int = 0
    said: str = ""


@dataclass(frozen=True)
class Mailbox:
    url: str

    def read(self) -> Note:
        with reaching("read", self.url):
            text = (self._at() / "note.json").read()
        return Note(**json.loads(text)) if text else Note()

    def write(self, note: Note) -> None:
        with reaching("write to", self.url):
            self._put("note.json", json.dumps(asdict(note)).encode())

    def ask_to_stop(self) -> None:
        with reaching("write to", self.url):
            self._put("stop", b"")

    def take_back_stop(self) -> None:
        with reaching("write to", self.url):
            stop = self._at() / "stop"
            if stop.exists():
                stop.files.rm_file(stop.path)

    def is_to_stop(self) -> bool:
        with reaching("read", self.url):
            return (self._at() / "stop").exists()

    def step(self) -> int | None:
        """Of the newest checkpoint that is whole there; None if there is none."""
        with reaching("read", self.url):
            folder = self._at() / "checkpoints"
            whole = [name for name in folder.names() if (folder / name / COMMIT).exists()]
        return max((int(name.rpartition("-")[2]) for name in whole), default=None)

    def send(self, run: RunDir) -> None:
        """All that the run tells, for whoever brings it home."""
        with reaching("write to", self.url):
            for path in sorted(run.path.rglob("*")):
                name = path.relative_to(run.path)
                if path.is_file() and name.parts[0] not in OWN and ".tmp" not in name.name:
                    self._put(f"told/{name}", path.read_bytes())

    def bring(self, run: RunDir, *, has_checkpoints: bool = False) -> None:
        """What was told, into a run's folder; the commit mark of each checkpoint last."""
        with reaching("read", self.url):
            there = self._at()
            for folder in ("told", "checkpoints") if has_checkpoints else ("told",):
                home = run.path / folder if folder == "checkpoints" else run.path
                paths = there.files.find((there / folder).path) if (there / folder).exists() else []
                for path in sorted(paths, key=lambda path: path.endswith(COMMIT)):
                    name = Path(path).relative_to((there / folder).path)
                    (home / name).parent.mkdir(parents=True, exist_ok=True)
                    there.files.get_file(path, str(home / name))
        for folder in (run.checkpoints, run.tensorboard, run.eval):
            folder.mkdir(parents=True, exist_ok=True)

    def _at(self) -> Place:
        return places.at(self.url)

    def _put(self, name: str, content: bytes) -> None:
        to = self._at() / name
        to.files.makedirs(to.path.rpartition("/")[0], exist_ok=True)
        to.files.pipe_file(to.path, content)
