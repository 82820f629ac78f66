"""Real ranks that are killed, stopped, slow or wrong: who notices, how fast, and what becomes of the run."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from small_runs import differing, happened, model, recipe, saved, train

from eighteen.base import recipe as recipes
from eighteen.base.errors import MachineError, Stopped
from eighteen.base.events import STOP, Event, Follower
from eighteen.training import ranks

T = TypeVar("T")

STEPS_LONG = ("phases.0.epochs=30", "optim.lr=[[0, 0.05], [10, 0.1], [30, 0.0]]", "optim.ema=0.9")  # 120 steps
SLOWLY = (model("troubled"), "model.args.net='normed'", "model.args.slow_s=0.02", "train.checkpoint_minutes=1e-9")
SLOWLY = (*SLOWLY, *STEPS_LONG)
# a rank that watches itself has long for whatever is no step
ONLY_STEPS = ("train.checkpoint_minutes=5", "train.checkpoint='phase'", "eval.every=1000")


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory) -> Path:
    return train(data, tmp_path_factory.mktemp("undisturbed"), *SLOWLY, procs=2).run


@pytest.fixture
def rank_processes(monkeypatch) -> list[subprocess.Popen[bytes]]:
    """The newest process of each rank."""
    processes: list[subprocess.Popen[bytes]] = []
    start_rank = ranks.Ranks._start

    def started(self: ranks.Ranks, rank: int) -> subprocess.Popen[bytes]:
        processes[rank:] = [start_rank(self, rank)]
        return processes[rank]

    monkeypatch.setattr(ranks.Ranks, "_start", started)
    return processes


class Trouble:
    """Sends these signals to the ranks, (step, rank, signal) each, when the run tells of the step."""

    def __init__(
        self, processes: list[subprocess.Popen[bytes]], signals: list[tuple[int, int, signal.Signals]]
    ) -> None:
        self._processes, self._signals = processes, signals
        self.sent: list[float] = []

    def __call__(self, event: Event) -> None:
        if event["event"] == "step" and self._signals and event["step"] >= self._signals[0][0]:
            _, rank, number = self._signals.pop(0)
            self.sent.append(time.time())
            self._processes[rank].send_signal(number)


def import_s() -> float:
    """How long a rank takes to load its program, with as many at a time as there are ranks."""
    began = time.monotonic()
    loads = [sys.executable, "-c", "import eighteen.training.rank"]
    for process in [subprocess.Popen(loads) for _ in range(2)]:
        assert process.wait() == 0
    return time.monotonic() - began


def assert_recovered(run: Path, trouble: Trouble, *, within_s: float) -> list[float]:
    """Each signal was followed by a restart and then by steps; returns how long each took to be noticed."""
    noticed = [event["time_s"] for event in happened(run, "restart")]
    went_on = [event["time_s"] for event in happened(run, "start")[1:]]
    assert len(noticed) == len(went_on) == len(trouble.sent)
    assert all(0 < after - sent < within_s for sent, after in zip(trouble.sent, went_on, strict=True))
    return [after - sent for sent, after in zip(trouble.sent, noticed, strict=True)]


def assert_same_end(run: Path, other: Path) -> None:
    for part in ("model", "ema", "optimizer"):
        assert differing(saved(run, part), saved(other, part)) == []


def test_killed_and_stopped_ranks_are_started_again_and_the_end_is_the_same(
    data, tmp_path, undisturbed, rank_processes
):
    signals = [(10, 1, signal.SIGKILL), (60, 1, signal.SIGSTOP)]
    trouble = Trouble(rank_processes, signals)
    run = train(data, tmp_path, *SLOWLY, "train.hang_s=3", procs=2, on_event=trouble).run
    killed, stopped = assert_recovered(run, trouble, within_s=60)
    assert killed < 2 + ranks.STACKS_S
    assert 1 < stopped < 7
    restarts = happened(run, "restart")
    assert [event["reason"] for event in restarts] == ["rank 1 killed by SIGKILL", "rank 1 hung"]
    assert sorted(re.sub(r"^\w+-", "", name) for name in restarts[1]["stacks"]) == ["rank-0.txt", "rank-1.txt"]
    for name in restarts[1]["stacks"]:
        assert 'train.py", line' in (run / "stacks" / name).read_text()
    assert_same_end(run, undisturbed)


@pytest.mark.soak
def test_ten_kills_are_ten_recoveries_each_in_15_seconds_and_an_import(data, tmp_path, undisturbed, rank_processes):
    kills = [(10 + 10 * number, number % 2, signal.SIGKILL) for number in range(10)]
    trouble = Trouble(rank_processes, kills)
    loads_s = import_s()
    run = train(data, tmp_path, *SLOWLY, procs=2, on_event=trouble).run
    noticed = assert_recovered(run, trouble, within_s=15 + loads_s)
    went_on = [event["time_s"] - sent for event, sent in zip(happened(run, "start")[1:], trouble.sent, strict=True)]
    print(f"import {loads_s:.1f} s; noticed {spread(noticed)}; went on {spread(went_on)}")
    assert max(noticed) < 2
    assert_same_end(run, undisturbed)


@pytest.mark.soak
def test_a_stopped_rank_is_noticed_within_12_seconds_and_the_run_goes_on_within_60(
    data, tmp_path, undisturbed, rank_processes
):
    trouble = Trouble(rank_processes, [(20, 0, signal.SIGSTOP), (60, 1, signal.SIGSTOP)])
    run = train(data, tmp_path, *SLOWLY, procs=2, on_event=trouble).run
    noticed = assert_recovered(run, trouble, within_s=60)
    print(f"noticed {spread(noticed)}")
    assert max(noticed) <= 12
    assert all(len(event["stacks"]) == 2 for event in happened(run, "restart"))
    assert_same_end(run, undisturbed)


def spread(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    return f"after {ordered[len(ordered) // 2]:.2f} s ({ordered[0]:.2f} to {ordered[-1]:.2f}, n={len(ordered)})"


def test_a_slow_rank_is_named_and_a_wrong_one_ends_the_run(data, tmp_path):
    """Rank 1 takes longer for its first 50 steps; then one bit of its weights flips, found before it would be saved."""
    bad = [
        f"model.args.{key}={value}" for key, value in (("slow_s", 0.05), ("slow_to", 50), ("flip_at", 70), ("rank", 1))
    ]
    with pytest.raises(
        MachineError, match=r"weights of 2 ranks after step 72: got other bits on rank 1, need the same"
    ):
        train(data, tmp_path, model("troubled"), *bad, *STEPS_LONG, procs=2)
    run = next((tmp_path / "runs").iterdir())
    named = [event["text"] for event in happened(run, "warning")]
    assert len([text for text in named if text.startswith("rank 1 is slow: 0.")]) == 1
    first = next(int(text.split()[-1]) for text in named if text.startswith("rank 1"))
    assert first < 50
    assert (happened(run, "end")[-1]["reason"], happened(run, "restart")) == ("MachineError", [])


def test_ranks_end_with_the_process_that_started_them(data, tmp_path):
    """However it ends: nothing writes into the run behind its back."""
    file = tmp_path / "recipe.toml"
    file.write_text(recipes.dump(recipe(*SLOWLY, "model.args.slow_s=0.2")))
    command = [sys.executable, "-m", "eighteen", "train", str(data.path), "--recipe", str(file), "--procs", "2"]
    supervisor = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        (run,) = wait_for(lambda: list((tmp_path / "runs").glob("*/events.jsonl")))
        events = Follower(run)
        wait_for(lambda: any(event["event"] == "step" for event in events.new()))
        theirs = children(supervisor.pid)
        assert len(theirs) == 2
    finally:
        supervisor.kill()
        supervisor.wait()
    wait_for(lambda: not any(is_running(process) for process in theirs))


def wait_for(found: Callable[[], T], *, seconds: float = 60.0) -> T:
    """What is found, as soon as it is."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if result := found():
            return result
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s")


