"""What is asked of SkyPilot, a tool of its own that rents machines, and what its answers mean. Pure; ``rent`` does it.

Renting is a step before a launch and giving back one after it; in between the machines are like those of ``--hosts``.
Or a managed job rents, trains, and rents anew where machines are lost, see ``managed``.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from eighteen.advice.plan import Plan
from eighteen.advice.quotes import Quote
from eighteen.base.errors import Stopped, UsageError
from eighteen.cloud.launch import Launch

PREFIX = "eighteen-"  # of the names of all clusters that are ours
LABEL = "eighteen-launch"  # on each machine
HOURS = 24.0  # that machines are rented for at most, if nothing else is said
LEAST_DISK_GB, SPARE_DISK_GB = 256, 64
OWN_PYTHON = ".eighteen/python/bin/python"  # in the home of a rented machine, whose own may be too old
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
RELAUNCH = Stopped.exit_code  # with which a managed job asks to be begun again, on other machines
CONTROLLER = "and SkyPilot's own controller of jobs, one small machine, which it stops when no job is left"
NO_JOBS = re.compile(r"ClusterNotUpError|No in-progress managed jobs")
REFUSED = re.compile(r"ResourcesUnavailableError|Failed to (provision all|acquire resources)")

# Constants, so that nothing of ours has to be quoted for a shell. uv is what SkyPilot itself installs with.
TMUX = "command -v tmux >/dev/null || { sudo apt-get update -q && sudo apt-get install -qy tmux; }"
PYTHON = "[ -x ~/.eighteen/python/bin/python ] || ~/.local/bin/uv venv --quiet --seed --python 3.12 ~/.eighteen/python"

State = Literal["wanted", "renting", "rented", "returned"]
Step = Literal["rent", "reach", "give_back", "nothing"]


@dataclass(frozen=True)
class Wish:
    """What somebody asked for.

    gpu: as "H100:8": so many on each machine      region: "" for any      is_cheapest: name the cheapest place
    is_managed: whether SkyPilot is to rent anew where machines are lost
    """

    cloud: str
    gpu: str
    machines: int
    is_spot: bool = False
    region: str = ""
    is_cheapest: bool = False
    is_managed: bool = False


@dataclass(frozen=True)
class Place:
    """Where machines are to be had.

    instance, region, zone: "": SkyPilot chooses      usd_h: of one machine      told: by whom, and when
    """

    instance: str
    region: str
    zone: str
    usd_h: float
    told: str

    def __str__(self) -> str:
        return " ".join(filter(None, [self.instance, self.zone or self.region])) or "anywhere"


@dataclass(frozen=True)
class Rental:
    """What was agreed to, and how far it came.

    name: of the launch      places: in the order in which they are asked      place: which one is now
    hours: after which the machines end by themselves      disk_gb: of each
    since: when renting began, in seconds since the epoch
    others: clusters that were rented in place of machines that were lost
    """

    name: str
    wish: Wish
    places: Sequence[Place]
    hours: float
    disk_gb: int
    setup: str
    place: int = 0
    state: State = "wanted"
    since: float = 0.0
    others: Sequence[str] = ()

    @property
    def usd_h(self) -> float:
        """Of all machines together, at most."""
        return self.wish.machines * max(one.usd_h for one in self.places)

    @property
    def cluster(self) -> str:
        return PREFIX + re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


@dataclass(frozen=True)
class Node:
    """A rented machine, as SkyPilot's own settings for ssh have it.

    address: where we reach it      more: further lines of these settings, such as the way through another machine
    """

    address: str
    user: str
    port: int
    key: str
    more: Sequence[str] = ()


def next_step(state: State, there: str | None, *, is_over: bool) -> Step:
    """What to do now. there: what SkyPilot says of the machines (UP, INIT ...); None: it has none of this name"""
    if is_over:
        return "nothing" if there is None and state in ("wanted", "returned") else "give_back"
    if there == "UP" or (there and state == "rented"):  # without some of the machines, which others replace
        return "reach"
    return "rent"  # where it was killed while it rented, the same words go on


def instead(rental: Rental, machines: int, *, region: str, hours: float) -> Rental:
    """Others in place of so many that are gone, for the hours that are left: in the same region, where the rest reach
    them, and for no more than was agreed to.
    """
    places = [replace(one, region=region) for one in rental.places if one.region in ("", region)]
    name = f"{rental.name}-again-{len(rental.others) + 1}"
    wish = replace(rental.wish, machines=machines)
    return replace(rental, name=name, wish=wish, places=places, hours=hours, place=0, state="wanted", others=())


def setup(python: str, *, has_tmux: bool = True) -> str:
    """What a machine does before anything else: tmux, and our Python where nobody named another."""
    return "\n".join(["set -e", *[TMUX] * has_tmux, *[PYTHON] * (python == OWN_PYTHON)])


def disk_gb(dataset_bytes: int) -> int:
    return max(LEAST_DISK_GB, SPARE_DISK_GB + math.ceil(2 * dataset_bytes / 1e9))


def task(rental: Rental) -> dict[str, Any]:
    """SkyPilot's task: which machines, with our label, until when; nothing runs on them but their setup."""
    wish, place = rental.wish, rental.places[rental.place]
    where = "/".join(filter(None, [wish.cloud, place.region, place.zone]))
    kind = {"instance_type": place.instance} if place.instance else {"accelerators": wish.gpu}
    # no job of SkyPilot's runs, so it would take them for idle: "none" makes a time from their start on of it
    ends = {"idle_minutes": max(1, math.ceil(60 * rental.hours)), "down": True, "wait_for": "none"}
    return {
        "name": rental.cluster,
        "num_nodes": wish.machines,
        "resources": {
            "infra": where,
            **kind,
            "use_spot": wish.is_spot,
            "disk_size": rental.disk_gb,
            "labels": {LABEL: rental.cluster},
            "autostop": ends,
        },
        "setup": rental.setup,
    }


