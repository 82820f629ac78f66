"""A launch: what is wanted, what each machine shows, and what to do next. Pure; ``driver`` does it.

Nothing is remembered but what was asked and which attempt this is: all else is seen on the machines, so a launch that
was killed at any moment and is started again does what is left. A machine that is lost is left out of the next attempt;
one that comes back, be it with nothing on it, is made ready beside the others' training and taken in.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from eighteen.base.errors import MachineError
from eighteen.cloud.hosts import hosts
from eighteen.cloud.limits import GRACE_S, Limits

LEAST_PYTHON = (3, 11)
CLOCKS_S = 120.0  # that machines' clocks may differ by
MOST_FRUITLESS = 4  # attempts in a row that bring no new checkpoint
MEET_S = 120  # that ranks wait for each other: where this program was killed in between, some never come
NUM_PORTS = 1000  # that attempts of one launch go round
STAYS = {"done", "patience", "until", "stopped", "Diverged", "BudgetSpent", "UsageError", "RecipeError", "cost"}
Verb = Literal["watch", "send_code", "install", "send_dataset", "begin", "end", "again", "take_in", "wait", "finish"]


@dataclass(frozen=True)
class Launch:
    """What was asked for, the same whenever it is started again; and which attempt to do it this is.

    name: of the launch, and of its run on the machines      hosts: all machines
    python: of the machines      ranks: on each; 0: one a GPU, or one where there is none
    dataset: its folder's name on the machines, or a URL      words: of ``eighteen train``, without the dataset
    code, environment: digests of the program and of the packages it needs      port: where the ranks meet
    attempt: 1, 2, ...: how often training was begun      saved: the newest checkpoint's step when this one was
    active: the machines that take part in it, in the order of their ranks; all, if there are none
    joining: machines for whose sake it was asked to save and stop      fruitless: how many before it brought nothing
    run: the name of its run's folder on the machines, once there is one
    began: the launch, in seconds since the epoch
    limits: see ``limits.limits``; power_off: whether the machines do, where a limit strikes
    rent: the words that asked for machines, for one that rents them; it has no hosts before it has rented
    ssh: a file with settings for ssh, instead of the person's own      priced: words that tell what the machines cost
    """

    name: str
    hosts: Sequence[str]
    python: str
    ranks: int
    dataset: str
    words: Sequence[str]
    code: str
    environment: str
    port: int
    attempt: int = 1
    saved: int = 0
    active: Sequence[str] = ()
    joining: Sequence[str] = ()
    fruitless: int = 0
    run: str = ""
    began: float = 0.0
    limits: Limits = field(default_factory=dict)
    power_off: bool = False
    rent: Sequence[str] = ()
    ssh: str = ""
    priced: Sequence[str] = ()

    @property
    def watched(self) -> dict[str, Any] | None:
        """What the machines themselves see to; None if that is nothing."""
        return {**self.limits, "grace_s": GRACE_S, "power_off": self.power_off} if self.limits else None

    @property
    def is_url(self) -> bool:
        return "://" in self.dataset

    @property
    def urls(self) -> list[str]:
        """What the machines themselves read and write."""
        return [one for one in (self.dataset, copies_of(self)) if one and "://" in one]

    @property
    def at_work(self) -> Sequence[str]:
        return self.active or self.hosts

    @property
    def meet(self) -> tuple[str, int]:
        """Where the ranks of this attempt meet: the first machine's name, and a port."""
        return hosts(self.at_work[0])[0].name, self.port + (self.attempt - 1) % NUM_PORTS


