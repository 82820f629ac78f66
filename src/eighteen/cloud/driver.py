"""Does what a launch needs: looks at all machines at once, acts on them, follows the run, and brings it home.

In: a ``Launch`` and a run's folder here. Out: how the run ended. ``launch`` decides; killed at any moment, the same
goes on from what it sees.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from eighteen.base.errors import MachineError
from eighteen.base.events import OnEvent
from eighteen.base.files import write_json
from eighteen.base.rundir import RunDir
from eighteen.cloud import parcel
from eighteen.cloud.hosts import hosts
from eighteen.cloud.launch import Action, Launch, Seen, next_actions, ranks_on_each, require_fit, words_of
from eighteen.cloud.remote import LONG_S, Remote, Silent

POLL_S = 2.0
SILENT_S = 60.0  # that a machine may be silent for, before the launch gives up on it
MARGIN_BYTES = 2**31  # for packages and checkpoints, beside the dataset

Say = Callable[[str], object]


class Driver:
    """One launch. dataset: here, to be sent; None if the machines get it from a URL"""

    def __init__(
        self, run: RunDir, launch: Launch, dataset: Path | None, *, on_event: OnEvent | None, say: Say
    ) -> None:
        self.launch = launch
        self._run, self._dataset, self._on_event, self._say = run, dataset, on_event, say
        self._remotes = remotes(launch)
        self._silent_since: dict[str, float] = {}
        self._ranks, self._is_fit = launch.ranks, False

    def drive(self) -> Mapping[str, Seen | None]:
        """Until nothing runs any more: what each machine then shows. Raises MachineError for one that is unfit, fails
        at what is asked of it, or is silent for too long.
        """
        while True:
            seen = self._look()
            actions = next_actions(self.launch, seen, reason=self._reason())
            if actions[0].verb == "finish":
                return seen
            if actions[0].verb == "wait":
                time.sleep(POLL_S)
            elif actions[0].verb == "again":
                self._again()
            else:
                with ThreadPoolExecutor(len(actions)) as threads:
                    list(threads.map(self._act, actions))

    def fetch(self) -> None:
        """The run's files, from the first machine that has them."""
        for host in self.launch.hosts:
            self._remotes[host].fetch(asked(self.launch), self._run.path)
            if self._run.recipe.is_file():
                return

    def _look(self) -> dict[str, Seen | None]:
        facts = asked(self.launch) | {"events_from": self._num_bytes()}
        with ThreadPoolExecutor(len(self._remotes)) as threads:
            answers = threads.map(lambda remote: _seen(remote, facts), self._remotes.values())
            seen = dict(zip(self._remotes, answers, strict=True))
        for host, one in seen.items():
            self._heard(host, one)
        told = {host: one for host, one in seen.items() if one}
        if not self._is_fit and len(told) == len(seen):
            num_bytes = sum(path.stat().st_size for path in self._dataset.rglob("*")) if self._dataset else 0
            require_fit(told, need_bytes=num_bytes + MARGIN_BYTES, now=time.time())
            self._ranks, self._is_fit = ranks_on_each(self.launch, told), True
        return seen

    def _heard(self, host: str, one: Seen | None) -> None:
        """Take the events that a machine tells; count how long one is silent."""
        if one is None:
            since = self._silent_since.setdefault(host, time.monotonic())
            if time.monotonic() - since > SILENT_S:
                need, hint = "an answer", f"eighteen down {self._run.path}, or the same command when {host} is back"
                raise MachineError(f"reach {host}", got=f"nothing for {SILENT_S:g} s", need=need, hint=hint)
            return
        self._silent_since.pop(host, None)
        if not one.events:
            return
        with self._run.events.open("ab") as file:
            file.write(one.events.encode())
        for line in one.events.splitlines():
            if self._on_event:
                self._on_event(json.loads(line))

    def _act(self, action: Action) -> None:
        launch, remote = self.launch, self._remotes[action.host]
        facts = asked(launch)
        if action.verb == "send_code":
            self._say(f"{action.host}: sending the program")
            remote.send("take_code", facts, parcel.files())
        elif action.verb == "install":
            self._say(f"{action.host}: installing packages")
            remote.ask("install", facts, limit_s=LONG_S)
        elif action.verb == "send_dataset":
            assert self._dataset
            self._send_dataset(action.host)
        elif action.verb == "begin":
            if (recipe := self._run.path / "launch" / "recipe.toml").is_file():
                remote.send("take", facts | {"to": f"launches/{launch.name}"}, {recipe.name: recipe})
            words = words_of(launch, action.host, self._ranks, hosts(launch.hosts[0])[0].name)
            remote.ask("begin", facts | {"words": words})
            self._say(f"{action.host}: training; {shlex.join(remote.look_on(launch.name))}")
        elif action.verb == "end":
            self._say(f"{action.host}: ending what is left of attempt {launch.attempt}")
            remote.ask("end", facts | {"gently": False})

    def _send_dataset(self, host: str) -> None:
        """What the machine lacks of it; dataset.json comes last, so that what was cut off is no dataset."""
        assert self._dataset
        facts, remote = asked(self.launch), self._remotes[host]
        have = {*remote.ask("look", facts | {"events_from": 0})["files"]}
        files = {str(path.relative_to(self._dataset)): path for path in self._dataset.rglob("*") if path.is_file()}
        missing = sorted(files.keys() - have, key=lambda name: (name == "dataset.json", name))
        self._say(f"{host}: sending {self._dataset}, {len(missing)} of {len(files)} files")
        remote.send("take", facts | {"to": f"datasets/{self.launch.dataset}"}, {name: files[name] for name in missing})

    def _again(self) -> None:
        self.launch = replace(self.launch, attempt=self.launch.attempt + 1)
        keep(self._run, self.launch)
        self._say(f"attempt {self.launch.attempt}")

    def _reason(self) -> str | None:
        end = self._run.end() if self._run.events.exists() else None
        return end["reason"] if end else None

    def _num_bytes(self) -> int:
        return self._run.events.stat().st_size if self._run.events.exists() else 0


