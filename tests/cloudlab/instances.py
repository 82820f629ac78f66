"""Instances of moto as hosts of the lab: each that it has is booted, each that it has no more is off."""

from __future__ import annotations

import ast
import base64
import re
import shlex
import threading
from pathlib import Path
from typing import Any

from lab import Lab, wait_until

EVERY_S = 0.5
USER, USER_ID = "ubuntu", "1077"
PUBLIC = re.compile(r"ssh-(?:rsa|ed25519) [A-Za-z0-9+/=]+")
COMMAND = re.compile(r"^ +- (\[.+\])$", re.MULTILINE)  # of runcmd, with the words one by one


class Instances:
    """Those of a region, until closed. A host that powers itself off is terminated, as AWS does with SkyPilot's.

    more: a folder of files that they have as well
    """

    def __init__(self, lab: Lab, ec2: Any, more: Path) -> None:
        self._lab, self._ec2, self._more = lab, ec2, more
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._keep)
        self._thread.start()

    def close(self) -> None:
        self._is_over.set()
        self._thread.join()

    def _keep(self) -> None:
        while not self._is_over.wait(EVERY_S):
            told = self._ec2.describe_instances()["Reservations"]
            found = {one["InstanceId"]: one for each in told for one in each["Instances"]}
            alive = {name for name, one in found.items() if one["State"]["Name"] in ("pending", "running")}
            for name in alive - self._lab.hosts.keys():
                self._boot(name, found[name]["PrivateIpAddress"])
            for name, host in self._lab.hosts.items():
                if name not in alive:
                    host.power_off()
                elif host.is_off:
                    self._ec2.terminate_instances(InstanceIds=[name])

    def _boot(self, name: str, address: str) -> None:
        told = self._ec2.describe_instance_attribute(InstanceId=name, Attribute="userData")["UserData"]["Value"]
        data = base64.b64decode(told).decode()
        host = self._lab.add(name, address)
        host.user, host.user_id, host.more = USER, USER_ID, str(self._more)
        host.keys = PUBLIC.findall(data)
        commands = [shlex.join(ast.literal_eval(words)) for words in COMMAND.findall(data)]
        host.start()
        wait_until(host.listening)
        for command in ["ip route add default dev eth0", *commands]:  # a way out, as all have, that leads nowhere
            host.as_root(command)
