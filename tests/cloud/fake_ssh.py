#!/usr/bin/env python3
"""Stands in for ``ssh``: a host is a home folder in $FAKE_HOSTS, and what is done there is done by a shell of its own.

A host that is not there, or has a file ``cut`` in it, is as silent as one without power. Each has its own tmux, the
environment that its ``.ssh/environment`` says, and with $FAKE_NETS its own network, in the namespace of that prefix and
its name, and its own name. With settings (-F) a host is called as they say, and knows its name as the address among its
peers.
"""

import os
import re
import sys

words = sys.argv[sys.argv.index("--") + 1 :]
host, command = words[0].rpartition("@")[2], " ".join(words[1:])
if "-F" in sys.argv[: -len(words)]:
    with open(sys.argv[sys.argv.index("-F") + 1]) as file:
        host = dict(re.findall(r"^Host (\S+)\n  HostName (\S+)", file.read(), re.MULTILINE))[host]
    if "192.0.2.1" in command:
        print(host)
        sys.exit()
home = os.path.join(os.environ["FAKE_HOSTS"], host)
if not os.path.isdir(home) or os.path.exists(os.path.join(home, "cut")):
    print(f"ssh: connect to host {host} port 22: No route to host", file=sys.stderr)
    sys.exit(255)
os.environ.update(HOME=home, TMUX_TMPDIR=home, XDG_CACHE_HOME=os.path.join(home, "cache"))
os.environ.pop("TMUX", None)
if os.path.exists(more := os.path.join(home, ".ssh", "environment")):
    with open(more) as lines:
        for name, _, value in (line.rstrip("\n").partition("=") for line in lines):
            os.environ[name] = value
os.chdir(home)
words = ["sh", "-c", command]
if "FAKE_NETS" in os.environ:
    named = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec sh -c "$1"', host, command]
    words = ["ip", "netns", "exec", os.environ["FAKE_NETS"] + host, *named]
os.execvp(words[0], words)