def remotes(launch: Launch) -> dict[str, Remote]:
    return {name: Remote(hosts(name)[0], launch.python, launch.ssh) for name in launch.hosts}


def asked(launch: Launch) -> dict[str, Any]:
    """What the agent goes by, whatever it is to do."""
    return {
        "launch": launch.name,
        "attempt": launch.attempt,
        "code": launch.code,
        "environment": launch.environment,
        "modules": parcel.modules(),
        "requirements": parcel.requirements(),
        "dataset": None if launch.is_url else launch.dataset,
    }


def look(launch: Launch) -> dict[str, Seen | None]:
    """All machines at this moment; None for one that is silent."""
    facts = asked(launch) | {"events_from": 0}
    with ThreadPoolExecutor(len(launch.hosts)) as threads:
        there = remotes(launch)
        return dict(zip(there, threads.map(lambda remote: _seen(remote, facts), there.values()), strict=True))


def on_all(launch: Launch, verb: str, **more: Any) -> dict[str, str | None]:
    """Have all machines do something at once: why one could not, or None."""

    def one(remote: Remote) -> str | None:
        try:
            remote.ask(verb, asked(launch) | more)
        except MachineError as error:
            return str(error.got)
        return None

    there = remotes(launch)
    with ThreadPoolExecutor(len(there)) as threads:
        return dict(zip(there, threads.map(one, there.values()), strict=True))


def keep(run: RunDir, launch: Launch) -> None:
    folder = run.path / "launch"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "launch.json", {"v": 1, **asdict(launch)})


def known(run: RunDir) -> Launch | None:
    """What a run was launched as; None if it was not."""
    path = run.path / "launch" / "launch.json"
    if not path.is_file():
        return None
    facts = json.loads(path.read_text("utf-8"))
    facts.pop("v")
    if facts.get("ssh"):  # where the run lies now
        facts["ssh"] = str(run.path / "launch" / "ssh" / "config")
    return Launch(**facts)


def _seen(remote: Remote, facts: Mapping[str, Any]) -> Seen | None:
    try:
        return Seen(**remote.ask("look", facts))
    except Silent:
        return None