def text(task: Mapping[str, Any]) -> str:
    """A task as a file for ``sky launch``: YAML takes all JSON."""
    return json.dumps(task, indent=2) + "\n"


def job(rental: Rental, launch: Launch, parcel: Path) -> dict[str, Any]:
    """SkyPilot's task for a managed job: the same machines, and what trains on them, which came in a tar file."""
    asked = task(rental)
    resources = asked["resources"] | {"job_recovery": {"recover_on_exit_codes": [RELAUNCH]}}
    resources.pop("autostop")  # it gives back what a job has left
    folder, sent = f".eighteen/launches/{shlex.quote(launch.name)}", f".eighteen/{launch.name}.tar"
    python = shlex.quote(launch.python)
    lines = [rental.setup, "cd", f"mkdir -p {folder}", f"tar -xf {shlex.quote(sent)} -C {folder}"]
    words = f'-m eighteen.cloud.agent choose_python "$(cat {folder}/launch/packages.json)"'
    lines += [f"PYTHONPATH={folder} {python} {words}"]
    run = f'cd ~/{folder} && PYTHONPATH=$PWD exec "$(cat python)" -m eighteen.cloud.managed_job'
    mounts = {f"~/{sent}": str(parcel)}
    return asked | {"resources": resources, "file_mounts": mounts, "setup": "\n".join(lines), "run": run}


def job_words(rental: Rental, file: Path) -> list[str]:
    """It comes back when SkyPilot's controller has the job."""
    return ["sky", "jobs", "launch", "--name", rental.cluster, "--detach-run", "--yes", str(file)]


def queue_words() -> list[str]:
    """Without --refresh, which would start a controller that has stopped."""
    return ["sky", "jobs", "queue", "--all", "--output", "json"]


def log_words(rental: Rental) -> list[str]:
    return ["sky", "jobs", "logs", "--name", rental.cluster, "--no-follow"]


def cancel_words(*numbers: int) -> list[str]:
    return ["sky", "jobs", "cancel", "--yes", *map(str, numbers)]


@dataclass(frozen=True)
class Job:
    """A managed job, as SkyPilot tells of it. losses: how often it was begun again"""

    name: str
    number: int
    state: str
    losses: int

    @property
    def is_over(self) -> bool:
        return self.state in ("SUCCEEDED", "CANCELLED") or self.state.startswith("FAILED")

    def __str__(self) -> str:
        again = f", begun again {self.losses} times" if self.losses else ""
        return f"job {self.number}: {self.state.lower()}{again}"


def jobs(said: str) -> list[Job]:
    """What ``queue_words`` were answered: the jobs of ours, the newest last; none where no controller runs."""
    if NO_JOBS.search(said):
        return []
    found = [one for one in _rows(said) if (one["job_name"] or "").startswith(PREFIX)]
    told = [Job(one["job_name"], one["job_id"], one["status"], one["recovery_count"] or 0) for one in found]
    return sorted(told, key=lambda one: one.number)


def rent_words(rental: Rental, file: Path, settings: Path | None) -> list[str]:
    """It comes back when the machines are set up: with --detach-run it would not wait for that.

    settings: of SkyPilot, for this alone
    """
    more = ["--config", str(settings)] if settings else []
    return ["sky", "launch", "--cluster", rental.cluster, *more, "--yes", str(file)]


def status_words(*clusters: str) -> list[str]:
    return ["sky", "status", "--refresh", "--output", "json", *clusters]


def return_words(*clusters: str) -> list[str]:
    return ["sky", "down", "--yes", *clusters]


def clusters(said: str) -> dict[str, str]:
    """What ``status_words`` were answered: the state of each cluster of ours, by its name."""
    return {one["name"]: one["status"] for one in _rows(said) if one["name"].startswith(PREFIX)}


def region(said: str, cluster: str) -> str | None:
    """Where SkyPilot has put a cluster, out of the same answer; None if it knows of none."""
    return next((one["region"] for one in _rows(said) if one["name"] == cluster), None)


def _rows(said: str) -> list[dict[str, Any]]:
    """The JSON after all that it says before."""
    return json.loads(re.split(r"^(?=\[)", COLOUR.sub("", said), maxsplit=1, flags=re.MULTILINE)[1])


def is_refused(said: str) -> bool:
    """Whether a place has no such machines for us, so that another may; all else would be no better there."""
    return REFUSED.search(said) is not None


