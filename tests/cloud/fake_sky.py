#!/usr/bin/env python3
"""Stands in for ``sky``: clusters are lines of a file in $FAKE_SKY, and their machines home folders in $FAKE_HOSTS.

It writes down what it is asked. A place that the file ``refused`` names has no machines; spot machines need credentials
that are not there if a file ``broken`` is; whoever asks is killed when the machines are there if a file ``kill`` is.
"""

import json
import os
import signal
import sys
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
        print(json.dumps([{"name": name, "status": status} for name, status in clusters.items()], indent=2))
    elif verb == "down":
        if (HERE / "impatient").exists():  # somebody presses Ctrl-C once more
            os.kill(os.getppid(), signal.SIGINT)
        for name in words[1:]:
            print(f"Terminating {name}" if clusters.pop(name, None) else f"Cluster(s) not found: {name}.")
        CLUSTERS.write_text(json.dumps(clusters))
    elif verb == "launch":
        launch(words, clusters)


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
    told = [BLOCK.format(name=one, host=host) for one, host in zip(names, HOSTS, strict=False)]
    (settings / name).write_text("".join(told))
    CLUSTERS.write_text(json.dumps(clusters | {name: "UP"}))
    if (HERE / "kill").exists():
        (HERE / "kill").unlink()
        os.kill(os.getppid(), signal.SIGKILL)


main(*sys.argv[1:])
