"""What a launch does on each of its machines. It is sent there as text, for a machine that is new has nothing else.

``python3 -c SOURCE VERB FACTS``, where FACTS are JSON and nothing in them is secret. Only the standard library; files
come and go as tar streams; everything lies in ``~/.eighteen``. Each verb may be repeated: what is there stays.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from contextlib import suppress
from pathlib import Path

HOME = Path.home() / ".eighteen"
FOUND = "import sys, importlib.util as u; print([m for m in sys.argv[1:] if not u.find_spec(m)] == [])"


def look(asked):
    """Facts of this machine, and how far the launch is here."""
    launch, attempt = _launch(asked), asked["attempt"]
    exit_code = launch / f"exit-{attempt}"
    session = _tmux("has-session", "-t", asked["launch"]).returncode == 0 if shutil.which("tmux") else False
    has_begun = (launch / f"begun-{attempt}").exists()
    dataset = asked["dataset"] and HOME / "datasets" / asked["dataset"]
    has_dataset = not dataset or (dataset / "dataset.json").is_file()
    run, events = _events(launch, asked["events_from"])
    return {
        "python": ".".join(map(str, sys.version_info[:3])),
        "gpus": _num_gpus(),
        "has_tmux": shutil.which("tmux") is not None,
        "time_s": time.time(),
        "free_bytes": shutil.disk_usage(Path.home()).free,
        "has_code": (HOME / "code" / asked["code"]).is_dir(),
        "has_packages": has_begun or _python(asked) is not None,  # which takes a moment, so not while it trains
        "has_dataset": has_dataset,
        "files": [] if has_dataset else [str(one.relative_to(dataset)) for one in dataset.rglob("*") if one.is_file()],
        "has_begun": has_begun,
        "is_running": session,
        "exit": int(exit_code.read_text() or 1) if exit_code.exists() else None,
        "said": _tail(launch / "out.log") if exit_code.exists() else "",
        "run": run,
        "events": events,
    }


def take(asked):
    """Files from standard input, each under its name as soon as it is whole and as its digest says."""
    root = HOME / asked["to"]
    for member, file in _members():
        path = root / member.name
        path.parent.mkdir(parents=True, exist_ok=True)
        part, digest = path.with_name("." + path.name + ".part"), hashlib.sha256()
        with part.open("wb") as sink:
            while piece := file.read(2**20):
                digest.update(piece)
                sink.write(piece)
            sink.flush()
            os.fsync(sink.fileno())
        if digest.hexdigest() != asked["sha256"][member.name]:
            part.unlink()
            raise SystemExit(f"{member.name} came with other bytes than were sent")
        part.replace(path)
    return {}


def take_code(asked):
    """The program, all or nothing: its folder is called by its digest."""
    root = HOME / "code" / asked["code"]
    shutil.rmtree(str(root) + ".part", ignore_errors=True)
    take({**asked, "to": "code/" + asked["code"] + ".part"})
    Path(str(root) + ".part").rename(root)
    return {}


def install(asked):
    """The packages that the program needs, into an environment of their own beside what this Python has."""
    root = HOME / "env" / asked["environment"]
    shutil.rmtree(root, ignore_errors=True)
    root.parent.mkdir(parents=True, exist_ok=True)
    for words in (
        [sys.executable, "-m", "venv", "--system-site-packages", str(root)],
        [str(root / "bin" / "python"), "-m", "pip", "install", "--quiet", *asked["requirements"]],
    ):
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            shutil.rmtree(root, ignore_errors=True)
            raise SystemExit(f"{shlex.join(words[:4])}: {done.stderr.strip()[-1000:] or done.stdout[-1000:]}")
    return {}


def begin(asked):
    """One attempt to train, in tmux, where a person can look on; its output is also kept."""
    launch, attempt = _launch(asked), asked["attempt"]
    launch.mkdir(parents=True, exist_ok=True)
    if (launch / f"begun-{attempt}").exists():
        return {}
    end({**asked, "gently": False})  # what an attempt before has left, on a machine that was cut off
    program = HOME / "code" / asked["code"]
    words = [_python(asked) or sys.executable, *asked["words"]]
    lines = [
        "#!/bin/sh",
        f"cd {shlex.quote(str(launch))}",
        f"export PYTHONPATH={shlex.quote(str(program))}",
        f"export EIGHTEEN_LAUNCH={shlex.quote(str(launch))}",
        shlex.join(words),
        f"echo $? >exit-{attempt}",
    ]
    script = launch / f"start-{attempt}.sh"
    script.write_text("\n".join(lines) + "\n")
    script.chmod(0o700)
    (launch / f"begun-{attempt}").touch()
    made = _tmux("new-session", "-d", "-s", asked["launch"], "-x", "160", "-y", "50", str(script))
    if made.returncode:
        (launch / f"begun-{attempt}").unlink()
        raise SystemExit(f"tmux: {made.stderr.strip()}")
    _tmux("pipe-pane", "-t", asked["launch"], "-o", "cat >>{}".format(shlex.quote(str(launch / "out.log"))))
    return {}


def end(asked):
    """Ask the ranks here to save and stop, or, if that is not ``gently`` asked, end them."""
    if not asked["gently"]:
        _tmux("kill-session", "-t", asked["launch"])
    for pid, is_rank in _processes(asked):
        if is_rank or not asked["gently"]:  # a launcher that is asked as well would ask its ranks once more
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM if asked["gently"] else signal.SIGKILL)
    return {}


def forget(asked):
    """Delete what the launch made here; the program, packages and datasets stay for the next."""
    end({**asked, "gently": False})
    shutil.rmtree(_launch(asked), ignore_errors=True)
    return {}


def log(asked):
    """The end of what it printed here."""
    return {"said": _tail(_launch(asked) / "out.log")}


def has_told(asked):
    """Whether the newest run's events begin with these bytes."""
    runs = _runs(_launch(asked))
    path = runs[-1] / "events.jsonl" if runs else None
    told = path.read_bytes()[: asked["num_bytes"]] if path and path.exists() else b""
    return {"has": hashlib.sha256(told).hexdigest() == asked["sha256"]}


