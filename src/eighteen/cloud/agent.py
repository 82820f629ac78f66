"""What a launch does on each of its machines. It is sent there as text, for a machine that is new has nothing else.

``python3 -c SOURCE VERB FACTS``, where FACTS are JSON and nothing in them is secret. Only the standard library; files
come and go as tar streams; everything lies in ``~/.eighteen``. Each verb may be repeated: what is there stays.
"""

from __future__ import annotations

import fcntl
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
DIGEST = "from eighteen.cloud import parcel; print(parcel.digest())"
FOUND = "import sys, importlib.util as u; print([m for m in sys.argv[1:] if not u.find_spec(m)] == [])"
GOES_S = 300.0  # in which a machine goes whose cloud has said so; if it is there afterwards, it stays
DIES_S = 10.0  # that a process may take to be gone after it was killed
POLL_S, AGAIN_S = 5.0, 60.0  # between two looks of a watch; before it tries once more to power off


def look(asked):
    """Facts of this machine, and how far the launch is here."""
    launch, attempt = _launch(asked), asked["attempt"]
    if asked["follows"]:
        _touch(asked)
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
        "said": _tail(launch / "out.log").rpartition(_title(attempt))[2] if exit_code.exists() else "",
        "run": run,
        "events": events,
        "goes": _goes(launch),
        "can_power_off": not (asked["limits"] or {}).get("power_off") or _can_power_off(),
        **_watched(asked),
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


def choose_python(asked):
    """Write down, in the launch's folder, a Python that has all packages; they are installed if none has."""
    if _python(asked) is None:
        install(asked)
    (_launch(asked) / "python").write_text(_python(asked) or sys.executable)
    return {}


def begin(asked):
    """One attempt to train, in tmux, where a person can look on; its output is also kept."""
    launch, attempt = _launch(asked), asked["attempt"]
    launch.mkdir(parents=True, exist_ok=True)
    if (launch / f"begun-{attempt}").exists():
        return {}
    python, program = _python(asked) or sys.executable, HOME / "code" / asked["code"]
    _require_program(python, program, asked["code"])
    end({**asked, "gently": False})  # what an attempt before has left, on a machine that was cut off
    words = [python, *asked["words"]]
    lines = [
        "#!/bin/sh",
        f"cd {shlex.quote(str(launch))}",
        f"export PYTHONPATH={shlex.quote(str(program))}",
        f"export EIGHTEEN_LAUNCH={shlex.quote(str(launch))}",
        shlex.join(words),
        f"echo $? >exit-{attempt}",
    ]
    (launch / "runs").mkdir(exist_ok=True)
    script = _script(launch / f"start-{attempt}.sh", lines)
    for name, shows in asked["pages"].items():
        _script(launch / name, [*lines[:3], "exec " + shlex.join([python, "-m", *shows])])
    (launch / f"begun-{attempt}").touch()
    with (launch / "out.log").open("a") as said:
        said.write(_title(attempt))
    made = _tmux("new-session", "-d", "-s", asked["launch"], "-x", "160", "-y", "50", str(script))
    if made.returncode:
        (launch / f"begun-{attempt}").unlink()
        raise SystemExit(f"tmux: {made.stderr.strip()}")
    _tmux("pipe-pane", "-t", asked["launch"], "-o", "cat >>{}".format(shlex.quote(str(launch / "out.log"))))
    return {}


def _require_program(python, program, code):
    """A Python may have another that goes first, whatever it is told: one that is installed to be edited."""
    environment = os.environ | {"PYTHONPATH": str(program)}
    said = subprocess.run([python, "-c", DIGEST], env=environment, capture_output=True, text=True)
    if said.stdout.strip() != code:
        why = said.stderr.strip().splitlines()[-1:] or ["another eighteen goes first"]
        raise SystemExit(f"{why[0]}, where the one that was sent should be; {python} -m pip uninstall eighteen")


