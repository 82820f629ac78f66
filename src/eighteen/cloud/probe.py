"""What preflight does on each machine, as a talk: a line of JSON asked on standard input, a line of JSON answered.

Sent as text, as ``agent`` is, and only the standard library. When its input ends, or after ``MOST_S``, it ends, and all
that it listens with or has started. Whoever connects must know the talk's token before anything is answered.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

MOST_S = 300  # of a talk
SILENT_S = 3.0  # without a byte; a lost packet is sent again after 1 s
WARM = 0.2  # of a pull's time, in which a connection grows fast
LARGE = 2**14  # bytes, more than any packet: an answer that is lost where the MTU is wrong
HOME = Path.home() / ".eighteen"
GPUS = ["--query-gpu=name,driver_version", "--format=csv,noheader"]
servers = {}  # sockets that listen, by port: meet and other
ranks = []  # processes


def look(asked):
    """Facts of this machine, and to which addresses it resolves its own names and that of the first."""
    names = {socket.gethostname(), asked["name"], asked["meet"]}
    gpus, gpus_fault = _gpus()
    return {
        "hostname": socket.gethostname(),
        "addresses": _at_once({name: (_resolve, name) for name in names}, SILENT_S, otherwise=[]),
        "interface": os.environ.get("GLOO_SOCKET_IFNAME"),
        "free_bytes": shutil.disk_usage(Path.home()).free,
        "shm_bytes": shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else None,
        "gpus": gpus,
        "gpus_fault": gpus_fault,
        "time_s": time.time(),
    }


def listen(asked):
    """On the first of the addresses that is this machine's: at the port where ranks meet, and at one that is free.

    toward: an address of the first machine; what we have on the way to it comes before any loopback address
    """
    candidates = asked["addresses"] + ([_source(asked["toward"])] if asked["toward"] else [])
    for address in sorted(filter(None, candidates), key=_is_loopback):
        with suppress(OSError):
            servers["other"] = socket.create_server((address, 0), family=_family(address))
            break
    else:
        return {"address": None, "ports": {}}
    with suppress(OSError):  # somebody has it: what that means depends on which machine this is
        servers["meet"] = socket.create_server((address, asked["port"]), family=_family(address))
    for server in servers.values():
        threading.Thread(target=_serve, args=(server, asked["token"], asked["name"]), daemon=True).start()
    return {"address": address, "ports": {name: server.getsockname()[1] for name, server in servers.items()}}


def reach(asked):
    """Each of the others at each of its ports: why not, or None, and after how many seconds."""
    calls = {
        f"{host} {port}": (_meets, host, one["address"], number, asked["token"])
        for host, one in asked["peers"].items()
        for port, number in one["ports"].items()
    }
    return _at_once(calls, 2 * SILENT_S, otherwise=["silent", None])


def pull(asked):
    """Bytes per second that one other sends us over one connection; None if nothing comes."""
    came, buffer = [], bytearray(2**20)  # when, and bytes
    with suppress(OSError), socket.create_connection((asked["address"], asked["port"]), SILENT_S) as connection:
        connection.sendall(f"{asked['token']} give\n".encode())
        while not came or time.monotonic() < came[0][0] + asked["seconds"]:
            if not (got := connection.recv_into(buffer)):
                break
            came.append((time.monotonic(), got))
    if not came:
        return {"bytes_per_s": None}
    warm = [one for one in came if one[0] > came[0][0] + WARM * asked["seconds"]] or came
    return {"bytes_per_s": sum(got for _, got in warm) / max(1e-6, time.monotonic() - warm[0][0])}


def load(asked):
    """Start this machine's ranks, as training would, up to where they meet; what one says that does not, or None."""
    if meet := servers.pop("meet", None):
        meet.shutdown(socket.SHUT_RDWR)  # a close alone leaves the port to a thread that waits for callers
        meet.close()
    own = HOME / "env" / asked["environment"] / "bin" / "python"
    words = [str(own) if own.exists() else sys.executable, "-m", "eighteen.advice.wires"]
    world = {"WORLD_SIZE": asked["size"], "LOCAL_WORLD_SIZE": asked["ranks"], "MASTER_ADDR": asked["meet"]}
    world |= {"MASTER_PORT": asked["port"], "PYTHONPATH": HOME / "code" / asked["code"]}
    for local in range(asked["ranks"]):
        facts = {"RANK": asked["first"] + local, "LOCAL_RANK": local, **world}
        environ = {**os.environ, **{name: str(value) for name, value in facts.items()}}
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        ranks.append(subprocess.Popen(words, env=environ, bufsize=0, **pipes))
    ends = time.monotonic() + asked["limit_s"]
    for rank in ranks:
        if not select.select([rank.stdout], [], [], max(0.0, ends - time.monotonic()))[0]:
            return {"why": f"nothing for {asked['limit_s']:g} s"}
        if rank.stdout.readline() != b"ready\n":
            rank.kill()  # or it may go on saying something else
            return {"why": _last(rank.communicate()[1])}
    return {"why": None}


