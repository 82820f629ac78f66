"""Rents the machines of a launch, lets us in to them, and gives them back, whatever happens in between.

In: a ``Rental`` in a run's folder. Out: the launch with its hosts. ``sky`` says what is asked and what answers mean;
what happened is seen from what SkyPilot shows, so whoever was killed in between goes on.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from eighteen.base.errors import MachineError
from eighteen.base.files import write_atomic, write_json
from eighteen.base.rundir import RunDir, stamp
from eighteen.cloud import driver, keys, sky
from eighteen.cloud.launch import Launch, copies_of
from eighteen.cloud.remote import OPTIONS
from eighteen.cloud.renewal import Renewal
from eighteen.cloud.sky import Node, Place, Rental, Wish

INSTALL = "uv tool install --python 3.11 'skypilot[aws]==0.14.1'"
QUIET = {"SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}  # it would tell its makers of each command
SETTINGS = Path("launch", "ssh", "config")  # in a run's folder
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SAVE_S = 120.0  # that saving may take, before machines are given back
TAIL = 15  # lines of what it said, where it failed
KEY_S = 60.0  # that a machine which has booted may take to show the key that it was given
# Lets a key in, and tells a machine's own address among its peers; nothing is sent to 192.0.2.1, which is nobody's.
LET_IN = """
import pathlib, socket, sys
keys = pathlib.Path.home() / ".ssh/authorized_keys"
known = keys.read_text() if keys.exists() else ""
if sys.argv[1] not in known:
    keys.write_text(f"{known.rstrip()}\\n{sys.argv[1]}\\n".lstrip())