@dataclass(frozen=True)
class Seen:
    """What a machine shows, see ``agent.look``."""

    python: str
    gpus: int
    has_tmux: bool
    time_s: float
    free_bytes: int
    has_code: bool
    has_packages: bool
    has_dataset: bool
    files: Sequence[str]
    has_begun: bool
    is_running: bool
    exit: int | None
    said: str
    run: str | None
    events: str
    can_power_off: bool = True
    limits: Mapping[str, Any] | None = None
    strikes: Sequence[Any] | None = None
    struck: str | None = None
    goes: bool = False

    @property
    def refusal(self) -> str | None:
        """The name of the error with which it ended, if trying again does not change it."""
        found = re.search(r"^(RecipeError|UsageError|DataError): ", self.said, re.MULTILINE)
        return found and found[1]

    @property
    def is_refused(self) -> bool:
        return self.refusal is not None

    @property
    def was_asked(self) -> bool:
        """Whether it ended because it was asked to save and stop."""
        return re.search(r"^Stopped: ", self.said, re.MULTILINE) is not None

    @property
    def is_over(self) -> bool:
        """Whether the launch may not go on."""
        return self.struck == "most"

    @property
    def has_ended(self) -> bool:
        """Whether nothing of this attempt runs any more, though it had begun."""
        return self.has_begun and (self.exit is not None or not self.is_running)

    @property
    def is_ready(self) -> bool:
        return self.has_code and self.has_packages and self.has_dataset


class Action(NamedTuple):
    verb: Verb
    host: str = ""  # all of them, if left out


def next_actions(
    launch: Launch,
    seen: Mapping[str, Seen | None],
    *,
    reason: str | None,
    lost: Collection[str] = (),
    is_still: bool = False,
) -> list[Action]:
    """What to do now, at once on all machines that are named.

    seen: None for a machine that is silent      reason: of the run's end, if it has told of one
    lost: machines that have been silent for so long that those that are left go on without them
    is_still: whether the run has told of nothing for long
    """
    told = {host: one for host, one in seen.items() if one}
    begun = {host: told[host] for host in launch.at_work if host in told and told[host].has_begun}
    silent = [host for host in launch.at_work if host not in told]
    unwatched = [host for host, one in told.items() if one.limits != launch.watched and not one.has_ended]
    if launch.watched and unwatched:
        return [Action("watch", host) for host in unwatched]
    if any(one.is_over for one in told.values()):
        return [Action("wait" if any(one.is_running for one in begun.values()) else "finish")]
    if not begun:
        return _before(launch, told, silent, lost)
    is_final = any(one.is_refused for one in told.values()) or (
        reason in STAYS and not (reason == "stopped" and launch.joining)
    )
    running = [host for host, one in begun.items() if not one.has_ended]
    has_failed = any(one.has_ended and one.exit != 0 for one in begun.values())
    if running and has_failed:
        may_save = is_final or launch.joining or any(one.was_asked for one in begun.values())
        return [Action("wait")] if may_save else [Action("end", host) for host in running]
    if running and is_still and any(host in lost for host in silent):
        return [Action("end", host) for host in running]  # its peers wait for it where they may wait for minutes
    if running:  # a machine that is silent may well train: its peers notice if it does not
        return [Action("wait")] if len(running) < len(begun) else _beside(launch, told)
    if is_final or not has_failed or launch.fruitless + 1 >= MOST_FRUITLESS:
        return [Action("finish")]
    is_left = all(host in lost for host in silent) and not all(one.goes for one in told.values())
    return [Action("again" if is_left else "wait")]


def _before(launch: Launch, told: Mapping[str, Seen], silent: Sequence[str], lost: Collection[str]) -> list[Action]:
    """While nothing of this attempt has begun: the first waits for all machines, later ones for those that are left."""
    if silent:
        is_left = launch.attempt > 1 and len(silent) < len(launch.at_work) and all(host in lost for host in silent)
        return [Action("again" if is_left else "wait")]
    if missing := [action for host in launch.at_work for action in _missing(host, told[host])]:
        return missing
    if launch.run and told[launch.at_work[0]].run is None and any(told[host].run for host in launch.at_work):
        return [Action("again")]  # who has the run comes first
    return [Action("begin", host) for host in launch.at_work]


def _beside(launch: Launch, told: Mapping[str, Seen]) -> list[Action]:
    """While all that has begun runs: machines that have not, because this program was killed in between, or because
    they have come back, are made ready and taken in.
    """
    idle = {host: one for host, one in told.items() if not one.has_begun and not one.goes}
    if missing := [action for host, one in idle.items() for action in _missing(host, one)]:
        return missing
    if late := [host for host in idle if host in launch.at_work]:
        return [Action("begin", host) for host in late]
    return [Action("take_in", host) for host in idle if not launch.joining] or [Action("wait")]


