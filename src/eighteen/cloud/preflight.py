"""Whether several machines can train together, and if not, which one is at fault and what to do there. Pure.

In: what the machines told, which ``probing`` has asked for. Out: faults, each with the machine and the fix; those that
are broken keep a launch from beginning, the others are warnings.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, Literal, NamedTuple

from eighteen.base.errors import MachineError
from eighteen.cloud.launch import CLOCKS_S

LEAST_FREE_BYTES = 2**30
LEAST_SHM_BYTES = 2**27  # a rank: NCCL takes some for each pair of a machine, and Docker gives 64 MB in all
CLOCK_S = 5.0  # off: strange times in the events
SLOW = 1 / 3  # of what machines reach
MOST_FAULTS = 5  # that are told at once
COLUMNS = ("machine", "address", "clock", "free", "shm", "GPUs", "connects", "sends", "receives")
Pair = tuple[str, str]  # who begins or sends, and to whom


@dataclass(frozen=True)
class Look:
    """What a machine tells of itself, see ``probe.look``. name: as others call it      offset_s: its clock's"""

    name: str
    hostname: str
    addresses: Mapping[str, Sequence[str]]
    interface: str | None
    free_bytes: int
    shm_bytes: int | None
    gpus: Sequence[Sequence[str]]
    gpus_fault: str | None
    offset_s: float


class Listening(NamedTuple):
    """Where a machine listens. address: None if nowhere      ports: meet, if it was free, and other"""

    address: str | None
    ports: Mapping[str, int]


@dataclass(frozen=True)
class Fault:
    """host: the machine to go to      got, need, hint: as in errors"""

    host: str
    got: str
    need: str
    hint: str
    is_broken: bool = True


@dataclass(frozen=True)
class Report:
    """hosts: in the order of their ranks      meet: the name of the first
    reached: by pair and port, why not, or None      latency_s: to connect
    rates: bytes per second from the first of a pair to the second; None: nothing came      usual: of them
    all_reduce: bytes, seconds, latency_s; None if it was not measured
    load_s: of ``seconds``, for Python to load torch
    """

    hosts: Sequence[str]
    meet: str
    port: int
    ranks: int
    looks: Mapping[str, Look] = field(default_factory=dict)
    listening: Mapping[str, Listening] = field(default_factory=dict)
    reached: Mapping[Pair, Mapping[str, str | None]] = field(default_factory=dict)
    latency_s: Mapping[Pair, float] = field(default_factory=dict)
    rates: Mapping[Pair, float | None] = field(default_factory=dict)
    usual: float = 0.0
    all_reduce: Mapping[str, float] | None = None
    faults: Sequence[Fault] = ()
    seconds: float = 0.0
    load_s: float = 0.0

    @property
    def is_fit(self) -> bool:
        return not any(fault.is_broken for fault in self.faults)


class Blame(NamedTuple):
    """What a set of failed pairs speaks against: all; a machine, or what goes into it or out of it; or one pair."""

    at: Literal["everywhere", "machine", "into", "out of", "link"]
    hosts: Sequence[str]


def blamed(failed: Collection[Pair], hosts: Sequence[str]) -> list[Blame]:
    """The fewest machines that explain which pairs failed; what is left is told pair by pair.

    A machine is blamed only where all that it has with the others, in both directions or in one, failed. Of two
    machines there is no telling which it is.
    """
    every = {(one, other) for one in hosts for other in hosts if one != other}
    left, found = set(failed), list[Blame]()
    if left == every and every:
        return [Blame("everywhere", hosts)]
    ways: dict[Any, Any] = {"machine": lambda pair, host: host in pair}
    ways |= {"into": lambda pair, host: pair[1] == host, "out of": lambda pair, host: pair[0] == host}
    for at, is_of in ways.items() if len(hosts) > 2 else ():
        for host in hosts:
            own = {pair for pair in every if is_of(pair, host)}
            if own <= set(failed) and len(own & left) > 1:
                found.append(Blame(at, (host,)))
                left -= own
    return found + [Blame("link", pair) for pair in sorted(left)]