other = socket.socket(type=socket.SOCK_DGRAM)
other.connect(("192.0.2.1", 9))
print(other.getsockname()[0])
"""

Say = Callable[[str], object]


def keep(run: RunDir, rental: Rental) -> Rental:
    folder = run.path / "launch"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "rent.json", {"v": 1, **asdict(rental)})
    return rental


def known(run: RunDir) -> Rental | None:
    """What was agreed to for a run; None if nothing was rented for it."""
    path = run.path / "launch" / "rent.json"
    if not path.is_file():
        return None
    facts = json.loads(path.read_text("utf-8"))
    facts.pop("v")
    return Rental(**facts | {"wish": Wish(**facts["wish"]), "places": [Place(**one) for one in facts["places"]]})


@contextmanager
def rented(run: RunDir, launch: Launch, *, is_kept: bool, say: Say) -> Iterator[tuple[Launch, Renewal]]:
    """The launch on machines that are rented, now or already; they are given back at the end, if not ``is_kept``.

    A request to end (SIGTERM, or a terminal that closes) gives them back as Ctrl-C does; then none is heard any more.
    Raises MachineError without SkyPilot, if it cannot rent, or if no place has the machines.
    """
    before = {one: signal.signal(one, signal.default_int_handler) for one in ENDINGS}
    renewal = Renewal(partial(others, run, say=say), say)
    try:
        launch = _reached(run, launch, say)
        try:
            yield launch, renewal
        except BaseException:
            if not is_kept:
                _save(run, launch, say)
            raise
    finally:
        for one in ENDINGS:  # a second Ctrl-C would leave the machines to their last hour
            signal.signal(one, signal.SIG_IGN)
        try:
            renewal.wait()
            if is_kept:
                say(f"the machines stay rented; eighteen down {run.path} gives them back")
            else:
                give_back(run, say)
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)


def _save(run: RunDir, launch: Launch, say: Say) -> None:
    """Bring home what still trains, before its machines are gone."""
    launch = driver.known(run) or launch  # as far as it has come
    if any(one and one.is_running for one in driver.look(launch).values()):
        say("asking the machines to save, before they are given back; Ctrl-C gives them back at once")
        driver.on_all(launch, "end", gently=True)
        until = time.monotonic() + SAVE_S
        while any(one and one.is_running for one in driver.look(launch).values()) and time.monotonic() < until:
            time.sleep(driver.POLL_S)
        with suppress(MachineError):
            driver.Driver(run, launch, None, on_event=None, say=say).fetch()


def give_back(run: RunDir, say: Say) -> None:
    """What was rented for a run, also if that was not yet done; MachineError if it may be there still."""
    rental = known(run)
    assert rental, "of a run that rents"
    if sky.next_step(rental.state, _there(rental), is_over=True) == "give_back":
        names = [rental.cluster, *rental.others]
        say(f"giving back {' and '.join(names)}; wait for it")
        ask(sky.return_words(*names))
    keys.delete(_ssh(run))
    keep(run, replace(rental, state="returned", others=()))


def sweep(say: Say) -> list[str]:
    """Give back all that is ours, whatever launch it was for; its names."""
    found = sorted(sky.clusters(ask(sky.status_words())))
    if found:
        say(f"giving back {', '.join(found)}")
        ask(sky.return_words(*found))
    return found


def _reached(run: RunDir, launch: Launch, say: Say) -> Launch:
    rental = known(run)
    assert rental, "agreed to before"
    if sky.next_step(rental.state, _there(rental), is_over=False) == "rent":
        rental = _rent(run, rental, say)
    if rental.state == "rented":
        return launch
    hosts = _let_in(run, _nodes(rental))
    usd_h = rental.wish.machines * rental.places[rental.place].usd_h
    launch = replace(launch, hosts=hosts, ssh=str(run.path / SETTINGS), priced=["--price-usd-h", f"{usd_h:.6g}"])
    launch = _bring(run, replace(launch, active=(), joining=()), say)
    driver.keep(run, launch)
    keep(run, replace(rental, state="rented"))
    return launch


def _bring(run: RunDir, launch: Launch, say: Say) -> Launch:
    """The run as far as it is here, to machines that know nothing of it: there it goes on."""
    if not run.recipe.is_file():  # it was lost with its machines, but for copies
        if copies_of(launch) is None:
            run.events.unlink(missing_ok=True)
            return replace(launch, run="", saved=0)
        return launch
    launch = replace(launch, run=launch.run or f"{launch.name}-{stamp()}")
    first = launch.hosts[0]
    files = {str(one.relative_to(run.path)): one for one in sorted(run.path.rglob("*")) if one.is_file()}
    files = {name: one for name, one in files.items() if not name.startswith("launch/")}
    say(f"{first}: sending {run.path}, to go on with")
    to = f"launches/{launch.name}/runs/{launch.run}"
    driver.remotes(launch)[first].send("take", driver.asked(launch) | {"to": to}, files)
    return launch


def _rent(run: RunDir, rental: Rental, say: Say) -> Rental:
    """From the first place that has the machines."""
    if rental.state in ("wanted", "returned"):
        shutil.rmtree(_ssh(run), ignore_errors=True)  # of machines that were given back
        rental = replace(rental, since=time.time())
    keys.make(_ssh(run))
    refusals = []
    for number in range(rental.place, len(rental.places)):
        rental = keep(run, replace(rental, place=number, state="renting"))
        if _is_had(run, rental, say):
            return rental
        refusals.append(str(rental.places[number]))
    keep(run, replace(rental, place=0, state="returned"))
    raise _nowhere(rental, refusals)


def others(run: RunDir, machines: int, *, say: Say) -> list[str]:
    """Rent so many in place of machines that are gone: their names, by which they are reached. They are a cluster of
    their own for SkyPilot: asked to mend the one that lost them, it would stop all of it where it finds no other.

    Raises MachineError if there are none to be had.
    """
    rental = known(run)
    assert rental, "of a run that rents"
    hours = rental.hours - (time.time() - rental.since) / 3600
    region = sky.region(ask(sky.status_words()), rental.cluster) or rental.places[rental.place].region
    other = sky.instead(rental, machines, region=region, hours=hours)
    keep(run, replace(rental, others=[*rental.others, other.cluster]))  # first, so that whatever comes is given back
    try:
        for number in range(len(other.places)):
            if _is_had(run, one := replace(other, place=number), say):
                return _let_in(run, _nodes(one), is_more=True)
        raise _nowhere(other, [*map(str, other.places)])
    except MachineError:
        _down(other)  # else the next would be rented beside it
        keep(run, rental)
        raise


def _is_had(run: RunDir, rental: Rental, say: Say) -> bool:
    """Whether the place has had the machines, which are rented now; MachineError for all else that goes wrong."""
    file, place = run.path / "launch" / "rent.yaml", rental.places[rental.place]
    write_atomic(file, sky.text(sky.task(rental)))
    settings = keys.settings(_ssh(run)) if keys.can_be_sent(rental.wish.cloud) else None
    words = sky.rent_words(rental, file, settings)
    say(f"renting {rental.wish.machines} x {place}, which takes some minutes; {watched(run)}")
    code, said = logged(run, words)
    if code == 0:
        return True
    if not sky.is_refused(said):
        raise failed(words, said)
    say(f"{place}: none to be had")
    _down(rental)  # what it may have got of them
    return False


def _nowhere(rental: Rental, refusals: list[str]) -> MachineError:
    got, need = f"none in {', '.join(refusals)}", "as many at once"
    hint = "later; fewer --machines; another --gpu or --region; or without --spot"
    return MachineError(f"rent {rental.wish.machines} x {rental.wish.gpu}", got=got, need=need, hint=hint)


def logged(run: RunDir, words: list[str]) -> tuple[int, str]:
    """What takes minutes, written down as it is said: its exit code, and all that it said."""
    with (run.path / "launch" / "sky.log").open("a+") as told:
        begins = told.tell()
        code = _run(words, told)
        told.seek(begins)
        return code, told.read()


def watched(run: RunDir) -> str:
    """What a person types to see what is ``logged``."""
    return f"tail -f {shlex.quote(str(run.path / 'launch' / 'sky.log'))}"


def _nodes(rental: Rental) -> list[Node]:
    path = Path.home() / ".sky" / "generated" / "ssh" / rental.cluster
    if not path.is_file():
        _there(rental)  # which writes it
    found = sky.nodes(path.read_text("utf-8")) if path.is_file() else []
    if len(found) != rental.wish.machines:
        need = f"{rental.wish.machines}, in {path}"
        hint = f"sky status {rental.cluster}"
        raise MachineError(f"reach {rental.cluster}", got=f"{len(found)} machines", need=need, hint=hint)
    return [replace(one, key=str(Path(one.key).expanduser())) for one in found]  # ssh does not ask $HOME for ~


def _let_in(run: RunDir, nodes: list[Node], *, is_more: bool = False) -> list[str]:
    """Write settings for ssh in which each machine is called by its address among its peers: these names.

    is_more: beside the machines that are in them already


    A machine has to show the key that it was given when it booted. Where it could be given none, the one that it has at
    this first contact is written down, and is the only one from then on.
    """
    folder = _ssh(run)
    first, known_hosts = folder / "first", folder / "known_hosts"
    if is_known := (folder / keys.SETTINGS).is_file():
        write_atomic(known_hosts, keys.known_hosts(folder))
    numbered = {f"machine{number}": node for number, node in enumerate(nodes)}
    write_atomic(first, sky.ssh_config(numbered, known_hosts))
    login = str(folder / keys.LOGIN)
    named = {
        _address(first, name, node, keys.public(folder), is_known=is_known): replace(node, key=login)
        for name, node in numbered.items()
    }
    if len(named) < len(nodes):
        need = "one for each machine"
        raise MachineError("reach machines", got=f"addresses {', '.join(named)}", need=need, hint="sky status")
    first.unlink()
    config = folder / "config"
    write_atomic(config, (config.read_text("utf-8") if is_more else "") + sky.ssh_config(named, known_hosts))
    return [*named]


def _address(settings: Path, name: str, node: Node, key: str, *, is_known: bool) -> str:
    """Of a machine among its peers, which from now on lets this key in."""
    options = [*([] if is_known else ["StrictHostKeyChecking=accept-new"]), *OPTIONS, "ConnectionAttempts=5"]
    words = ["ssh", "-F", str(settings), "-x", *[word for one in options for word in ("-o", one)], "--", name]
    words.append(shlex.join(["python3", "-c", LET_IN, key]))
    until = time.monotonic() + KEY_S
    while True:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode == 0:
            return done.stdout.strip()
        if "verification failed" not in done.stderr or time.monotonic() > until:
            hint = shlex.join(["ssh", "-F", str(settings), name])
            raise MachineError(f"reach {node.address}", got=done.stderr.strip(), need="a machine to log in", hint=hint)
        time.sleep(1)


def _ssh(run: RunDir) -> Path:
    """Keys and settings for these machines."""
    return (run.path / "launch" / "ssh").resolve()


def _there(rental: Rental) -> str | None:
    """What SkyPilot says of the machines, or else of those in their place; None if it has none of these names."""
    found = sky.clusters(ask(sky.status_words()))
    return next((found[name] for name in [rental.cluster, *rental.others] if name in found), None)


def _down(rental: Rental) -> None:
    ask(sky.return_words(rental.cluster))


def ask(words: list[str], *, unless: re.Pattern[str] | None = None) -> str:
    """MachineError if it fails, but for what it says then that fits."""
    with TemporaryFile("w+") as told:
        code = _run(words, told)
        told.seek(0)
        said = told.read()
    if code and not (unless and unless.search(said)):
        raise failed(words, said)
    return said


def _run(words: list[str], told: IO[str]) -> int:
    """Its exit code. Ctrl-C is for us alone: SkyPilot would only look away, and go on."""
    require_sky()
    how = {"stdin": subprocess.DEVNULL, "stdout": told, "stderr": subprocess.STDOUT, "start_new_session": True}
    return subprocess.run(words, env=os.environ | QUIET, **how).returncode


def require_sky() -> None:
    if shutil.which("sky") is None:
        need = "SkyPilot on PATH, a tool with an environment of its own"
        raise MachineError("rent machines", got="no program sky", need=need, hint=INSTALL)


def failed(words: list[str], said: str) -> MachineError:
    lines = [line.rstrip() for line in said.splitlines() if line.strip()]
    got = "\n".join(lines[-TAIL:]) or "not a word"
    return MachineError(shlex.join(words), got=got, need="machines to rent", hint="sky check")