def watch(asked):
    """Keep the launch's limits here, and have a process of its own see to them, whoever else goes away."""
    launch = _launch(asked)
    launch.mkdir(parents=True, exist_ok=True)
    began = (_kept(launch / "limits.json") or {"began": time.time() - asked["age_s"]})["began"]
    _keep(launch / "limits.json", {"began": began, "limits": asked["limits"]})
    (launch / "struck.json").unlink(missing_ok=True)
    (launch / "heard").touch()
    if not _watches(asked):
        environment = {name: value for name, value in os.environ.items() if name != "EIGHTEEN_LAUNCH"}
        with (launch / "watch.log").open("ab") as said:
            subprocess.Popen(
                [*sys.orig_argv[:-2], "stand_watch", json.dumps(asked)],
                env=environment | {"EIGHTEEN_WATCH": str(launch)},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
    return {}


def stand_watch(asked):
    """Until a limit strikes and is seen to, or the launch is forgotten; one process at a time."""
    launch = _launch(asked)
    with (launch / "watch.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return
        while facts := _facts(asked):
            if facts["is_running"]:
                _touch(asked)
            action, which = decide(facts, time.time())
            if action != "wait":
                with suppress(OSError):  # a full disk keeps no machine running
                    _keep(launch / "struck.json", {"which": which})
                    print(time.strftime("%FT%TZ", time.gmtime()), which, action, flush=True)
                end({**asked, "gently": action == "ask"})
            if action == "end" or (action == "off" and _power_off() == 0):
                return
            time.sleep(AGAIN_S if action == "off" else POLL_S)


def decide(facts, now):
    """What the watch does now, and for which limit: "wait"; "ask" the ranks to save and stop; "end" what runs; that,
    and power "off".

    facts: began, idle_since: seconds since the epoch      is_running: whether anything of the launch is
    exit: of its last attempt, None if there was none, or it was killed      is_asked: whether the ranks were
    most_s, after_success_s, after_failure_s: the limits, None for one that there is not      grace_s, power_off
    """
    at, which = next_limit(facts) or (now + 1, None)
    if now < at:
        return "wait", None
    if which == "most" and now < at + facts["grace_s"]:  # also where all have ended: who follows the run fetches it
        return "wait" if facts["is_asked"] else "ask", which
    return "off" if facts["power_off"] else "end", which


def next_limit(facts):
    """When the next limit strikes, if nothing changes, and which it is; None if none will."""
    found = []
    if facts["most_s"] is not None:
        found.append((facts["began"] + facts["most_s"], "most"))
    idle = "after_success" if facts["exit"] == 0 else "after_failure"
    if not facts["is_running"] and facts[idle + "_s"] is not None:
        found.append((facts["idle_since"] + facts[idle + "_s"], idle))
    return min(found, default=None)


def end(asked):
    """Ask the ranks here to save and stop, or, if that is not ``gently`` asked, end them."""
    if not asked["gently"] and shutil.which("tmux"):
        _tmux("kill-session", "-t", asked["launch"])
    for pid, is_rank in _processes(asked):
        if is_rank or not asked["gently"]:  # a launcher that is asked as well would ask its ranks once more
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM if asked["gently"] else signal.SIGKILL)
    return {}


def forget(asked):
    """Delete what the launch made here; the program, packages and datasets stay for the next."""
    for pid in _watches(asked):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    end({**asked, "gently": False})
    until = time.monotonic() + DIES_S
    while _launch(asked).exists() and time.monotonic() < until:  # who is being killed may write once more
        shutil.rmtree(_launch(asked), ignore_errors=True)
        time.sleep(0.1)
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
            _touch(asked)
            if path.is_file() and ".tmp" not in path.name:
                tar.add(path, str(path.relative_to(runs[-1])))


def _num_gpus():
    with suppress(OSError):
        return subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout.count("GPU ")
    return 0


def _launch(asked):
    return HOME / "launches" / asked["launch"]


def _script(path, lines):
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o700)
    return path


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


def _goes(launch):
    """Whether the cloud takes this machine back, as training has heard."""
    with suppress(FileNotFoundError):
        return time.time() - (launch / "notice.json").stat().st_mtime < GOES_S
    return False


def _watched(asked):
    """The limits that are watched here, or that struck; when the next of them strikes, and which; and which did."""
    facts, struck = _facts(asked), _struck(asked)
    is_watched = facts is not None and bool(_watches(asked))
    kept = _kept(_launch(asked) / "limits.json") if is_watched or struck == "most" else None
    return {"limits": kept and kept["limits"], "strikes": next_limit(facts) if is_watched else None, "struck": struck}


def _facts(asked):
    """What the watch decides by; None if there is nothing to watch."""
    launch = _launch(asked)
    if (kept := _kept(launch / "limits.json")) is None:
        return None
    attempt = max((int(path.name.partition("-")[2]) for path in launch.glob("begun-*")), default=0)
    ended = launch / f"exit-{attempt}"
    told = [*launch.glob("heard"), *launch.glob("begun-*"), *launch.glob("exit-*")]
    return {
        **kept["limits"],
        "began": kept["began"],
        "is_running": any(_processes(asked)),
        "exit": int(ended.read_text() or 1) if ended.exists() else None,
        "idle_since": max(path.stat().st_mtime for path in told),
        "is_asked": _struck(asked) == "most",
    }


def _struck(asked):
    return (_kept(_launch(asked) / "struck.json") or {"which": None})["which"]


def _touch(asked):
    """Note that the launch is not idle here."""
    with suppress(OSError):  # it is not there without limits
        os.utime(_launch(asked) / "heard")


def _watches(asked):
    return [pid for pid, _ in _processes(asked, "EIGHTEEN_WATCH")]


def _can_power_off():
    if shutil.which("shutdown", path=_path()) is None:
        return False
    return os.geteuid() == 0 or (shutil.which("sudo") is not None and _as_root("-l", "shutdown").returncode == 0)


def _power_off():
    """0 if the machine goes down now."""
    words = ["shutdown", "-h", "now"]
    done = subprocess.run(words, env=os.environ | {"PATH": _path()}) if os.geteuid() == 0 else _as_root(*words)
    return done.returncode


def _as_root(*words):
    """By sudo, if it needs no password."""
    return subprocess.run(["sudo", "-n", *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def _path():
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def _keep(path, facts):
    part = path.with_suffix(".part")
    part.write_text(json.dumps(facts))
    part.replace(path)


def _kept(path):
    return json.loads(path.read_text()) if path.exists() else None


def _processes(asked, name="EIGHTEEN_LAUNCH"):
    """Those of this launch, which carry its folder in their environment, and whether each is a rank."""
    mark = f"{name}={_launch(asked)}".encode()
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


def _title(attempt):
    """Of what an attempt prints."""
    return f"== attempt {attempt}\n"


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
