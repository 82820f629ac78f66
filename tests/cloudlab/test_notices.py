"""A cloud that takes machines back, as AWS does: what they did is in a bucket before they go, and new ones go on.

Each host has a metadata server of its own at AWS's address, which gives it the keys of its role, and the notice. The
bucket is moto's: see ``bucket``. An exact run (docs/reliability.md) of a net that waits in each step.
"""

from __future__ import annotations

import json
import signal
import sysconfig
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import bucket
import pytest
from lab import CHANGES, USER, Launched, launch, wait_until
from metadata_server import ACTION, MetadataServer

import eighteen
from eighteen.base import rundir
from eighteen.training import checkpoint

EPOCHS = 240
MORE = ["phases.0.batch=16", "train.exact=true", "train.virtual_workers=2", f"eval.every={EPOCHS}"]
MORE += ["train.checkpoint='phase'", "train.notices='aws'"]  # so that only the notices save; the hosts have no firmware
SLOW = Path(__file__).with_name("slow.py")
TIMES, NOTICE_S = 3, 30.0  # AWS gives 120
METADATA, ROLE = "169.254.169.254", "/latest/meta-data/iam/security-credentials/"


class Machines:
    """The hosts of a lab, each with its metadata server while it has power."""

    def __init__(self, lab, packages):
        self.hosts, self.servers, self.stack = lab.hosts, {}, ExitStack()
        place = f"{sysconfig.get_path('purelib')}/slow.py"
        for name, host in self.hosts.items():
            host.power_off()
            bucket.furnish(host, packages)
            host.at_boot += f"cat >{place} <<'EOF'\n{SLOW.read_text()}\nEOF\ninstall -o {USER} /dev/null /tmp/slow\n"
            host.at_boot += f"ip address add {METADATA}/32 dev lo\n"
            self.boot(name)

    def boot(self, name):
        self.hosts[name].boot()
        server = self.servers[name] = MetadataServer(self.hosts[name].listen(METADATA, 80))
        ends = datetime.now(UTC) + timedelta(hours=6)
        keys = {"Code": "Success", "Type": "AWS-HMAC", "Expiration": f"{ends:%FT%TZ}", "LastUpdated": f"{ends:%FT%TZ}"}
        keys |= {"AccessKeyId": "of-a-role", "SecretAccessKey": "of-a-role", "Token": "of-a-role"}
        server.answers |= {ROLE: "eighteen", f"{ROLE}eighteen": json.dumps(keys)}
        server.__enter__()

    def announce(self, names):
        """When their clouds said that they take them back."""
        now = datetime.now(UTC)
        for name in names:
            goes = f"{now + timedelta(seconds=NOTICE_S):%FT%TZ}"
            self.servers[name].answers[ACTION] = json.dumps({"action": "terminate", "time": goes})
        return now.timestamp()

    def take(self, names):
        for name in names:
            self.hosts[name].power_off()
            self.servers.pop(name).__exit__()

    def close(self):
        self.take([*self.servers])


@pytest.fixture
def machines(lab):
    machines = Machines(lab, bucket.packages())
    yield machines
    machines.close()


@pytest.mark.soak_cloud
def test_machines_that_are_taken_back_have_saved_where_it_lasts_and_new_ones_go_on(lab, machines, packed, tmp_path):
    """First one, which the launch replaces; then both, and the same command again goes on."""
    words = launch(packed.path, "--model", "slow:net", "--epochs", str(EPOCHS), "--checkpoint-to", "s3://durable/runs")
    words += [word for change in MORE for word in ("--set", change)]
    with bucket.Bucket(lab, "durable") as durable, ExitStack() as stack:
        launched = Launched(lab, words, cwd=tmp_path)
        stack.callback(lambda: launched.end(signal.SIGKILL))
        launched.wait_for("  step ")
        for number in range(TIMES):
            for names in ([["node2", "node1"][number % 2]], ["node1", "node2"]):
                told = machines.announce(names)
                when, step = wait_until(lambda told=told: copies(durable, told))[0]
                print(f"notice on {' and '.join(names)}: step {step} in the bucket after {when - told:.1f} s")
                stays = [name for name in machines.hosts if name not in names]
                if stays:
                    goes_on = trains(launched, launched.wait_for("attempt ", told))
                    print(f"  the other trains after {goes_on - told:.1f} s")
                time.sleep(max(0.0, told + NOTICE_S - time.time()))  # the notice's time
                machines.take(names)
                if not stays:
                    launched.end(signal.SIGKILL)
                returned = time.time()
                for name in names:
                    machines.boot(name)
                if not stays:
                    launched = Launched(lab, words, cwd=tmp_path)
                again = trains(launched, returned)
                assert launched.events("start", returned)[-1]["world"] == 2
                resume = launched.events("resume", told)[0]
                before = max(one["step"] for one in launched.events("step") if one["time_s"] < resume["time_s"])
                print(
                    f"  {before + 1 - resume['step']} steps lost; {again - returned:.1f} s from power to steps of both"
                )
                assert resume["step"] == step
                assert before + 1 - resume["step"] <= 1
        for host in machines.hosts.values():
            host.ssh("rm /tmp/slow")
        assert launched.end() == 0, launched.said
    ours, theirs = checkpoint.newest(rundir.open(launched.run)), undisturbed(packed, tmp_path / "alone")
    assert ours.step == theirs.step
    for key, weight in ours.tensors("model").items():
        assert weight.equal(theirs.tensors("model")[key]), key


def undisturbed(packed, folder):
    """What one machine comes to."""
    changes = [*CHANGES, *(one for one in MORE if "notices" not in one)]
    asked = {"recipe": "demo", "model": "slow:net", "epochs": EPOCHS, "procs": 1, "changes": changes}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(SLOW.parent))
        done = eighteen.train(packed, **asked, runs_dir=folder)
    return checkpoint.newest(rundir.open(done.run))


def copies(durable, since):
    """When each checkpoint was whole in the bucket, and its step."""
    found = [(when, name) for name, when in [*durable.put.items()] if when > since and name.endswith("/commit.json")]
    return [(when, int(name.split("/")[-2].removeprefix("step-"))) for when, name in sorted(found)]


def trains(launched, when):
    """When the first step was done of an attempt that began after this."""

    def first():
        starts = launched.events("start", when)
        return starts and launched.events("step", starts[-1]["time_s"])

    return wait_until(first)[0]["time_s"]
