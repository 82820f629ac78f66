"""What a rented machine is told at its boot, done on a real one: it has the key of the launch, and lets its own in."""

from __future__ import annotations

import json
import shlex
import shutil

from lab import USER

from eighteen.cloud import keys, rent, sky


def test_a_machine_shows_the_key_that_it_was_given_and_lets_in_that_of_the_launch(lab, tmp_path):
    host = lab.hosts["node1"]
    host.as_root("ip route add default dev eth0")
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs):
        keys.make(folder)
        (folder / "known_hosts").write_text(keys.known_hosts(folder))
    person = sky.Node(host.address, USER, 22, str(tmp_path / "person"))
    shutil.copy(lab.folder / "ssh" / "id_ed25519", person.key)
    assert "Host key verification failed" in ssh(lab, ours, person, "true").stderr

    ((*shell, script),) = json.loads(keys.settings(ours).read_text())["aws"]["post_provision_runcmd"]
    assert shell == ["sh", "-c"]
    done = host.as_root(script)
    assert done.returncode == 0, done.stderr

    entered = ssh(lab, ours, person, shlex.join(["python3", "-c", rent.LET_IN, keys.public(ours)]))
    assert entered.stdout.split() == [host.address], entered.stderr
    assert "Host key verification failed" in ssh(lab, theirs, person, "true").stderr
    launch, other = (sky.Node(host.address, USER, 22, str(folder / keys.LOGIN)) for folder in (ours, theirs))
    assert ssh(lab, ours, launch, "whoami").stdout.split() == [USER]
    assert "Permission denied" in ssh(lab, ours, other, "true").stderr
    again = ssh(lab, ours, launch, shlex.join(["python3", "-c", rent.LET_IN, keys.public(ours)]))
    assert again.stdout.split() == [host.address]
    known = ssh(lab, ours, launch, "cat .ssh/authorized_keys").stdout.splitlines()
    assert [line for line in known if line == keys.public(ours)] == [keys.public(ours)]
    assert len(known) == 2


def ssh(lab, folder, node, command):
    """At the desk, as a launch does it with the keys in this folder."""
    config = folder / "config"
    config.write_text(sky.ssh_config({"machine": node}, folder / "known_hosts"))
    return lab.run(["ssh", "-F", str(config), "-o", "BatchMode=yes", "-o", "ConnectionAttempts=5", "machine", command])
