"""What a launch loses when a worker, a machine or a cable is lost: time, and nothing else.

An exact run (docs/reliability.md), so its end is the same to the bit on whichever machines it was trained. The net
waits in each step, so that few steps take long.
"""

from __future__ import annotations

import signal
import sysconfig
import time
from pathlib import Path

import pytest
from lab import CHANGES, USER, Host, Launched, kill, launch, wait_until

import eighteen
from eighteen.base import rundir
from eighteen.training import checkpoint

EPOCHS = 40
MORE = ["phases.0.batch=16", "train.exact=true", "train.virtual_workers=2", "eval.every=40"]
SLOW = Path(__file__).with_name("slow.py")
TIMES = 3


@pytest.fixture
def hosts(lab):
    """The two, empty but for the net, which is slow, again after each boot."""
    place = f"{sysconfig.get_path('purelib')}/slow.py"
    for host in lab.hosts.values():
        host.power_off()
        host.at_boot = f"cat >{place} <<'EOF'\n{SLOW.read_text()}\nEOF\ninstall -o {USER} /dev/null /tmp/slow"
        host.boot()
    return lab.hosts


@pytest.fixture(scope="module")
def undisturbed(packed, tmp_path_factory):
    """What one machine comes to."""
    asked = {"recipe": "demo", "model": "slow:net", "epochs": EPOCHS, "procs": 1, "changes": [*CHANGES, *MORE]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(SLOW.parent))
        done = eighteen.train(packed, **asked, runs_dir=tmp_path_factory.mktemp("alone"))
    return checkpoint.newest(rundir.open(done.run))


def kill_a_rank(host):
    kill(host.ranks()[:1])


@pytest.mark.soak_cloud
@pytest.mark.parametrize(
    ("lose", "bring_back", "name"),
    [
        (kill_a_rank, None, "node2"),
        (Host.power_off, Host.boot, "node2"),
        (Host.power_off, Host.boot, "node1"),
        (Host.cut, Host.mend, "node2"),
    ],
    ids=["a rank killed", "a machine off", "the first machine off", "a cable out"],
)
def test_a_loss_costs_nothing_but_time(lose, bring_back, name, lab, hosts, packed, undisturbed, tmp_path):
    words = launch(packed.path, "--model", "slow:net", "--epochs", str(EPOCHS))
    words += [word for change in MORE for word in ("--set", change)]
    launched = Launched(lab, words, cwd=tmp_path)
    try:
        launched.wait_for("  checkpoint ")
        for _ in range(TIMES):
            lost = time.time()
            saved = launched.events("checkpoint")[-1]["step"]
            lose(hosts[name])
            noticed = launched.wait_for("attempt ", lost)
            goes_on = step_after(launched, noticed)
            resume = launched.events("resume", lost)[0]
            assert resume["step"] >= saved
            print(f"{lose.__name__} {name}: noticed after {noticed - lost:.1f} s, trains after {goes_on - lost:.1f} s")
            if bring_back:
                returned = time.time()
                bring_back(hosts[name])
                full = step_after(launched, launched.wait_for("attempt ", returned))
                print(f"  back, it trains with the other after {full - returned:.1f} s")
            assert launched.events("start")[-1]["world"] == 2
        for host in hosts.values():
            host.ssh("rm /tmp/slow")
        assert launched.end() == 0, launched.said
    finally:
        launched.end(signal.SIGKILL)
    ours = checkpoint.newest(rundir.open(launched.run))
    assert ours.step == undisturbed.step
    for key, weight in ours.tensors("model").items():
        assert weight.equal(undisturbed.tensors("model")[key]), key


def step_after(launched, when):
    """When the first step of an attempt was done that began after this."""

    def first():
        starts = launched.events("start", when)
        return starts and launched.events("step", starts[0]["time_s"])

    return wait_until(first)[0]["time_s"]