def nodes(settings: str) -> list[Node]:
    """The machines of a cluster, in SkyPilot's order, from what it writes to ~/.sky/generated/ssh/NAME."""
    blocks = re.split(r"^Host .*$", settings, flags=re.MULTILINE)[1:]
    found = []
    for block in blocks:
        lines = [line.strip() for line in block.splitlines() if line.strip() and not line.strip().startswith("#")]
        told = {name: value for name, _, value in (line.partition(" ") for line in lines)}
        more = [line for line in lines if line.startswith("ProxyCommand ")]
        found.append(Node(told["HostName"], told["User"], int(told.get("Port", 22)), told["IdentityFile"], more))
    return found


def ssh_config(named: Mapping[str, Node], known_hosts: Path) -> str:
    """Settings of our own for ssh: each machine's key has to be one that is known."""
    blocks = []
    for name, node in named.items():
        lines = [f"HostName {node.address}", f"User {node.user}", f"Port {node.port}", f'IdentityFile "{node.key}"']
        lines += ["IdentitiesOnly yes", "ForwardAgent no", "StrictHostKeyChecking yes", "HashKnownHosts no"]
        lines += [f'UserKnownHostsFile "{known_hosts}"', "GlobalKnownHostsFile /dev/null", *node.more]
        blocks.append("\n  ".join([f"Host {name}", *lines]))
    return "\n".join(blocks) + "\n"


def places(quotes: Iterable[Quote], wish: Wish) -> list[Place]:
    """Where the machines of a wish are to be had, the cheapest first; UsageError if nobody has a price for them."""
    gpu, _, number = wish.gpu.partition(":")
    found: dict[tuple[str, str, str], Place] = {}
    for quote in quotes:
        offer = quote.offer
        usd_h = offer.spot_usd_h if wish.is_spot else offer.usd_h
        region, zone = (quote.spot.region, quote.spot.zone) if quote.spot else (offer.region, "")
        is_it = (offer.cloud, offer.gpu, f"{offer.gpus}") == (wish.cloud, gpu, number or "1")
        if is_it and usd_h is not None and wish.region in ("", region):
            one = Place(offer.instance, region, zone if wish.is_spot else "", usd_h, _told(quote, is_spot=wish.is_spot))
            found.setdefault((one.instance, one.region, one.zone), one)
    if not found:
        where = f"{wish.cloud} {wish.region}".strip()
        got = f"no {'spot ' if wish.is_spot else ''}price of {wish.gpu} on {where}"
        need = "one, so that it is known what is agreed to"
        hint = "eighteen prices, for what has one; --prices FILE; or --price-usd-h, for all machines together"
        raise UsageError("rent machines", got=got, need=need, hint=hint)
    return sorted(found.values(), key=lambda one: (one.usd_h, one.region, one.zone))


def asked_in(found: Sequence[Place], wish: Wish) -> list[Place]:
    """The places to name to SkyPilot, one after the other; without ``is_cheapest`` it finds one by itself."""
    if wish.is_cheapest:
        return [*found]
    dearest = max((one for one in found if one.instance == found[0].instance), key=lambda one: one.usd_h)
    return [Place(dearest.instance, wish.region, "", dearest.usd_h, f"at most, by {dearest}: {dearest.told}")]


def by_hand(usd_h: float, wish: Wish) -> Place:
    """Of machines that no table knows, whose price, of all together, somebody told."""
    return Place("", wish.region, "", usd_h / wish.machines, "--price-usd-h")


def _told(quote: Quote, *, is_spot: bool) -> str:
    if is_spot or quote.on_demand_of == "now":
        return f"{quote.offer.source}, {quote.offer.date}"
    return f"price table, {quote.on_demand_of}"


def estimate(rental: Rental, plan: Plan | None, *, epochs: float) -> list[str]:
    """What will be rented, for how much, for people to agree to. plan: if it is known how fast they train"""
    wish, place = rental.wish, rental.places[0]
    together = wish.machines * place.usd_h
    others = f"; if it has none, the next of {len(rental.places)}" if len(rental.places) > 1 else ""
    lines = [
        f"{wish.machines} x {wish.cloud} {wish.gpu}{' spot' if wish.is_spot else ''}: {place}{others}",
        f"price: ${place.usd_h:,.4g} an hour each, ${together:,.4g} together ({place.told})",
    ]
    if plan is not None and plan.usd is not None:
        hours, usd = plan.seconds.scaled(1 / 3600), plan.usd
        lines.append(
            f"expected: {hours.expected:.2g} h ({hours.low:.2g} to {hours.high:.2g}), ${usd.expected:,.3g} "
            f"(${usd.low:,.3g} to ${usd.high:,.3g}), ${usd.expected / epochs:,.2g} an epoch; {plan.basis}"
        )
    else:
        lines.append("expected: not known without --measured; eighteen plan reckons it")
    most = rental.usd_h * rental.hours
    lines.append(f"at most: {rental.hours:.3g} h, ${most:,.4g}; then the machines end by themselves (--max-hours)")
    return [*lines, CONTROLLER] if wish.is_managed else lines
