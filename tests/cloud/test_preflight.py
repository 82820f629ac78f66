"""Preflight: whom failures speak against, by tables; and machines with a network each, of which one is at fault."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from nets import PREFIX, address_of, inside, nets, why_not, write_hosts

from eighteen import cli
from eighteen.base.errors import MachineError
from eighteen.cloud import preflight, probing
from eighteen.cloud.hosts import Host
from eighteen.cloud.launch import Launch
from eighteen.cloud.preflight import Blame, Listening, Look, Report, blamed, slow, usual
from eighteen.cloud.remote import Remote

ABC, ABCD = ("a", "b", "c"), ("a", "b", "c", "d")
PORT = 20_480
HERE = {"c": ["127.0.1.1"], "a": ["10.77.240.1"]}  # as Debian has a machine's own name in /etc/hosts


def pairs(text):
    """``ab bc``: from a to b, and from b to c."""
    return {tuple(pair) for pair in text.split()}


@pytest.mark.parametrize(
    ("hosts", "failed", "expected"),
    [
        (ABC, "", ""),
        (ABC, "ac ca bc cb", "machine c"),  # cut off
        (ABC, "ac bc", "into c"),  # a firewall on it
        (ABC, "ca cb", "out of c"),
        (ABC, "ab", "link ab"),  # a firewall in one direction
        (ABC, "ab ba", "link ab, link ba"),  # one cable, as both reach c
        (ABC, "ac bc ab", "into c, link ab"),
        (ABC, "ab ba ac ca bc cb", "everywhere abc"),
        (ABCD, "ac ca bc cb cd dc ad da bd db", "machine c, machine d"),
        (ABCD, "ac bc dc da", "into c, link da"),
        ("ab", "ab", "link ab"),  # of two machines there is no telling
        ("ab", "ab ba", "everywhere ab"),
    ],
)
def test_who_is_to_blame_follows_from_which_pairs_failed(hosts, failed, expected):
    found = blamed(pairs(failed), hosts)
    assert ", ".join(f"{one.at} {''.join(one.hosts)}" for one in found) == expected


@pytest.mark.parametrize(
    ("hosts", "rates", "expected"),
    [
        (ABC, {}, []),
        (ABC, {"ac": 9, "ca": 8, "bc": 9, "cb": 9}, [Blame("machine", ("c",))]),
        (ABC, {"ca": 9, "cb": 30}, [Blame("out of", ("c",))]),
        (ABC, {"ac": 9, "bc": 9}, [Blame("into", ("c",))]),
        (ABC, {"ab": 9, "ba": 9}, [Blame("link", ("a", "b")), Blame("link", ("b", "a"))]),
        (ABC, {"ab": 40, "ba": 60}, []),  # above a third
        (ABC, dict.fromkeys(("ab", "ba", "ac", "ca", "bc", "cb"), 5), []),  # as the others
        ("abcde", {"ab": 900, "ba": 900}, []),  # one fast link makes no other slow
        (ABCD, dict.fromkeys(("ac", "ca", "ad", "da", "bc", "cb", "bd", "db", "cd", "dc"), 9), ["c", "d"]),
        ("ab", {"ab": 9}, [Blame("link", ("a", "b"))]),
    ],
)
def test_a_slow_machine_is_told_from_a_slow_link(hosts, rates, expected):
    every = {(one, other): 100e6 for one in hosts for other in hosts if one != other}
    every |= {(pair[0], pair[1]): rate * 1e6 for pair, rate in rates.items()}
    found = blamed(slow(every, usual(every)), hosts)
    assert [one.hosts[0] if expected == ["c", "d"] else one for one in found] == expected
    assert not found or usual(every) == 100e6


@pytest.mark.parametrize("num", range(2, 10))
def test_each_pair_has_its_turn_and_no_machine_two_at_a_time(num):
    hosts = [f"n{number}" for number in range(num)]
    turns = list(preflight.rounds(hosts))
    assert all(len({*sum(turn, ())}) == 2 * len(turn) for turn in turns)
    assert len(turns) == num - 1 + num % 2
    met = [frozenset(pair) for turn in turns for pair in turn]
    assert len(met) == len({*met}) == num * (num - 1) // 2


def looks(**changed):
    """Of three machines that are as they should be, apart from what is changed on c."""
    names = {host: [address_of(host, ABC)] for host in ABC}
    good = {
        host: Look(
            host, host, {host: names[host], "a": names["a"]}, None, 10**12, 2**34, [["H100", "570"]] * 8, None, 0.1
        )
        for host in ABC
    }
    return good | {"c": replace(good["c"], **changed)}


@pytest.mark.parametrize(
    ("changed", "got", "hint", "is_broken"),
    [
        ({"offset_s": -30.0}, "a clock -30 s off on c", "timedatectl set-ntp true, on c", False),
        ({"offset_s": 3600.0}, "a clock +3,600 s off on c", "timedatectl set-ntp true, on c", True),
        ({"free_bytes": 1000}, "1,000 bytes free on c", "on c", True),
        ({"shm_bytes": 2**26}, "67,108,864 bytes in /dev/shm on c", "--shm-size 1073741824, on c", False),
        ({"gpus": [["H100", "570"]] * 7}, "7 GPUs on c", "nvidia-smi -L, on c", True),
        ({"gpus": []}, "0 GPUs on c", "nvidia-smi -L, on c", True),
        ({"gpus": [["A100", "570"]] * 8}, "A100 as GPUs on c", "nvidia-smi -L, on c", False),
        ({"gpus": [["H100", "535"]] * 8}, "535 as driver on c", "nvidia-smi -L, on c", False),
        ({"gpus": [], "gpus_fault": "driver/library mismatch"}, "driver/library mismatch on c", "on c", True),
    ],
)
def test_a_machine_that_is_not_as_the_others_is_named(changed, got, hint, is_broken):
    assert list(preflight.of_machines(looks(), ranks=8)) == []
    (found,) = preflight.of_machines(looks(**changed), ranks=8)
    assert (found.host, found.got, found.is_broken) == ("c", got, is_broken)
    assert hint in found.hint


def test_a_driver_that_fails_is_no_matter_where_nobody_has_gpus():
    told = {host: replace(one, gpus=[], gpus_fault="no devices") for host, one in looks().items()}
    assert [one.is_broken for one in preflight.of_machines(told, ranks=1)] == [False] * 3


@pytest.mark.parametrize(
    ("changed", "got"),
    [
        ({"addresses": {"c": ["10.77.240.3"], "a": []}}, "c does not know a, where the ranks meet"),
        ({"addresses": HERE, "gpus": []}, "c calls itself c, which it resolves to 127.0.1.1"),
        ({"addresses": HERE | {"c": []}, "gpus": []}, "c calls itself c, which it does not resolve"),
        ({"addresses": HERE}, None),  # NCCL looks at interfaces
        ({"addresses": HERE, "gpus": [], "interface": "eth0"}, None),
    ],
)
def test_names_that_a_machine_must_know(changed, got):
    found = list(preflight.of_names(looks(**changed), "a"))
    assert [one.got for one in found] == [got] * (got is not None)
    assert all("/etc/hosts of c" in one.hint for one in found)


@pytest.mark.parametrize(
    ("others", "is_broken"),
    [("10.77.240.1", False), ("192.168.0.1", True), ("172.16.0.1", True), ("127.0.1.1", True)],
)
def test_a_loopback_address_breaks_what_higher_addresses_connect_to(others, is_broken):
    told = looks(addresses=HERE, gpus=[])
    told["b"] = replace(told["b"], addresses={"a": ["10.77.240.1"], "b": [others]}, interface="eth0")
    (found,) = preflight.of_names(told, "a")
    assert (found.host, found.is_broken) == ("c", is_broken)


def report(failed=(), *, port="other", meet_is_free=True, **changed):
    listening = {host: Listening(address_of(host, ABC), {"meet": PORT, "other": 40_000}) for host in ABC}
    if not meet_is_free:
        listening["a"] = Listening("10.77.240.1", {"other": 40_000})
    reached = {(one, to): dict.fromkeys(listening[to].ports) for one in ABC for to in ABC if one != to}
    for pair in failed:
        reached[pair][port] = "silent"
    return Report(ABC, "a", PORT, 1, looks=looks(**changed), listening=listening, reached=reached)


@pytest.mark.parametrize(
    ("of", "got", "hint", "is_broken"),
    [
        (report(pairs("bc")), "b does not reach c: silent", "tcp from 10.77.240.2, or", True),
        (report(pairs("ac bc")), "none of the others reaches c: silent", "from 10.77.240.1, 10.77.240.2", True),
        (report(pairs("ca cb")), "c reaches none of the others: silent", "ip route", True),
        (report(pairs("ac ca bc cb")), "c reaches none of the others, nor they it: silent", "ip address", True),
        (report(pairs("ba ca"), port="meet"), f"none of the others reaches a at port {PORT}: silent", "on a", True),
        (report(pairs("ca"), port="meet"), f"c does not reach a at port {PORT}: silent", "on a", True),
        (report(pairs("ac bc"), port="meet"), f"none of the others reaches c at port {PORT}: silent", "on c", False),
        (report(meet_is_free=False), f"port {PORT} of a is taken", f"ss -ltnp 'sport = :{PORT}', on a", True),
        (
            report(pairs("ca"), addresses={"c": ["10.77.240.3"], "a": ["10.9.9.9"]}),
            "c takes 10.9.9.9 for a",
            "the line '10.77.240.1 a' in /etc/hosts of c",
            True,
        ),
    ],
)
def test_who_does_not_let_in_whom_is_told_with_what_to_do(of, got, hint, is_broken):
    assert list(preflight.of_ports(report())) == []
    (found,) = preflight.of_ports(of)
    assert (found.got, found.is_broken) == (got, is_broken)
    assert hint in found.hint


def test_ranks_that_waited_for_another_are_not_named():
    found = preflight.of_reduce(
        {"a": "no end in 15 s", "b": "NCCL error: unhandled system error", "c": "no end in 15 s"}
    )
    assert [one.host for one in found] == ["b"]
    assert [one.host for one in preflight.of_reduce({"a": "no end in 15 s", "b": "no end in 15 s"})] == ["a", "b"]


def test_all_that_is_broken_is_told_at_once_but_not_without_end():
    faults = [preflight.Fault(f"n{number}", f"fault {number}", "none", f"mend {number}") for number in range(20)]
    warned = replace(faults[0], got="slow", is_broken=False)
    with pytest.raises(MachineError, match=r"fault 0; fault 1; .*; fault 4; 15 more, need none"):
        preflight.require_fit(replace(report(), faults=[warned, *faults]))
    preflight.require_fit(replace(report(), faults=[warned]))
    assert preflight.warnings(replace(report(), faults=[warned])) == ["warning: slow, need none\n  Try: mend 0"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[Path]:
    """Three hosts with a network between them."""
    if why := why_not():
        pytest.skip(why)
    place = tmp_path_factory.mktemp("lab")
    (place / "bin").mkdir()
    shutil.copy(Path(__file__).with_name("fake_ssh.py"), place / "bin" / "ssh")
    (place / "bin" / "ssh").chmod(0o755)
    for host in ABC:
        (place / host).mkdir()
    with nets(ABC):
        yield place


@pytest.fixture
def measured(lab, monkeypatch):
    monkeypatch.setenv("FAKE_HOSTS", str(lab))
    monkeypatch.setenv("FAKE_NETS", PREFIX)
    monkeypatch.setenv("PATH", f"{lab / 'bin'}:{os.environ['PATH']}")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setattr(probing, "PULL_S", 0.2)

    def measure(python=sys.executable, has_packages=False) -> Report:
        remotes, launch = (
            {host: Remote(Host(host), python) for host in ABC},
            Launch("pf", ABC, "", 1, "", [], "", "", PORT),
        )
        return probing.measure(remotes, launch, ranks=1, has_packages=has_packages)

    return measure


TABLE = "table inet pf {{ chain into {{ type filter hook input priority 0; {rule}; }}; }}"


def firewall(host, rule):
    inside(host, "nft -f -", TABLE.format(rule=rule))
    return lambda: inside(host, "nft delete table inet pf")


def unplugged(cable):
    subprocess.run(["ip", "link", "set", PREFIX + cable, "down"], check=True)
    return lambda: subprocess.run(["ip", "link", "set", PREFIX + cable, "up"], check=True)


def knowing(host, **addresses):
    usual = {name: address_of(name, ABC) for name in ABC}
    write_hosts(host, {name: address for name, address in (usual | addresses).items() if address})
    return lambda: write_hosts(host, usual)


def throttled(host):
    inside(host, "tc qdisc add dev eth0 root tbf rate 8mbit burst 32kb latency 100ms")
    return lambda: inside(host, "tc qdisc del dev eth0 root")


def test_three_machines_with_nothing_between_them_are_fit(measured):
    found = measured()
    assert found.faults == []
    assert {host: one.address for host, one in found.listening.items()} == {one: address_of(one, ABC) for one in ABC}
    assert len(found.rates) == len(found.reached) == 6
    assert all(rate and rate > 1e6 for rate in found.rates.values())


def test_a_python_that_lacks_the_packages_is_told(measured):
    found = measured(sys._base_executable, has_packages=True)  # pyright: ignore[reportAttributeAccessIssue]
    assert [one.host for one in found.faults] == [*ABC]
    assert found.faults[0].got.startswith("a loads no torch: ")
    assert "No module named 'eighteen'" in found.faults[0].got


def test_a_machine_that_does_not_answer_is_named(measured, lab):
    (lab / "c" / "cut").touch()
    found = measured()
    (lab / "c" / "cut").unlink()
    (fault,) = found.faults
    assert fault.got == "no answer of c: ssh: connect to host c port 22: No route to host"


SYN = "tcp flags & (syn | ack) == syn"


@pytest.mark.parametrize(
    ("spoil", "got"),
    [
        (lambda: unplugged("vc"), "c reaches none of the others, nor they it: "),
        (lambda: unplugged("bridge"), "no machine reaches another: "),
        (lambda: firewall("c", f"{SYN} drop"), "none of the others reaches c: silent"),
        (lambda: firewall("c", f"ip saddr 10.77.240.2 {SYN} drop"), "b does not reach c: silent"),
        (lambda: firewall("c", f"ip saddr 10.77.240.2 {SYN} reject with tcp reset"), "b does not reach c: refused"),
        (lambda: firewall("a", f"tcp dport {PORT} drop"), f"none of the others reaches a at port {PORT}: silent"),
        (lambda: firewall("c", "meta length > 1000 drop"), "c reaches none of the others: large packets get lost"),
        (lambda: knowing("c", a=None), "c does not know a, where the ranks meet"),
        (lambda: knowing("c", a="10.77.240.9"), "c takes 10.77.240.9 for a"),
    ],
)
def test_the_machine_or_link_that_is_broken_is_named(measured, spoil, got):
    mend = spoil()
    try:
        found = measured()
    finally:
        mend()
    (fault,) = [one for one in found.faults if one.is_broken]
    assert fault.got.startswith(got)
    assert found.seconds < 30


def test_a_machine_that_sends_slowly_is_named_and_trains_all_the_same(measured):
    mend = throttled("c")
    try:
        found = measured()
    finally:
        mend()
    assert found.is_fit
    (fault,) = found.faults
    assert fault.got.startswith("data come slowly from c, to any other: ")


def test_machines_that_passed_need_not_pass_again_unless_others_join():
    passed = preflight.facts(report())
    assert [preflight.has_passed(passed, hosts) for hosts in (ABC, ["c", "a"], ABCD)] == [True, True, False]
    failed = replace(report(), faults=[preflight.Fault("a", "none", "one", "get it")])
    assert not preflight.has_passed(preflight.facts(failed), ABC)


@pytest.mark.soak_cloud
def test_the_command_measures_an_all_reduce_and_shows_what_it_found(measured, lab, tmp_path, capsys):
    assert (
        cli.main(["preflight", "--hosts", "a,b,c", "--python", sys.executable, "--json", str(tmp_path / "p.json")]) == 0
    )
    shown = capsys.readouterr().out
    assert all(address_of(host, ABC) in shown for host in ABC)
    assert "fit: 3 machines, links " in shown
    found = json.loads((tmp_path / "p.json").read_text())
    assert found["is_fit"]
    assert len(found["bytes_per_s"]) == 6
    assert found["seconds"] - found["load_s"] < 30
    mend = firewall("c", f"ip saddr 10.77.240.2 {SYN} drop")
    try:
        assert cli.main(["preflight", "--hosts", "a,b,c", "--python", sys.executable]) == 4
    finally:
        mend()
    assert "got b does not reach c: silent, need each machine to reach each other" in capsys.readouterr().err
