"""Does what a launch needs: looks at all machines at once, acts on them, follows the run, and brings it home.

In: a ``Launch`` and a run's folder here. Out: how the run ended. ``launch`` decides; killed at any moment, the same
goes on from what it sees.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from eighteen.base.errors import MachineError, Stopped
from eighteen.base.events import OnEvent, last
from eighteen.base.files import write_json
from eighteen.base.rundir import RunDir
from eighteen.cloud import parcel, preflight, probing
from eighteen.cloud.hosts import hosts
from eighteen.cloud.launch import (
    Action,
    Launch,
    Seen,
    copies_of,
    next_actions,
    next_attempt,
    ranks_on_each,
    require_fit,
    words_of,
)
from eighteen.cloud.remote import LONG_S, PAGES, Remote, Silent, require_ssh
from eighteen.cloud.renewal import Renewal
from eighteen.data.shards import sha256_of

POLL_S = 2.0
LOST_S = 10.0  # that a machine may be silent for, before those that are left begin again without it
STILL_S = 40.0  # that a run may tell of nothing while a machine is silent, or as long as it has before
SILENT_S = 60.0  # that all may be, or one that the first attempt waits for, before the launch gives up
GONE_S = 60.0  # after which another is rented in its place
MARGIN_BYTES = 2**31  # for packages and checkpoints, beside the dataset

Say = Callable[[str], object]


class Driver:
    """One launch.

    dataset: here, to be sent; None if the machines get it from a URL      has_preflight: before training begins
    renewal: gets others in place of machines that are gone, if anybody can
    """

    def __init__(
        self,
        run: RunDir,
        launch: Launch,
        dataset: Path | None,
        *,
        on_event: OnEvent | None,
        say: Say,
        has_preflight: bool = True,
        renewal: Renewal | None = None,
    ) -> None:
        self.launch, self._has_preflight, self._renewal = launch, has_preflight, renewal
        self._run, self._dataset, self._on_event, self._say = run, dataset, on_event, say
        self._remotes = remotes(launch)
        self._silent_since: dict[str, float] = {}
        self._ranks, self._is_fit = launch.ranks, False
        self._told_s, self._longest_s = time.monotonic(), 0.0  # when the run last told of something; without a word
        self._busy: dict[str, Future[None]] = {}
        self._unfit: set[str] = set()
        self._has_asked = False  # for the sake of those that join

    def drive(self) -> Mapping[str, Seen | None]:
        """Until nothing runs any more: what each machine then shows. Raises MachineError for one that is unfit, fails
        at what is asked of it, or is silent for too long.
        """
        with ThreadPoolExecutor(len(self._remotes)) as threads:
            while True:
                self._require_done()  # before the look, which then shows what they did
                self._renew()
                seen = self._look()
                self._require_heard(seen)
                self._require_open()
                lost, is_still = self._silent_for(LOST_S), self._is_still()
                actions = next_actions(self.launch, seen, reason=self._reason(), lost=lost, is_still=is_still)
                match actions[0].verb:
                    case "finish":
                        return seen
                    case "again":
                        self._again(seen)
                        continue
                    case "take_in":
                        self._keep(replace(self.launch, joining=[action.host for action in actions]))
                if self.launch.joining and not self._has_asked:
                    self._ask_to_stop()
                if [action.host for action in actions if action.verb == "begin"] == [*self.launch.at_work]:
                    self._preflight()
                for action in actions:
                    if action.verb not in ("wait", "take_in") and action.host not in self._busy:
                        self._busy[action.host] = threads.submit(self._act, action, seen)
                wait(self._busy.values(), POLL_S) if self._busy else time.sleep(POLL_S)

    def _renew(self) -> None:
        """Others in place of machines without which training goes on."""
        gone = sorted(self._silent_for(GONE_S).intersection(self.launch.hosts).difference(self.launch.at_work))
        if self._renewal and (new := self._renewal.instead_of(len(gone))):
            hosts = [one for one in self.launch.hosts if one not in gone[: len(new)]] + new
            self._keep(replace(self.launch, hosts=hosts))
            self._remotes = remotes(self.launch)
            self._silent_since = {host: since for host, since in self._silent_since.items() if host in hosts}

    def _ask_to_stop(self) -> None:
        """So that all begin again with those that join."""
        with suppress(Silent):  # then once more, when it answers
            self._remotes[self.launch.at_work[0]].ask("end", asked(self.launch) | {"gently": True})
            self._say(f"stopping to go on with {' and '.join(self.launch.joining)}")
            self._has_asked = True

    def fetch(self) -> None:
        """The run's files, from the first machine that has them."""
        for host in dict.fromkeys([*self.launch.at_work, *self.launch.hosts]):
            with suppress(Silent):
                self._remotes[host].fetch(asked(self.launch), self._run.path)
                if self._run.recipe.is_file():
                    return

    def _look(self) -> dict[str, Seen | None]:
        facts = asked(self.launch) | {"events_from": self._num_bytes(), "follows": True}
        with ThreadPoolExecutor(len(self._remotes)) as threads:
            answers = threads.map(lambda remote: _seen(remote, facts), self._remotes.values())
            seen = dict(zip(self._remotes, answers, strict=True))
        seen |= dict.fromkeys(self._unfit)
        told = {host: one for host, one in seen.items() if one}
        for host in seen:
            if host in told:
                self._silent_since.pop(host, None)
            else:
                self._silent_since.setdefault(host, time.monotonic())
        if first := told.get(self.launch.at_work[0]):
            self._heard(first)
        if not self._is_fit and len(told) == len(seen):
            num_bytes = sum(path.stat().st_size for path in self._dataset.rglob("*")) if self._dataset else 0
            require_fit(told, need_bytes=num_bytes + MARGIN_BYTES, now=time.time())
            self._ranks, self._is_fit = ranks_on_each(self.launch, told), True
        others = (one.run for one in told.values() if one.run)
        run = (first and first.run) or self.launch.run or next(others, "")
        if run != self.launch.run:
            self._keep(replace(self.launch, run=run))
        return seen

    def _heard(self, first: Seen) -> None:
        """Take the events that the machine tells which writes them."""
        if not first.events:
            return
        now = time.monotonic()
        self._told_s, self._longest_s = now, max(self._longest_s, now - self._told_s)
        with self._run.events.open("ab") as file:
            file.write(first.events.encode())
        for line in first.events.splitlines():
            if self._on_event:
                self._on_event(json.loads(line))

    def _is_still(self) -> bool:
        return time.monotonic() - self._told_s > max(STILL_S, self._longest_s)

    def _silent_for(self, seconds: float) -> set[str]:
        now = time.monotonic()
        return {host for host, since in self._silent_since.items() if now - since > seconds} | self._unfit

    def _require_heard(self, seen: Mapping[str, Seen | None]) -> None:
        """MachineError for a machine that is silent for too long, where nothing can be done without it."""
        silent = self._silent_for(SILENT_S)
        has_begun = self.launch.attempt > 1 or any(one and one.has_begun for one in seen.values())
        if silent and (not has_begun or len(silent) == len(seen)):
            host = min(silent)
            need, hint = "an answer", f"eighteen down {self._run.path}, or the same command when {host} is back"
            raise MachineError(f"reach {host}", got=f"nothing for {SILENT_S:g} s", need=need, hint=hint)

    def _require_open(self) -> None:
        if (self._run.path / "launch" / "ended.json").exists():
            need, hint = "a launch that goes on", "the same command begins a new one"
            raise Stopped(f"follow {self._run.path}", got="eighteen down meanwhile", need=need, hint=hint)

    def _require_done(self) -> None:
        """Raise what failed of that which was begun; a machine that was to join and cannot is left out."""
        for host in [host for host, future in self._busy.items() if future.done()]:
            error = self._busy.pop(host).exception()
            if error is None or isinstance(error, Silent):  # which the next look shows as well
                continue
            if not isinstance(error, MachineError) or host in self.launch.at_work:
                raise error
            self._say(f"{host}: going on without it: {error.got}")
            self._unfit.add(host)

    def _act(self, action: Action, seen: Mapping[str, Seen | None]) -> None:
        launch, remote = self.launch, self._remotes[action.host]
        facts = asked(launch)
        if action.verb == "watch":
            remote.ask("watch", facts | {"age_s": time.time() - launch.began})
        elif action.verb == "send_code":
            self._say(f"{action.host}: sending the program")
            remote.send("take_code", facts, parcel.files())
        elif action.verb == "install":
            self._say(f"{action.host}: installing packages")
            remote.ask("install", facts, limit_s=LONG_S)
        elif action.verb == "send_dataset":
            self._send_dataset(action.host)
        elif action.verb == "begin":
            self._begin(action.host, seen)
        elif action.verb == "end":
            self._say(f"{action.host}: ending what is left of attempt {launch.attempt}")
            remote.ask("end", facts | {"gently": False})

    def _preflight(self) -> None:
        """Unless there is one machine only, or these have passed it for this launch. Raises MachineError."""
        launch, file = self.launch, self._run.path / "launch" / "preflight.json"
        has_passed = file.is_file() and preflight.has_passed(json.loads(file.read_text("utf-8")), launch.at_work)
        if not self._has_preflight or len(launch.at_work) < 2 or has_passed:
            return
        self._say(f"preflight of {len(launch.at_work)} machines")
        there = {host: self._remotes[host] for host in launch.at_work}
        report = probing.measure(there, launch, ranks=self._ranks)
        write_json(file, preflight.facts(report))
        for line in preflight.warnings(report):
            self._say(line)
        preflight.require_fit(report)
        self._say(f"preflight: {preflight.summary(report)}")

    def _begin(self, host: str, seen: Mapping[str, Seen | None]) -> None:
        launch, remote, facts = self.launch, self._remotes[host], asked(self.launch)
        if (recipe := self._run.path / "launch" / "recipe.toml").is_file():
            remote.send("take", facts | {"to": f"launches/{launch.name}"}, {recipe.name: recipe})
        first = seen[launch.at_work[0]]
        is_there = first is not None and first.run is not None
        if not is_there and not self._saved_step():  # so that there is no copy, either
            launch = replace(launch, run="")
        goes_on = launch.run and (is_there or copies_of(launch))
        if goes_on and host == launch.at_work[0] and self._run.events.is_file():
            told = {"num_bytes": self._num_bytes(), "sha256": sha256_of(self._run.events)}
            if not remote.ask("has_told", facts | told)["has"]:  # another machine told so far
                remote.send(
                    "take",
                    facts | {"to": f"launches/{launch.name}/runs/{launch.run}"},
                    {self._run.events.name: self._run.events},
                )
        pages = {name: page.module for name, page in PAGES.items()}
        remote.ask("begin", facts | {"words": words_of(launch, host, self._ranks, is_there=is_there), "pages": pages})
        self._say(f"{host}: training; {shlex.join(remote.look_on(launch.name))}")
        if host == launch.at_work[0]:
            for name, page in PAGES.items():
                line = shlex.join(remote.look_at(name, launch.name))
                self._say(f"{host}: {page.title} at http://127.0.0.1:{page.port}; {line}")

    def _send_dataset(self, host: str) -> None:
        """What the machine lacks of it; dataset.json comes last, so that what was cut off is no dataset."""
        assert self._dataset
        facts, remote = asked(self.launch), self._remotes[host]
        have = {*remote.ask("look", facts | {"events_from": 0})["files"]}
        files = {str(path.relative_to(self._dataset)): path for path in self._dataset.rglob("*") if path.is_file()}
        missing = sorted(files.keys() - have, key=lambda name: (name == "dataset.json", name))
        self._say(f"{host}: sending {self._dataset}, {len(missing)} of {len(files)} files")
        remote.send("take", facts | {"to": f"datasets/{self.launch.dataset}"}, {name: files[name] for name in missing})

    def _again(self, seen: Mapping[str, Seen | None]) -> None:
        self._keep(next_attempt(self.launch, seen, saved=self._saved_step()))
        self._has_asked = False
        self._told_s, self._longest_s = time.monotonic(), 0.0
        self._say(f"attempt {self.launch.attempt}, on {' and '.join(self.launch.at_work)}")

    def _keep(self, launch: Launch) -> None:
        self.launch = launch
        keep(self._run, launch)

    def _saved_step(self) -> int:
        saved = last(self._run.events, "checkpoint")
        return saved["step"] if saved else 0

    def _reason(self) -> str | None:
        end = self._run.end() if self._run.events.exists() else None
        is_taken = end and end["reason"] == "stopped" and end.get("num_taken")
        return "taken" if is_taken else end["reason"] if end else None

    def _num_bytes(self) -> int:
        return self._run.events.stat().st_size if self._run.events.exists() else 0


def remotes(launch: Launch) -> dict[str, Remote]:
    """By name. Raises MachineError without ssh."""
    require_ssh()
    return {name: Remote(hosts(name)[0], launch.python, launch.ssh) for name in launch.hosts}


def asked(launch: Launch) -> dict[str, Any]:
    """What the agent goes by, whatever it is to do."""
    return {
        "launch": launch.name,
        "attempt": launch.attempt,
        "code": launch.code,
        "environment": launch.environment,
        "modules": parcel.modules(launch.urls),
        "requirements": parcel.requirements(launch.urls),
        "dataset": None if launch.is_url else launch.dataset,
        "limits": launch.watched,
        "follows": False,  # so that looks of others do not keep machines running
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


def keep_end(run: RunDir, reason: str | None) -> None:
    """Nothing is left to be done for this launch."""
    write_json(run.path / "launch" / "ended.json", {"v": 1, "reason": reason})


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