def give(asked):
    """The run's folder, as a tar stream to standard output; the first machine has it."""
    runs = _runs(_launch(asked))
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as tar:
        for path in sorted(runs[-1].rglob("*")) if runs else ():
            if path.is_file() and ".tmp" not in path.name:
                tar.add(path, str(path.relative_to(runs[-1])))


def _num_gpus():
    with suppress(OSError):
        return subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout.count("GPU ")
    return 0


def _launch(asked):
    return HOME / "launches" / asked["launch"]


def _python(asked):
    """The Python that has all packages: that of the launch's own environment, or this one; None if neither has."""
    for python in (HOME / "env" / asked["environment"] / "bin" / "python", Path(sys.executable)):
        if python.exists():
            said = subprocess.run([str(python), "-c", FOUND, *asked["modules"]], capture_output=True, text=True)
            if said.stdout.strip() == "True":
                return str(python)
    return None


def _events(launch, start):
    """The newest run's name, and what its events tell from a byte on, to the last whole line."""
    runs = _runs(launch)
    if not runs or not (runs[-1] / "events.jsonl").exists():
        return runs[-1].name if runs else None, ""
    with (runs[-1] / "events.jsonl").open("rb") as file:
        file.seek(start)
        told = file.read(2**20)
    return runs[-1].name, told[: told.rfind(b"\n") + 1].decode()


def _runs(launch):
    """The oldest first; also on a machine that does not write their events."""
    return sorted(path.parent for path in (launch / "runs").glob("*/recipe.toml"))


def _processes(asked):
    """Those of this launch, which carry its folder in their environment, and whether each is a rank."""
    mark = f"EIGHTEEN_LAUNCH={_launch(asked)}".encode()
    for place in Path("/proc").iterdir():
        if place.name.isdigit() and int(place.name) != os.getpid():
            with suppress(OSError):
                environ = (place / "environ").read_bytes().split(b"\0")
                if mark in environ:
                    yield int(place.name), any(word.startswith(b"RANK=") for word in environ)


def _members():
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as tar:
        for member in tar:
            parts = Path(member.name).parts
            if member.isfile() and parts and ".." not in parts and not Path(member.name).is_absolute():
                file = tar.extractfile(member)
                assert file is not None  # as it is one
                yield member, file


def _tail(path):
    """The end of what was printed, without what moves a terminal's cursor."""
    text = path.read_text(errors="replace")[-16_000:] if path.exists() else ""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", text)[-4000:]


def _tmux(*words):
    return subprocess.run(["tmux", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True)


if __name__ == "__main__":
    verb, facts = sys.argv[1:]
    answer = globals()[verb](json.loads(facts))
    if answer is not None:
        print(json.dumps(answer))
