"""Asks machines what preflight goes by: all at once, first what takes no time, and nothing more once one is unfit.

In: the machines. Out: a ``Report``. What is asked is done by ``probe``, on them, and ends with the talk.
"""

from __future__ import annotations

import json
import secrets
import statistics
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

from eighteen.base.errors import MachineError
from eighteen.cloud import preflight
from eighteen.cloud.launch import Launch
from eighteen.cloud.preflight import Fault, Listening, Look, Pair, Report
from eighteen.cloud.remote import Remote, Talk

RATES_S = 6.0  # for all pairs, in both directions; slow ones are then measured once more
PULL_S = 0.5  # of one, at most
MOST_BYTES = 2**25  # of an all-reduce
REDUCE_S = 0.3  # that one should take
LOAD_S = 120.0  # for Python to load torch, from a disk that is cold
MEET_S = 30.0  # for ranks to meet and reduce; most of it would be NCCL's
MARGIN_S = 10.0  # for an answer to come

Answers = dict[str, dict[str, Any]]  # by machine


def measure(remotes: Mapping[str, Remote], launch: Launch, *, ranks: int, has_packages: bool = True) -> Report:
    """What stands between these machines and training together, as far as it can be found out in half a minute.

    remotes: in the order of their ranks      ranks: on each; 0: one a GPU      has_packages: or there is no all-reduce
    """
    began, source = time.monotonic(), (resources.files("eighteen.cloud") / "probe.py").read_text("utf-8")
    report = Report([*remotes], *launch.meet, ranks)
    with ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(len(remotes)))  # which ends once the talks have
        talks = {host: stack.enter_context(remote.talk(source)) for host, remote in remotes.items()}
        asking = _Asking(talks, threads, secrets.token_hex(16))
        try:
            report = _look(report, asking, {host: remote.host.name for host, remote in remotes.items()})
            report = _reach(report, asking) if report.is_fit else report
            report = _rates(report, asking) if report.is_fit else report
            if report.is_fit and has_packages:
                report = _reduce(report, asking, launch)
        except _Unanswered as silent:
            report = _with(report, silent.faults)
    return replace(report, seconds=time.monotonic() - began)


class _Unanswered(Exception):
    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__(faults)
        self.faults = faults


@dataclass(frozen=True)
class _Asking:
    """token: what machines know each other by, in this talk"""

    talks: Mapping[str, Talk]
    threads: ThreadPoolExecutor
    token: str

    def __call__(self, verb: str, of: Mapping[str, Mapping[str, Any]], *, limit_s: float) -> Answers:
        """What each machine that is named answers, all asked at once; _Unanswered if one does not."""
        silent = list[Fault]()

        def ask(host: str) -> dict[str, Any]:
            facts = {**of[host], "token": self.token, "limit_s": limit_s}
            try:
                return self.talks[host](verb, facts, limit_s=limit_s + MARGIN_S) | {"at_s": time.time()}
            except MachineError as error:
                silent.append(Fault(host, f"no answer of {host}: {error.got}", error.need, error.hint))
                return {}

        answers = dict(zip(of, self.threads.map(ask, of), strict=True))
        if silent:
            raise _Unanswered(silent)
        return answers


def _with(report: Report, faults: Sequence[Fault]) -> Report:
    return replace(report, faults=[*report.faults, *faults])


def _look(report: Report, asking: _Asking, names: Mapping[str, str]) -> Report:
    told = asking("look", {host: {"name": name, "meet": report.meet} for host, name in names.items()}, limit_s=10.0)
    looks = {
        host: Look(names[host], offset_s=one.pop("time_s") - one.pop("at_s"), **one)  # but for the way here
        for host, one in told.items()
    }
    ranks = report.ranks or max(1, min(len(one.gpus) for one in looks.values()))
    report = replace(report, looks=looks, ranks=ranks)
    return _with(report, [*preflight.of_machines(looks, ranks=ranks), *preflight.of_names(looks, report.meet)])