def reduce(asked):
    """The all-reduce of the ranks: what the first of them here says, and why one failed, or None."""
    ends, told = time.monotonic() + asked["limit_s"], []
    for rank in ranks:
        with suppress(BrokenPipeError):
            rank.stdin.write(f"{asked['bytes']}\n".encode())
    for rank in ranks:
        try:
            said, complaints = rank.communicate(timeout=max(0.0, ends - time.monotonic()))
        except subprocess.TimeoutExpired:
            return {"said": "", "why": f"no end in {asked['limit_s']:g} s"}
        if rank.returncode:
            return {"said": "", "why": _last(complaints)}
        told.append(_last(said))
    return {"said": told[0], "why": None}


def _gpus():
    """[[name, driver], ...], and what the driver says if it does not work."""
    try:
        done = subprocess.run(["nvidia-smi", *GPUS], capture_output=True, text=True, timeout=10)
    except FileNotFoundError:
        return [], None
    except subprocess.TimeoutExpired:
        return [], "nvidia-smi does not answer in 10 s"
    if done.returncode:
        return [], (done.stdout + done.stderr).strip()[:200] or f"nvidia-smi ends with {done.returncode}"
    return [line.split(", ") for line in done.stdout.splitlines() if ", " in line], None


def _resolve(name):
    with suppress(OSError):
        return list(dict.fromkeys(one[4][0] for one in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)))
    return []


def _source(address):
    """Which of our addresses packets to this one come from."""
    with suppress(OSError), socket.socket(_family(address), socket.SOCK_DGRAM) as nothing_is_sent:
        nothing_is_sent.connect((address, 9))
        return nothing_is_sent.getsockname()[0]
    return None


def _family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _is_loopback(address):
    return address.startswith("127.") or address == "::1"


def _serve(server, token, name):
    with suppress(OSError):  # once it is closed
        while True:
            connection, _ = server.accept()
            threading.Thread(target=_answer, args=(connection, token, name), daemon=True).start()


def _answer(connection, token, name):
    with suppress(OSError), connection:
        connection.settimeout(SILENT_S)
        said, zeros = connection.makefile("rb").readline(100).decode(errors="replace").strip(), bytes(2**18)
        if said == f"{token} who":
            connection.sendall(name.encode().ljust(LARGE) + b"\n")
        while said == f"{token} give":
            connection.sendall(zeros)  # until the other has enough, and closes


def _meets(host, address, port, token):
    began, seconds = time.monotonic(), None
    try:
        with socket.create_connection((address, port), SILENT_S) as connection:
            seconds = time.monotonic() - began
            connection.sendall(f"{token} who\n".encode())
            who = connection.makefile("rb").readline(2 * LARGE).decode(errors="replace").strip()
            return (None if who == host else "another program answers"), seconds
    except TimeoutError:
        return ("silent" if seconds is None else "large packets get lost"), seconds
    except ConnectionRefusedError:
        return "refused", None
    except OSError as error:
        return (error.strerror or str(error)).lower(), None


def _at_once(calls, limit_s, *, otherwise):
    """What each (function, argument, ...) returns, by the same keys; ``otherwise`` for one that is late."""
    found = {}

    def call(key, function, *arguments):
        found[key] = function(*arguments)

    ends, threads = time.monotonic() + limit_s, []
    for key, one in calls.items():
        threads.append(threading.Thread(target=call, args=(key, *one), daemon=True))
        threads[-1].start()
    for thread in threads:
        thread.join(max(0.0, ends - time.monotonic()))
    return {key: found.get(key, otherwise) for key in calls}


def _last(said):
    """The last line that says something: after an error of ours comes only what to try."""
    lines = [line.strip() for line in said.decode(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line and not line.startswith("Try: ")), "nothing")


def _end(*_):
    raise SystemExit("the talk took too long")


if __name__ == "__main__":
    signal.signal(signal.SIGALRM, _end)
    signal.signal(signal.SIGTERM, _end)
    signal.alarm(MOST_S)
    try:
        for line in sys.stdin:
            asked = json.loads(line)
            print(json.dumps(globals()[asked.pop("verb")](asked)), flush=True)
    finally:
        for rank in ranks:
            rank.kill()
