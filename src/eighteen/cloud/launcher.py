"""Begins a launch, or goes on with one of the same command, and waits for its end."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

from eighteen.base import errors
from eighteen.base.errors import BudgetSpent, DataError, MachineError, Stopped, UsageError
from eighteen.base.events import OnEvent
from eighteen.base.files import write_atomic
from eighteen.base.rundir import RunDir, check_name, stamp
from eighteen.cloud import driver, parcel, probing
from eighteen.cloud.hosts import hosts
from eighteen.cloud.launch import STAYS, Launch, Seen, words_of
from eighteen.cloud.limits import Limits, described
from eighteen.cloud.preflight import Report
from eighteen.cloud.renewal import Renewal
from eighteen.data import dataset as datasets
from eighteen.data.places import absolute, is_url

PORTS = range(20_000, 30_000)  # where ranks meet: below those that systems give to connections
ENDED = {"Diverged": errors.Diverged, "BudgetSpent": errors.BudgetSpent, "cost": errors.BudgetSpent}
ENDED |= {name: getattr(errors, name) for name in ("DataError", "RecipeError", "UsageError")}

Say = Callable[[str], object]


def wanted(
    data: str,
    *,
    machines: str,
    python: str,
    ranks: int,
    words: Sequence[str],
    recipe: Path | None,
    name: str | None,
    limits: Limits | None = None,
    power_off: bool = False,
    rent: Sequence[str] = (),
) -> tuple[Launch, Path | None]:
    """What is asked for, as a launch, and the dataset here, if it is here.

    data: a dataset here, which is sent to each machine, or a URL      machines: see ``hosts``; "" if it rents them
    ranks: on each machine; 0: one a GPU      words: of ``eighteen train``      recipe: a file that is sent along
    limits: see ``limits.limits``      power_off: whether the machines do, where one strikes
    rent: the words that ask for machines, if it rents them
    """
    absolute(data, flag="launch")
    named = [str(one) + (f":{one.port}" if one.port else "") for one in ([] if rent else hosts(machines))]
    local = None if is_url(data) else datasets.open(data)
    place = data if local is None else f"{local.path.resolve().stem}-{local.digest[:12]}.e18"
    called = name or re.sub(r"[^\w-]+", "-", Path(data).stem).strip("-")
    check_name(called)
    all_words = [*words, "--recipe", "recipe.toml"] if recipe else [*words]
    launch = Launch(called, named, python, ranks, place, all_words, parcel.digest(), "", PORTS[0])
    environment = parcel.environment(launch.urls)
    launch = replace(launch, environment=environment, limits=limits or {}, power_off=power_off, rent=[*rent])
    return launch, local and local.path


def prepared(
    data: str, *, recipe: Path | None, runs_dir: Path, new: bool = False, **asked: Any
) -> tuple[RunDir, Launch, Path | None]:
    """``wanted`` with a folder of its own, or one of the same command that has not come to its end."""
    launch, local = wanted(data, recipe=recipe, **asked)
    if not new and (found := earlier(launch, recipe=recipe, runs_dir=runs_dir)):
        run, before = found
        again = replace(before, code=launch.code, environment=launch.environment, fruitless=0)
        if launch.limits:  # they may be other ones; but none of them is lost by leaving them out
            again = replace(again, limits=launch.limits, power_off=launch.power_off)
        driver.keep(run, again)
        return run, again, local
    run = RunDir(runs_dir / f"{launch.name}-{stamp()}")
    if run.path.exists():
        raise UsageError(f"launch {launch.name}", got=f"{run.path} already", need="a new name", hint="--name another")
    port = random.Random(run.path.name).choice(PORTS)
    launch = replace(launch, name=re.sub(r"[^\w-]", "-", run.path.name), port=port, began=time.time())
    driver.keep(run, launch)
    if recipe is not None:
        write_atomic(run.path / "launch" / "recipe.toml", recipe.read_text("utf-8"))
    return run, launch, local


def earlier(launch: Launch, *, recipe: Path | None, runs_dir: Path) -> tuple[RunDir, Launch] | None:
    """The newest of the same command that has not come to its end."""
    for path in sorted(runs_dir.glob(f"{launch.name}-*/launch/launch.json"), reverse=True):
        run = RunDir(path.parents[1])
        before = driver.known(run)
        is_open = not path.with_name("ended.json").exists()
        has_recipe = _text(path.with_name("recipe.toml")) == _text(recipe)
        if before and is_open and has_recipe and _asked(before) == _asked(launch):
            return run, before
    return None


def _text(path: Path | None) -> str | None:
    return path.read_text("utf-8") if path and path.is_file() else None


def _asked(launch: Launch) -> Launch:
    """What makes two launches the same."""
    progress = {field.name: field.default for field in fields(Launch) if field.default is not MISSING}
    progress |= {"name": "", "port": 0, "code": "", "environment": "", "limits": {}, "rent": [*launch.rent]}
    return replace(launch, **progress, hosts=[] if launch.rent else [*launch.hosts])


def follow(
    run: RunDir,
    launch: Launch,
    dataset: Path | None,
    *,
    on_event: OnEvent | None,
    say: Say,
    has_preflight: bool = True,
    renewal: Renewal | None = None,
) -> None:
    """Do all that is left to do, until the run has ended and lies here.

    Raises what ``eighteen train`` would: Stopped, Diverged, BudgetSpent; MachineError if a machine failed.
    """
    does = driver.Driver(run, launch, dataset, on_event=on_event, say=say, has_preflight=has_preflight, renewal=renewal)
    seen = does.drive()
    does.fetch()
    reason = (run.end() or {}).get("reason") if run.events.exists() else None
    is_refused = any(one and one.is_refused for one in seen.values())
    is_whole = len(does.launch.at_work) == len(launch.hosts)  # fewer may be refused what all are not
    if reason != "stopped" and (reason in STAYS or (is_refused and is_whole)):
        driver.keep_end(run, reason)
    else:
        driver.keep(run, replace(does.launch, attempt=does.launch.attempt + 1, active=(), joining=()))
    if reason in ("done", "patience", "until"):
        return
    tried, hint = f"train {run.path.name}", "the same command goes on"
    if any(one and one.is_over for one in seen.values()):
        got, need = "the limit of --max-hours or --max-cost", "an end before it"
        raise BudgetSpent(tried, got=got, need=need, hint="the same command with a higher limit goes on")
    if reason == "stopped":
        raise Stopped(tried, got="a request to stop", need="to go on, later", hint=hint)
    refusal = next((one.refusal for one in seen.values() if one and one.refusal), "")
    kind, got = ENDED.get(refusal or reason or "", MachineError), reason if reason in STAYS else _why(seen)
    raise kind(tried, got=got, need="a run that comes to its end", hint=f"eighteen logs {run.path}")


def _why(seen: Mapping[str, Seen | None]) -> str:
    lines = [f"{host}: {last_line(one.said)}" for host, one in seen.items() if one and one.exit]
    return "; ".join(lines) or "no word of its end"


def last_line(said: str) -> str:
    """An error of ours, if there is one, or else the last line with words in it: torch's launcher says much around."""
    lines = [line.strip() for line in said.splitlines() if re.search(r"\w", line)]
    ours = [line for line in lines if re.match(r"(\w+Error|Stopped|Diverged|BudgetSpent|PeerLost): ", line)]
    return ours[0] if ours else lines[-1] if lines else "nothing was printed"