def usual(rates: Mapping[Pair, float | None]) -> float:
    """What machines reach with most others: the upper median, over all of them, of each one's upper quartile.

    So one fast machine cannot make all others slow, nor a slow one be the measure, unless most are slow.
    """
    known = {pair: rate for pair, rate in rates.items() if rate is not None}
    each = [
        sorted(rate for pair, rate in known.items() if pair[way] == host)
        for way in (0, 1)
        for host in {pair[way] for pair in known}
    ]
    return statistics.median_high(one[math.ceil(0.75 * len(one)) - 1] for one in each) if each else 0.0


def slow(rates: Mapping[Pair, float | None], reached: float) -> set[Pair]:
    """The pairs that are far below that."""
    return {pair for pair, rate in rates.items() if rate is not None and rate < SLOW * reached}


def rounds(hosts: Sequence[str]) -> Iterator[list[Pair]]:
    """All pairs, each once, in rounds in which a machine is in one pair at most: everybody turns around the first."""
    ring = [*hosts, *[""] * (len(hosts) % 2)]
    for _ in range(len(ring) - 1):
        pairs = zip(ring[: len(ring) // 2], reversed(ring[len(ring) // 2 :]), strict=True)
        yield [pair for pair in pairs if "" not in pair]
        ring = [ring[0], ring[-1], *ring[1:-1]]


def of_machines(looks: Mapping[str, Look], *, ranks: int) -> Iterator[Fault]:
    """Clocks, disks, shared memory, drivers, and GPUs that are not alike."""
    for host, one in looks.items():
        if abs(one.offset_s) > CLOCK_S:
            got, is_broken = f"a clock {one.offset_s:+,.0f} s off on {host}", abs(one.offset_s) > CLOCKS_S
            yield Fault(host, got, "one that is right", f"timedatectl set-ntp true, on {host}", is_broken)
        if one.free_bytes < LEAST_FREE_BYTES:
            got, need = f"{one.free_bytes:,} bytes free on {host}", f"{LEAST_FREE_BYTES:,}"
            yield Fault(host, got, need, f"delete something in ~/.eighteen, on {host}")
        if one.gpus_fault:
            need, hint = "a driver that works, or none", f"nvidia-smi, on {host}; a reboot often helps"
            is_broken = any(other.gpus for other in looks.values())  # or all train on processors
            yield Fault(host, f"{one.gpus_fault} on {host}", need, hint, is_broken)
        least = ranks * LEAST_SHM_BYTES
        if ranks > 1 and one.gpus and one.shm_bytes is not None and one.shm_bytes < least:
            got, hint = f"{one.shm_bytes:,} bytes in /dev/shm on {host}", f"docker run --shm-size {least}, on {host}"
            yield Fault(host, got, f"{least:,} for {ranks} ranks", hint, is_broken=False)
    told = {host: one for host, one in looks.items() if not one.gpus_fault}
    yield from _odd("GPUs", {host: len(one.gpus) for host, one in told.items()}, ranks=ranks)
    yield from _odd("as GPUs", {host: _listed(name for name, _ in one.gpus) for host, one in told.items() if one.gpus})
    yield from _odd(
        "as driver", {host: _listed(name for _, name in one.gpus) for host, one in told.items() if one.gpus}
    )


def _odd(what: str, facts: Mapping[str, Any], *, ranks: int = 0) -> Iterator[Fault]:
    """Those that differ from most."""
    if len(set(facts.values())) < 2:
        return
    usual = statistics.mode(facts.values())
    for host, one in facts.items():
        if one != usual:
            is_broken = isinstance(one, int) and bool(usual) and one < ranks  # each step needs all its ranks
            alike = next(other for other, fact in facts.items() if fact == usual)
            got, need = f"{one} {what} on {host}", f"{usual}, as on {alike}: the slowest sets the pace"
            yield Fault(host, got, need, f"nvidia-smi -L, on {host}; or leave it out of --hosts", is_broken)


def of_names(looks: Mapping[str, Look], meet: str) -> Iterator[Fault]:
    """Names that a machine must resolve: that of the first, where the ranks meet, and, for gloo, its own.

    Of two ranks, gloo lets that with the higher address connect to the other, so one machine that tells a loopback
    address may get along among lower ones, such as 10.0.0.1 (seen with torch 2.15).
    """
    at = [address for one in looks.values() for address in one.addresses[meet] if not is_loopback(address)]
    known = statistics.mode(at) if at else "ADDRESS"
    for host, one in looks.items():
        if not one.addresses[meet]:
            need, hint = "a name that each machine resolves", f"the line '{known} {meet}' in /etc/hosts of {host}"
            yield Fault(host, f"{host} does not know {meet}, where the ranks meet", need, hint)
        own = one.addresses[one.hostname]
        uses_gloo = not one.gpus and one.interface is None
        if at and uses_gloo and all(map(is_loopback, own)):
            resolved = f"which it resolves to {_listed(own)}" if own else "which it does not resolve"
            got, need = f"{host} calls itself {one.hostname}, {resolved}", "an address that the others reach"
            hint = f"the line 'ADDRESS {one.hostname}' with its own address in /etc/hosts of {host}"
            is_called = any(_gloo(other) >= _gloo(one) for name, other in looks.items() if name != host)
            yield Fault(host, got, need, hint, is_called)


def _gloo(one: Look) -> bytes:
    """The address that gloo goes by."""
    return ip_address((*one.addresses[one.hostname], "127.0.0.1")[0].partition("%")[0]).packed


def of_ports(report: Report) -> Iterator[Fault]:
    """Machines and pairs between which nothing can be opened, at any port or at that where the ranks meet."""
    first = report.hosts[0]
    for host, one in report.listening.items():
        if one.address is None:
            got, need = f"{host} has none of the addresses of its name", "an address of its own under that name"
            yield Fault(host, got, need, f"getent hosts {report.looks[host].name}; ip address, on {host}")
    if report.listening[first].address and "meet" not in report.listening[first].ports:
        got, hint = f"port {report.port} of {first} is taken", f"sudo ss -ltnp 'sport = :{report.port}', on {first}"
        yield Fault(first, got, "a port where the ranks can meet", f"{hint}; or another port: eighteen launch --new")
    failed = {pair: {port: why for port, why in ports.items() if why} for pair, ports in report.reached.items()}
    misled = {pair for pair, ports in failed.items() if ports and _is_misled(report, pair)}
    for host, _ in sorted(misled):
        took, address = _listed(report.looks[host].addresses[report.meet]), report.listening[first].address
        hint = f"the line '{address} {report.meet}' in /etc/hosts of {host}"
        yield Fault(host, f"{host} takes {took} for {report.meet}", f"{address}, where it is", hint)
    nowhere = {pair for pair, ports in failed.items() if "other" in ports} - misled
    only_there = {pair for pair, ports in failed.items() if "meet" in ports} - nowhere - misled
    for pairs, where in ((nowhere, ""), (only_there, f" at port {report.port}")):
        for blame in blamed(pairs, report.hosts):
            why = {reason for pair in pairs if _is_in(pair, blame) for reason in failed[pair].values()}
            is_broken = not where or any(_is_in(pair, blame) and pair[1] == first for pair in pairs)
            yield _unreached(report, blame, f"{where}: {'; '.join(sorted(why))}", is_broken=is_broken)


def _is_misled(report: Report, pair: Pair) -> bool:
    """Whether the first machine was looked for where it is not."""
    address = report.listening[report.hosts[0]].address
    is_there = address is None or address in report.looks[pair[0]].addresses[report.meet]
    return pair[1] == report.hosts[0] and not is_there


def _is_in(pair: Pair, blame: Blame) -> bool:
    if blame.at == "link":
        return pair == blame.hosts
    own = {"into": pair[1:], "out of": pair[:1]}.get(blame.at, pair)
    return not {*own}.isdisjoint(blame.hosts)


def _unreached(report: Report, blame: Blame, rest: str, *, is_broken: bool) -> Fault:
    host, need = blame.hosts[-1], "each machine to reach each other"
    others = [one for one in report.hosts if one not in blame.hosts] if blame.at != "link" else blame.hosts[:1]
    sources = _listed(report.listening[one].address or one for one in others)
    hint = f"sudo ufw allow proto tcp from {sources}, or as its firewall or security group has it, on {host}"
    if blame.at == "machine":
        hint = f"ip address; ip route; sudo nft list ruleset, on {host}; or leave it out of --hosts"
    if blame.at == "out of":
        hint = f"ip route; sudo nft list ruleset, on {host}: what keeps it from {sources}"
    if blame.at == "everywhere":
        hint = "one network for all, and a firewall or security group that lets TCP through between them"
    if "large" in rest:
        hint = f"ip link, on {host} and the others: one MTU for all, and on the way between them"
    told = {
        "everywhere": "no machine reaches another",
        "machine": f"{host} reaches none of the others, nor they it",
        "into": f"none of the others reaches {host}",
        "out of": f"{host} reaches none of the others",
        "link": f"{blame.hosts[0]} does not reach {host}",
    }
    return Fault(host, told[blame.at] + rest, need, hint, is_broken)


def of_rates(report: Report) -> Iterator[Fault]:
    """Machines and links that carry far less than the others do, or nothing at all."""
    for pair, rate in report.rates.items():
        if rate is None:
            got, hint = f"no data come from {pair[0]} to {pair[1]}, though it connects", f"ip -s link, on {pair[0]}"
            yield Fault(pair[0], got, "data after a connection", hint)
    late = slow(report.rates, report.usual)
    for blame in blamed(late, report.hosts):
        host = blame.hosts[0]
        rate = statistics.median(report.rates[pair] or 0.0 for pair in late if _is_in(pair, blame))
        where = {
            "machine": f"to and from {host}",
            "into": f"to {host}, from any other",
            "out of": f"from {host}, to any other",
            "link": f"from {host} to {blame.hosts[-1]}",
        }[blame.at]  # not everywhere: nothing is slow but beside the others
        got = f"data come slowly {where}: {megabytes(rate)}/s"
        need = f"about {megabytes(report.usual)}/s, as others have"
        hint = f"ethtool eth0; ip -s link, on {host}: its speed, errors, who else uses it; or leave it out of --hosts"
        yield Fault(host, got, need, hint, is_broken=False)


def of_loading(whys: Mapping[str, str | None]) -> Iterator[Fault]:
    """Machines whose Python does not come as far as where the ranks meet."""
    for host, why in whys.items():
        if why:
            got, hint = f"{host} loads no torch: {why}", f"python3 -c 'import torch', on {host}"
            yield Fault(host, got, "ranks that start", hint)


def of_reduce(whys: Mapping[str, str | None]) -> Iterator[Fault]:
    """Ranks that did not come to an end. Those that only waited for another are not named, where one says more."""
    failed = {host: why for host, why in whys.items() if why}
    telling = {host: why for host, why in failed.items() if not why.startswith("no end in")} or failed
    for host, why in telling.items():
        hint = f"NCCL_SOCKET_IFNAME=eth0 and GLOO_SOCKET_IFNAME=eth0 (its own name) in /etc/environment, on {host}"
        yield Fault(host, f"no all-reduce with {host}: {why}", "ranks that reduce together", hint)


def warnings(report: Report) -> list[str]:
    found = [fault for fault in report.faults if not fault.is_broken]
    told = [f"warning: {fault.got}, need {fault.need}\n  Try: {fault.hint}" for fault in found[:MOST_FAULTS]]
    return told + ([f"warning: {len(found) - MOST_FAULTS} more"] if len(found) > MOST_FAULTS else [])


def require_fit(report: Report) -> None:
    """MachineError with all that is broken, and what to do about the first."""
    broken = [fault for fault in report.faults if fault.is_broken]
    if broken:
        told = [fault.got for fault in broken[:MOST_FAULTS]]
        told += [f"{len(broken) - MOST_FAULTS} more"] if len(broken) > MOST_FAULTS else []
        tried = f"train on {len(report.hosts)} machines together"
        raise MachineError(tried, got="; ".join(told), need=broken[0].need, hint=broken[0].hint)


def summary(report: Report) -> str:
    """What was measured, in a line."""
    told = [f"{len(report.hosts)} machines"]
    if rates := [rate for rate in report.rates.values() if rate is not None]:
        told.append(f"links {megabytes(min(rates))}/s to {megabytes(max(rates))}/s")
    if (reduced := report.all_reduce) is not None:
        seconds = seconds_of(report, 10**8)
        told.append(f"all-reduce {1000 * reduced['latency_s']:.2g} ms and {seconds:.2g} s each 100 MB of gradients")
    loading = f", {report.load_s:.0f} of them to load torch" if report.load_s else ""
    return f"{', '.join(told)}; took {report.seconds:.0f} s{loading}"


def seconds_of(report: Report, num_bytes: float) -> float:
    """That an all-reduce of so many bytes takes, by the one that was measured."""
    found = report.all_reduce
    assert found
    moving = max(0.0, found["seconds"] - found["latency_s"]) / found["bytes"]
    return found["latency_s"] + moving * num_bytes


def facts(report: Report) -> dict[str, Any]:
    """As preflight.json has them."""
    pairs = {"reached": report.reached, "latency_s": report.latency_s, "bytes_per_s": report.rates}
    return {
        "v": 1,
        "hosts": list(report.hosts),
        "port": report.port,
        "ranks": report.ranks,
        "is_fit": report.is_fit,
        "faults": [vars(fault) for fault in report.faults],
        "machines": {host: vars(one) | {"listening": _listening(report, host)} for host, one in report.looks.items()},
        **{name: {f"{one} > {other}": what for (one, other), what in of.items()} for name, of in pairs.items()},
        "usual_bytes_per_s": report.usual,
        "all_reduce": report.all_reduce,
        "seconds": report.seconds,
        "load_s": report.load_s,
    }


def has_passed(told: Mapping[str, Any], hosts: Sequence[str]) -> bool:
    """Whether these machines, or more, were found fit, by the ``facts`` of an earlier preflight."""
    return told["is_fit"] and {*hosts} <= {*told["hosts"]}


def row(report: Report, host: str) -> list[str]:
    """A machine of the table, see ``COLUMNS``; time to connect and rates are medians over the others."""
    one = report.looks[host]
    kinds = _listed(name for name, _ in one.gpus)
    cells = [host, _listening(report, host) or "-", f"{one.offset_s:+.1f} s", f"{one.free_bytes / 1e9:,.0f} GB"]
    cells += ["-" if one.shm_bytes is None else f"{one.shm_bytes / 1e9:.1f} GB"]
    cells += [f"{len(one.gpus)} x {kinds}" if one.gpus else "none"]
    connects = [seconds for pair, seconds in report.latency_s.items() if pair[0] == host]
    cells += [f"{1000 * statistics.median(connects):.2g} ms" if connects else "-"]
    for way in (0, 1):
        rates = [rate or 0.0 for pair, rate in report.rates.items() if pair[way] == host]
        cells.append(f"{megabytes(statistics.median(rates))}/s" if rates else "-")
    return cells


def _listening(report: Report, host: str) -> str | None:
    return report.listening[host].address if host in report.listening else None


def is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"


def megabytes(num_bytes: float) -> str:
    return f"{num_bytes / 1e6:,.3g} MB" if num_bytes < 1e9 else f"{num_bytes / 1e6:,.0f} MB"


def _listed(names: Any) -> str:
    return ", ".join(dict.fromkeys(names))