def children(parent: int) -> list[int]:
    """The processes that this one has started."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended since
            continue
        if int(fields[1]) == parent and fields[0] != "Z":
            found.append(int(status.parent.name))
    return found


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Foreign:
    """A rank as an outside launcher starts it: it finds the others by the environment."""

    def __init__(self, rank: int, run: Path, *, address: str = "127.0.0.1", at: tuple[str, ...] = ()) -> None:
        own = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "MASTER_PORT": PORT}
        environment = {**os.environ, **{name: str(value) for name, value in own.items()}, "MASTER_ADDR": address}
        environment["GLOO_SOCKET_IFNAME"] = "veth" if at else "lo"
        command = [*at, sys.executable, "-m", "eighteen", "train", "--resume", str(run)]
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    def end(self) -> tuple[int, str]:
        """Its exit code, and what it said."""
        said = self.process.communicate(timeout=60)[1]
        return self.process.returncode, said


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


PORT = free_port()


def half_done(data, folder: Path, *changes: str) -> Path:
    """A run with a checkpoint, which goes on for long."""

    def stop(event: Event) -> str | None:
        return STOP if event["event"] == "step" and event["step"] == 3 else None

    with pytest.raises(Stopped):
        train(data, folder, *SLOWLY, "model.args.slow_s=0.1", *changes, on_event=stop)
    return next((folder / "runs").iterdir())


def wait_for_steps(run: Path) -> None:
    """Until it has told of some more, in which the watchdogs learn how long a step takes."""
    events, seen = Follower(run / "events.jsonl"), []
    events.new()

    def enough() -> bool:
        seen.extend(event for event in events.new() if event["event"] == "step")
        return len(seen) > 6

    wait_for(enough, seconds=120)


def assert_ended_as_it_should(ended: tuple[int, str]) -> None:
    exit_code, said = ended
    assert exit_code == 75, said
    assert "Traceback" not in said
    assert re.search(r"Stopped: train on 2 ranks: got .*, need all ranks until the end\.\n  Try: .*--resume", said), (
        said
    )


def test_ranks_of_another_launcher_end_by_themselves_where_one_is_stopped(data, tmp_path):
    run = half_done(data, tmp_path, "train.hang_s=2", *ONLY_STEPS)
    first, second = Foreign(0, run), Foreign(1, run)
    wait_for_steps(run)
    second.process.send_signal(signal.SIGSTOP)
    assert_ended_as_it_should(first.end())
    second.process.send_signal(signal.SIGCONT)  # it finds nobody there
    assert_ended_as_it_should(second.end())
    (stacks, *_) = (run / "stacks").glob("*-rank-0.txt")
    assert 'train.py", line' in stacks.read_text()
    end = happened(run, "end")[-1]
    assert (end["reason"], end["exit_code"]) == ("Stopped", 75)


@pytest.fixture
def two_hosts():
    """The names of two network namespaces, of which each sees the other behind its interface ``veth``."""
    names = [f"eighteen-{os.getpid()}-{host}" for host in "ab"]
    try:
        for name in names:
            done = subprocess.run(["ip", "netns", "add", name], stderr=subprocess.PIPE, text=True)
            if done.returncode:
                pytest.skip(f"no network namespaces here: {done.stderr.strip()}")
        ends = [
            "ip",
            "link",
            "add",
            "veth",
            "netns",
            names[0],
            "type",
            "veth",
            "peer",
            "name",
            "veth",
            "netns",
            names[1],
        ]
        subprocess.run(ends, check=True)
        for number, name in enumerate(names, start=1):
            inside = ["ip", "-n", name]
            subprocess.run([*inside, "address", "add", f"10.18.0.{number}/24", "dev", "veth"], check=True)
            for interface in ("lo", "veth"):
                subprocess.run([*inside, "link", "set", interface, "up"], check=True)
        yield names
    except FileNotFoundError:
        pytest.skip("no ip command here")
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], stderr=subprocess.DEVNULL)


@pytest.mark.soak
def test_two_hosts_whose_link_goes_down_both_end_with_75(data, tmp_path, two_hosts):
    run = half_done(data, tmp_path, "phases.0.epochs=300", "optim.lr=[[0, 0.05], [300, 0.0]]", *ONLY_STEPS)
    hosts = [("ip", "netns", "exec", name) for name in two_hosts]
    both = [Foreign(rank, run, address="10.18.0.1", at=at) for rank, at in enumerate(hosts)]
    wait_for_steps(run)
    subprocess.run(["ip", "-n", two_hosts[1], "link", "set", "veth", "down"], check=True)
    began = time.monotonic()
    for rank in both:
        assert_ended_as_it_should(rank.end())
    seconds = time.monotonic() - began
    print(f"both ended {seconds:.1f} s after the link went down")
    assert seconds < 10 + 5
    assert len(list((run / "stacks").glob("*-rank-?.txt"))) == 2


@pytest.mark.soak
def test_a_rank_killed_under_torchrun_is_started_again_each_time(data, tmp_path):
    """The ranks of the next attempt do not look for those of the last, whose addresses its store still has."""
    run = half_done(data, tmp_path)
    program = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "5"]
    program += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{free_port()}"]
    torchrun = subprocess.Popen([*program, "-m", "eighteen", "train", "--resume", str(run)], stderr=subprocess.PIPE)
    try:
        for _ in range(3):
            wait_for_steps(run)
            os.kill(children(torchrun.pid)[-1], signal.SIGKILL)
        _, said = torchrun.communicate(timeout=300)
    finally:
        torchrun.kill()
    assert torchrun.returncode == 0, said
    assert len(happened(run, "start")) == 5
    assert happened(run, "end")[-1]["reason"] == "done"