def preflight_of(machines: str, *, python: str, ranks: int, say: Say) -> Report:
    """As before a launch, of machines on which the program is put if need be, but no packages. ranks: see ``wanted``"""
    named = [str(one) + (f":{one.port}" if one.port else "") for one in hosts(machines)]
    if len(named) < 2:
        raise UsageError("preflight", got="one machine", need="two or more", hint="--hosts node1,node2")
    code, environment = parcel.digest(), parcel.environment()
    launch = Launch("preflight", named, python, ranks, "none://", [], code, environment, random.choice(PORTS))
    there, looks = driver.remotes(launch), driver.look(launch)
    for host, seen in looks.items():
        if seen and not seen.has_code:
            there[host].send("take_code", driver.asked(launch), parcel.files())
        if seen and not seen.has_packages:
            say(f"{host}: no all-reduce, as packages are missing that eighteen launch would install")
    has_packages = all(seen and seen.has_packages for seen in looks.values())
    return probing.measure(there, launch, ranks=ranks, has_packages=has_packages)


def opened(path: Path) -> tuple[RunDir, Launch]:
    """The launch of a run here; DataError if there was none."""
    run = RunDir(path)
    if (launch := driver.known(run)) is None:
        need, hint = "a run that eighteen launch began", "ls runs/*/launch"
        raise DataError(f"open {path}", got="no launch in it", need=need, hint=hint)
    return run, launch


def shown(launch: Launch) -> list[str]:
    """Every command that would be done, for whoever wants to see it first."""
    lines = [
        f"program {launch.code}, {len(parcel.files())} files; packages {', '.join(parcel.requirements(launch.urls))}"
    ]
    for host, remote in driver.remotes(launch).items():
        words = words_of(launch, host, launch.ranks or 1)
        lines.append(f"{' '.join(remote.login())} # then, in ~/.eighteen/launches/{launch.name}, in tmux:")
        lines.append(f"  {launch.python} {' '.join(words)}")
    if launch.limits:
        lines.append(described(launch.limits, began=launch.began, power_off=launch.power_off))
    return lines