def _missing(host: str, one: Seen) -> list[Action]:
    if one.is_ready:
        return []
    verb = "send_code" if not one.has_code else "install" if not one.has_packages else "send_dataset"
    return [Action(verb, host)]


def next_attempt(launch: Launch, seen: Mapping[str, Seen | None], *, saved: int) -> Launch:
    """To begin again, with the machines that answer, stay, and need not be made ready first; those that have the run
    lead.

    saved: the newest checkpoint's step
    """
    told = {host: one for host in launch.hosts if (one := seen[host]) and not one.goes}
    ready = [host for host, one in told.items() if one.is_ready] or list(told)
    active = sorted(ready, key=lambda host: told[host].run is None)
    has_tried = any(one.has_begun for one in told.values()) and not launch.joining
    fruitless = launch.fruitless + has_tried if saved <= launch.saved else 0
    attempt = launch.attempt + 1
    return replace(launch, attempt=attempt, saved=saved, active=active, joining=(), fruitless=fruitless)


def require_fit(seen: Mapping[str, Seen], *, need_bytes: int, now: float) -> None:
    """MachineError, which names the machine and what to do there, before anything is sent."""
    for host, one in seen.items():
        python = tuple(map(int, one.python.split(".")[:2]))
        least = ".".join(map(str, LEAST_PYTHON))
        if python < LEAST_PYTHON:
            raise _unfit(host, f"Python {one.python}", f"{least} or newer", "--python python3.12")
        if not one.has_tmux:
            raise _unfit(host, "no tmux", "tmux, in which training goes on without us", "sudo apt-get install tmux")
        if not one.has_dataset and one.free_bytes < need_bytes:
            raise _unfit(host, f"{one.free_bytes:,} bytes free", f"{need_bytes:,}", "delete something in ~/.eighteen")
        if not one.can_power_off:
            need, hint = (
                "a shutdown that root, or sudo without a password, may do",
                "leave out --power-off, or allow it",
            )
            raise _unfit(host, "no right to power off", need, hint)
        if abs(one.time_s - now) > CLOCKS_S:
            raise _unfit(
                host, f"a clock {one.time_s - now:+,.0f} s off", "one that is right", "timedatectl set-ntp true"
            )


def _unfit(host: str, got: str, need: str, hint: str) -> MachineError:
    return MachineError(f"launch on {host}", got=got, need=need, hint=f"{hint}, on {host}")


def ranks_on_each(launch: Launch, seen: Mapping[str, Seen]) -> int:
    return launch.ranks or max(1, min(one.gpus for one in seen.values()))


def words_of(launch: Launch, host: str, ranks: int, *, is_there: bool = True) -> list[str]:
    """What the machine's Python is started with: torch's launcher, and ``eighteen train`` under it.

    is_there: whether the first machine has the run, if it began before; else a copy of it is gone on with, where the
    launch makes one
    """
    (meet, port), number = launch.meet, launch.at_work.index(host)
    torchrun = ["-m", "eighteen.training.torchrun", "--rdzv-backend", "eighteen", "--rdzv-endpoint", f"{meet}:{port}"]
    torchrun += ["--rdzv-conf", f"rank={number},timeout={MEET_S}"]
    torchrun += ["--nnodes", f"{len(launch.at_work)}", "--nproc-per-node", f"{ranks}"]
    # relative: it means the same on each machine, wherever its home is
    data = launch.dataset if launch.is_url else f"../../datasets/{launch.dataset}"
    if launch.run and (place := "runs" if is_there else copies_of(launch)):
        going_on = ["--resume", f"{place}/{launch.run}"]
    else:
        going_on = ["--name", launch.name, *launch.words, *launch.priced]
    return [*torchrun, "-m", "eighteen", "train", data, *going_on]


def copies_of(launch: Launch) -> str | None:
    """Where the copies of its checkpoints are, if it makes any."""
    urls = [url for flag, url in pairwise(launch.words) if flag == "--checkpoint-to"]
    return urls[-1].rstrip("/") if urls else None
