"""A launch: what is wanted, what each machine shows, and what to do next. Pure; ``driver`` does it.

Nothing is remembered but what was asked and which attempt this is: all else is seen on the machines, so a launch that
was killed at any moment and is started again does what is left.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from eighteen.base.errors import MachineError

LEAST_PYTHON = (3, 11)
CLOCKS_S = 120.0  # that machines' clocks may differ by
MOST_ATTEMPTS = 4
STAYS = {"done", "patience", "until", "stopped", "Diverged", "BudgetSpent", "UsageError", "RecipeError", "cost"}
Verb = Literal["send_code", "install", "send_dataset", "begin", "end", "again", "wait", "finish"]


@dataclass(frozen=True)
class Launch:
    """What was asked for, the same whenever it is started again.

    name: of the launch, and of its run on the machines      hosts: in the order of their ranks
    python: of the machines      ranks: on each; 0: one a GPU, or one where there is none
    dataset: its folder's name on the machines, or a URL      words: of ``eighteen train``, without the dataset
    code, environment: digests of the program and of the packages it needs      port: where the ranks meet
    attempt: 1, 2, ...: how often training was begun
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
    rent: Sequence[str] = ()
    ssh: str = ""
    priced: Sequence[str] = ()

    @property
    def is_url(self) -> bool:
        return "://" in self.dataset


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

    @property
    def is_refused(self) -> bool:
        """Whether it ended with an error that trying again does not change."""
        return re.search(r"^(RecipeError|UsageError|DataError): ", self.said, re.MULTILINE) is not None

    @property
    def has_ended(self) -> bool:
        """Whether nothing of this attempt runs any more, though it had begun."""
        return self.has_begun and (self.exit is not None or not self.is_running)


class Action(NamedTuple):
    verb: Verb
    host: str = ""  # all of them, if left out


def next_actions(launch: Launch, seen: Mapping[str, Seen | None], *, reason: str | None) -> list[Action]:
    """What to do now, at once on all machines that are named.

    seen: None for a machine that is silent      reason: of the run's end, if it has told of one
    """
    told = {host: one for host, one in seen.items() if one}
    begun = [host for host, one in told.items() if one.has_begun]
    if not begun:
        if len(told) < len(seen):
            return [Action("wait")]
        missing = [action for host, one in told.items() if (action := _missing(host, one))]
        return missing or [Action("begin", host) for host in launch.hosts]
    if len(told) == len(seen) and len(begun) < len(told) and not any(told[host].has_ended for host in begun):
        return [Action("begin", host) for host, one in told.items() if not one.has_begun]  # it was killed in between
    running = [host for host in begun if not told[host].has_ended]
    is_final = reason in STAYS or any(one.is_refused for one in told.values())
    is_broken = len(running) < len(seen) and not is_final
    is_lost = any(told[host].exit != 0 for host in begun if told[host].has_ended)
    if running:  # a machine that is silent may well train: its peers notice if it does not
        return [Action("end", host) for host in running] if is_broken and is_lost else [Action("wait")]
    if is_broken and is_lost and launch.attempt < MOST_ATTEMPTS:
        return [Action("wait")] if len(told) < len(seen) else [Action("again")]
    return [Action("finish")]


def _missing(host: str, one: Seen) -> Action | None:
    if not one.has_code:
        return Action("send_code", host)
    if not one.has_packages:
        return Action("install", host)
    return None if one.has_dataset else Action("send_dataset", host)


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
        if abs(one.time_s - now) > CLOCKS_S:
            raise _unfit(
                host, f"a clock {one.time_s - now:+,.0f} s off", "one that is right", "timedatectl set-ntp true"
            )


def _unfit(host: str, got: str, need: str, hint: str) -> MachineError:
    return MachineError(f"launch on {host}", got=got, need=need, hint=f"{hint}, on {host}")


def ranks_on_each(launch: Launch, seen: Mapping[str, Seen]) -> int:
    return launch.ranks or max(1, min(one.gpus for one in seen.values()))


def words_of(launch: Launch, host: str, ranks: int, meet_at: str) -> list[str]:
    """What the machine's Python is started with: torch's launcher, and ``eighteen train`` under it."""
    data = launch.dataset if launch.is_url else f"~/.eighteen/datasets/{launch.dataset}"
    torchrun = ["-m", "torch.distributed.run", "--nnodes", f"{len(launch.hosts)}", "--node-rank"]
    torchrun += [f"{launch.hosts.index(host)}", "--nproc-per-node", f"{ranks}", "--rdzv-backend", "static"]
    torchrun += ["--master-addr", meet_at, "--master-port", f"{launch.port + launch.attempt - 1}"]
    return [*torchrun, "-m", "eighteen", "train", data, "--name", launch.name, *launch.words, *launch.priced]