def _reach(report: Report, asking: _Asking) -> Report:
    """All listen; then each connects to all others."""
    told = Answers()
    for hosts in (report.hosts[:1], report.hosts[1:]):  # hosts of one machine share its ports: the first needs its own
        told |= asking("listen", {host: _addresses(report, host) for host in hosts}, limit_s=5.0)
    listening = {host: Listening(one["address"], one["ports"]) for host, one in told.items()}
    report = replace(report, listening=listening)
    peers = {host: {"address": _where(report, host), "ports": one.ports} for host, one in listening.items()}
    others = {host: {"peers": {name: one for name, one in peers.items() if name != host}} for host in peers}
    found = asking("reach", others, limit_s=10.0)
    reached, latency_s = dict[Pair, dict[str, str | None]](), dict[Pair, float]()
    for host, answer in found.items():
        for other in others[host]["peers"]:
            whys = {port: answer[f"{other} {port}"] for port in listening[other].ports}
            reached[host, other] = {port: why for port, (why, _) in whys.items()}
            if seconds := [seconds for _, seconds in whys.values() if seconds is not None]:
                latency_s[host, other] = min(seconds)
    report = replace(report, reached=reached, latency_s=latency_s)
    return _with(report, [*preflight.of_ports(report)])


def _addresses(report: Report, host: str) -> dict[str, Any]:
    """Where a machine may listen: at its names' addresses, or else with that which it has toward the first machine."""
    one, is_first = report.looks[host], host == report.hosts[0]
    addresses = [*one.addresses[one.name], *one.addresses[one.hostname]]
    if is_first:
        addresses += [address for other in report.looks.values() for address in other.addresses[report.meet]]
    toward = None if is_first else one.addresses[report.meet][0]
    return {"addresses": addresses, "toward": toward, "port": report.port, "name": host}


def _where(report: Report, host: str) -> str | None:
    """Where others look for a machine: for the first by its name, as ranks do."""
    return report.meet if host == report.hosts[0] else report.listening[host].address


def _rates(report: Report, asking: _Asking) -> Report:
    """All pairs, each machine in one at a time, and one direction after the other; what was slow a second time."""
    turns = [[pair[::way] for pair in pairs] for pairs in preflight.rounds(report.hosts) for way in (1, -1)]
    seconds, rates = min(PULL_S, RATES_S / len(turns)), dict[Pair, float | None]()
    again, usual = set(report.reached), 0.0
    for _ in range(2):
        for turn in turns:
            pairs = {to: (sender, to) for sender, to in turn if (sender, to) in again}
            of = {
                to: {"address": _where(report, one), "port": report.listening[one].ports["other"], "seconds": seconds}
                for to, (one, _) in pairs.items()
            }
            for to, answer in asking("pull", of, limit_s=10.0).items():
                both = (answer["bytes_per_s"], rates.get(pairs[to]))
                rates[pairs[to]] = max((rate for rate in both if rate is not None), default=None)
            if None in rates.values():  # waiting for nothing takes long
                break
        usual = usual or preflight.usual(rates)  # while all were busy: those of a second time are faster for being few
        again = preflight.slow(rates, usual)
    report = replace(report, rates=rates, usual=usual)
    return _with(report, [*preflight.of_rates(report)])


def _reduce(report: Report, asking: _Asking, launch: Launch) -> Report:
    """All ranks, started as training starts them, reduce what the slowest link should carry in a moment."""
    world = {"size": report.ranks * len(report.hosts), "ranks": report.ranks, "meet": report.meet, "port": report.port}
    world |= {"code": launch.code, "environment": launch.environment}
    of = {host: world | {"first": number * report.ranks} for number, host in enumerate(report.hosts)}
    began = time.monotonic()
    loaded = {host: one["why"] for host, one in asking("load", of, limit_s=LOAD_S).items()}
    report = replace(report, load_s=time.monotonic() - began)
    if any(loaded.values()):
        return _with(report, [*preflight.of_loading(loaded)])
    slowest = min(rate or 0.0 for rate in report.rates.values())
    num_bytes = 4 * int(min(MOST_BYTES, max(2**14, slowest * REDUCE_S / 2)) // 4)
    answers = asking("reduce", {host: {"bytes": num_bytes} for host in of}, limit_s=MEET_S)
    faults = [*preflight.of_reduce({host: one["why"] for host, one in answers.items()})]
    if faults:
        return _with(report, faults)
    times = {int(size): statistics.median(of) for size, of in json.loads(answers[report.hosts[0]]["said"]).items()}
    found = {"bytes": num_bytes, "seconds": times[num_bytes], "latency_s": times[min(times)]}
    return replace(report, all_reduce=found)
