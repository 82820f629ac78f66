"""The two keys of one launch on rented machines: with one we log in, by the other ssh knows that it is them.

``ssh-keygen`` makes both here, in the run's ``launch/ssh``, readable for their owner alone; they last as long as the
machines are rented. The machines get theirs with what the cloud has them do when they boot.
"""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

from eighteen.cloud.remote import require_ssh

LOGIN, MACHINES, SETTINGS = "login", "machines", "sky.yaml"
OWN_SETTINGS = ("~/.sky/config.yaml", ".sky.yaml")  # of SkyPilot: the person's, and the folder's
AT_BOOT = "post_provision_runcmd"  # what these call it; only for AWS
CLOUD = "aws"
# sshd reads its keys when it starts; where systemd does not start it, a signal has it read them again
TAKE = (
    "umask 077; cd /etc/ssh; echo {key} | base64 -d >new && mv new ssh_host_ed25519_key; "
    "ssh-keygen -y -f ssh_host_ed25519_key >ssh_host_ed25519_key.pub; "
    "systemctl try-restart ssh.service || systemctl try-restart sshd.service || pkill -HUP -o -x sshd"
)


def make(folder: Path) -> None:
    """Those that are not there: machines that boot already know theirs. MachineError without OpenSSH."""
    require_ssh()
    folder.mkdir(parents=True, exist_ok=True)
    for name in (LOGIN, MACHINES):
        if not (path := folder / name).exists():
            words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "eighteen", "-f", str(path)]
            subprocess.run(words, check=True, stdin=subprocess.DEVNULL)


def delete(folder: Path) -> None:
    for name in (LOGIN, MACHINES, SETTINGS):
        (folder / name).unlink(missing_ok=True)


def can_be_sent(cloud: str) -> bool:
    """Whether the machines can be given their key: not where somebody has them do other things when they boot."""
    own = [Path(name).expanduser() for name in OWN_SETTINGS]
    return cloud == CLOUD and not any(AT_BOOT in path.read_text("utf-8") for path in own if path.is_file())


def settings(folder: Path) -> Path:
    """A file of settings for SkyPilot, with which the machines get their key."""
    key = base64.b64encode((folder / MACHINES).read_bytes()).decode()
    asked = {CLOUD: {AT_BOOT: [["sh", "-c", TAKE.format(key=key)]]}}
    path = folder / SETTINGS
    path.touch(mode=0o600)
    path.write_text(json.dumps(asked), "utf-8")  # YAML takes all JSON
    return path


def known_hosts(folder: Path) -> str:
    """One line: whatever the machines are called, their key is this one."""
    return f"* {(folder / f'{MACHINES}.pub').read_text('utf-8')}"


def public(folder: Path) -> str:
    """What the machines have to know to let us in."""
    return (folder / f"{LOGIN}.pub").read_text("utf-8").strip()
