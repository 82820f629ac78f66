#!/usr/bin/env python3
"""Stands in for ``sky``: clusters are lines of a file in $FAKE_SKY, and their machines home folders in $FAKE_HOSTS.

It writes down what it is asked. A place that the file ``refused`` names has no machines; spot machines need credentials
that are not there if a file ``broken`` is; whoever asks is killed when the machines are there if a file ``kill`` is.

A managed job is a process of its own, which does a task's setup and run in these homes, and begins again, with empty
ones, where its exit code asks for that, or once something is there that fits the pattern in a file ``lose``.
"""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

HERE = Path(os.environ["FAKE_SKY"])
HOSTS = sorted(os.listdir(os.environ["FAKE_HOSTS"]), reverse=True)  # localhost is the first
BLOCK = """# Added by sky
Host {name}
  HostName {host}
  User ubuntu
  IdentityFile ~/.sky/key
  StrictHostKeyChecking no
  UserKnownHostsFile=/dev/null
  Port 22

"""
CLUSTERS = HERE / "clusters.json"


def main(verb, *words):
    with (HERE / "asked.jsonl").open("a") as file:
        file.write(json.dumps([verb, *words]) + "\n")
    clusters = json.loads(CLUSTERS.read_text()) if CLUSTERS.exists() else {}
    if verb == "status":
        print("\x1b[2mFailed to connect to SkyPilot API server at somewhere. Starting a local server.\x1b[0m")
        facts = {"region": "us-east-1"}
        print(json.dumps([{"name": name, "status": status, **facts} for name, status in clusters.items()], indent=2))
    elif verb == "down":
        if (HERE / "impatient").exists():  # somebody presses Ctrl-C once more
            os.kill(os.getppid(), signal.SIGINT)
        for name in words[1:]:
            print(f"Terminating {name}" if clusters.pop(name, None) else f"Cluster(s) not found: {name}.")
        CLUSTERS.write_text(json.dumps(clusters))
    elif verb == "launch":
        launch(words, clusters)
    elif verb == "jobs":
        jobs(*words)


def launch(words, clusters):
    name, task = words[words.index("--cluster") + 1], json.loads(Path(words[-1]).read_text())
    with (HERE / "tasks.jsonl").open("a") as file:
        file.write(json.dumps(task) + "\n")
    where = task["resources"]["infra"]
    refused = HERE / "refused"
    if refused.exists() and where in refused.read_text().split():
        print(
            f"sky.exceptions.ResourcesUnavailableError: Failed to provision all possible launchable resources: {where}"
        )
        sys.exit(1)
    if task["resources"]["use_spot"] and (HERE / "broken").exists():
        print("sky.exceptions.NoCloudAccessError: no credentials")
        sys.exit(1)
    settings = Path.home() / ".sky" / "generated" / "ssh"
    settings.mkdir(parents=True, exist_ok=True)
    names = [name, *(f"{name}-worker{number}" for number in range(1, task["num_nodes"]))]
    others = [settings / other for other in clusters.keys() - {name}]
    taken = "".join(other.read_text() for other in others if other.exists())
    free = [host for host in HOSTS if f"HostName {host}\n" not in taken]
    told = [BLOCK.format(name=one, host=host) for one, host in zip(names, free, strict=False)]
    (settings / name).write_text("".join(told))
    CLUSTERS.write_text(json.dumps(clusters | {name: "UP"}))
    if (HERE / "kill").exists():
        (HERE / "kill").unlink()
        os.kill(os.getppid(), signal.SIGKILL)


def jobs(verb, *words):
    queue = told()
    if verb == "launch":
        number, name = len(queue) + 1, words[words.index("--name") + 1]
        (HERE / f"job-{number}.json").write_text(Path(words[-1]).read_text())
        tell(number, job_id=number, job_name=name, status="PENDING", recovery_count=0)
        subprocess.Popen([sys.executable, __file__, "control", str(number)], start_new_session=True)
        if (HERE / "kill").exists():
            (HERE / "kill").unlink()
            os.kill(os.getppid(), signal.SIGKILL)
    elif verb == "queue":
        if not queue:  # no controller runs
            sys.exit("sky.exceptions.ClusterNotUpError: No in-progress managed jobs.")
        print(json.dumps(queue, indent=2))
    elif verb == "logs":
        print(*(path.read_text() for path in HERE.glob("job-*.log")))
    elif verb == "cancel":
        for number in map(int, words[1:]):
            tell(number, status="CANCELLED")


def told():
    return [json.loads(path.read_text()) for path in sorted(HERE.glob("told-*.json"))]


def tell(number, **facts):
    path = HERE / f"told-{number}.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    path.with_suffix(".part").write_text(json.dumps(known | facts))
    path.with_suffix(".part").replace(path)


def control(number):
    task = json.loads((HERE / f"job-{number}.json").read_text())
    homes = [Path(os.environ["FAKE_HOSTS"]) / name for name in HOSTS[: task["num_nodes"]]]
    with (HERE / f"job-{number}.log").open("a") as log:
        for losses in itertools.count():
            tell(number, pid=os.getpid(), recovery_count=losses)
            state = attempt(number, task, homes, log)
            for home in homes:
                empty(home)
            tell(number, status=state)
            if state != "RECOVERING":
                return


def attempt(number, task, homes, log):
    for home in homes:
        for to, source in task["file_mounts"].items():
            path = home / to.removeprefix("~/")
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, path)
        if done(task["setup"], home, log).wait():
            return "FAILED_SETUP"
    tell(number, status="RUNNING")
    facts = {"SKYPILOT_NODE_IPS": "\n".join(f"127.0.0.{1 + rank}" for rank, _ in enumerate(homes))}
    facts |= {"SKYPILOT_NUM_GPUS_PER_NODE": "1"}
    parts = [done(task["run"], home, log, **facts, SKYPILOT_NODE_RANK=str(rank)) for rank, home in enumerate(homes)]
    while True:
        time.sleep(0.1)
        codes = [part.poll() for part in parts]
        if told()[number - 1]["status"] == "CANCELLED":
            return "CANCELLED"
        lose = HERE / "lose"
        if lose.exists() and [*HERE.parent.glob(lose.read_text())]:
            lose.unlink()
            return "RECOVERING"
        if any(codes):
            again = task["resources"]["job_recovery"]["recover_on_exit_codes"]
            return "RECOVERING" if any(code in again for code in codes) else "FAILED"
        if None not in codes:
            return "SUCCEEDED"


def done(script, home, log, **facts):
    environment = os.environ | {"HOME": str(home)} | facts
    words = ["bash", "-c", script]
    return subprocess.Popen(words, cwd=home, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def empty(home):
    """As if it had never been: no process, nothing on its disk."""
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"HOME={home}".encode() in (place / "environ").read_bytes().split(b"\0"):
                os.kill(int(place.name), signal.SIGKILL)
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()


if sys.argv[1] == "control":
    control(int(sys.argv[2]))
else:
    main(*sys.argv[1:])
