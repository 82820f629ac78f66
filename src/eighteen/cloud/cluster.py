"""Launches on a cluster: submits the job, follows it to its end, and tells, stops or ends it in between.

Slurm's own commands do all of that, and the disk that all nodes share holds the rest: the run is where it belongs from
the first moment on. ``slurm`` decides; killed at any moment, the same goes on from what it sees.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from eighteen.base import budget
from eighteen.base.errors import MachineError, Stopped, UsageError
from eighteen.base.events import Follower, OnEvent
from eighteen.base.files import write_atomic, write_json
from eighteen.base.rundir import RunDir, check_name, stamp
from eighteen.cloud import parcel
from eighteen.cloud.launcher import ENDED, last_line
from eighteen.cloud.slurm import (
    DEFAULT,
    FINAL,
    FORMAT,
    LOG,
    Job,
    Queued,
    minutes,
    next_action,
    options,
    queued,
    script,
)
from eighteen.cloud.slurm_job import stop_file
from eighteen.data import dataset as datasets
from eighteen.data.places import absolute, is_url

LOOK_S = 1.0  # between two looks at the run
ASK_S = 10.0  # between two questions to Slurm, which answers everybody
SILENT_S = 120.0  # that Slurm may be silent for
ANSWER_S = 60.0

SCRIPT = "job.sh"
SUBMIT = ("sbatch", "--parsable", SCRIPT)
SILENT = ("Unable to contact", "Socket timed out", "Connection refused", "communication")  # in what its commands say

Say = Callable[[str], object]


class Silent(MachineError):
    """Slurm does not answer."""


def wanted(
    data: str,
    *,
    partition: str,
    machines: int,
    gpus: int | None,
    procs: int | None,
    words: Sequence[str],
    recipe: Path | None,
    name: str | None,
    hours: float | None,
    time_: str | None,
    sbatch: Sequence[str],
) -> Job:
    """What is asked for, as a job without a name of its own yet. data: a dataset, or its URL"""
    if machines < 1:
        raise UsageError("--machines", got=str(machines), need="1 or more", hint="--machines 2")
    place = absolute(data, flag="launch")
    if not is_url(data):
        datasets.open(data)
    called = name or re.sub(r"[^\w-]+", "-", Path(data).stem).strip("-")
    check_name(called)
    limit = minutes(hours, None if time_ is None else budget.seconds(time_))
    device = "gpu" if gpus is not None else "cpu" if procs is not None else "any"
    partition = "" if partition == DEFAULT else partition
    if not re.fullmatch(r"[\w.,-]*", partition):
        raise UsageError("--slurm", got=repr(partition), need="a partition that sinfo shows", hint="--slurm default")
    ranks = gpus if gpus is not None else procs if procs is not None else 1
    return Job(
        name=called,
        partition=partition,
        machines=machines,
        ranks=ranks,
        device=device,
        python=sys.executable,
        folder=str(Path.cwd()),
        dataset=place,
        words=[*words],
        has_recipe=recipe is not None,
        options=options(sbatch),
        minutes=limit,
        code=parcel.digest(),
    )


def prepared(job: Job, *, recipe: Path | None, runs_dir: Path, new: bool) -> tuple[RunDir, Job]:
    """A run's folder for it, or that of the same job, if that has not come to its end."""
    for path in [] if new else sorted(runs_dir.glob(f"{job.name}-*/launch/slurm.json"), reverse=True):
        run = RunDir(path.parents[1])
        earlier = _known(run)
        is_open = not path.with_name("ended.json").exists()
        has_recipe = _text(path.with_name("recipe.toml")) == _text(recipe)
        if earlier and is_open and has_recipe and replace(earlier, name=job.name, code=job.code) == job:
            return run, earlier
    run = RunDir(runs_dir / f"{job.name}-{stamp()}")
    if run.path.exists():
        raise UsageError(f"launch {job.name}", got=f"{run.path} already", need="a new name", hint="--name another")
    job = replace(job, name=run.path.name)
    (run.path / "launch").mkdir(parents=True)
    if recipe is not None:
        write_atomic(run.path / "launch" / "recipe.toml", recipe.read_text("utf-8"))
    keep(run, job)
    return run, job


def follow(run: RunDir, job: Job, *, on_event: OnEvent | None, say: Say) -> None:
    """Do all that is left to do, until the run has ended.

    Raises what ``eighteen train`` would: Stopped, Diverged, BudgetSpent; MachineError if the job failed.
    """
    follower, is_begun, told = Follower(run.events), False, ""
    follower.new()  # what was told before
    while True:
        now = patiently(job)
        action = next_action(now, is_begun=is_begun, reason=_reason(run))
        if action == "finish":
            break
        is_begun = True
        if action == "submit":
            say(f"job {submit(run, job)}: submitted")
            continue
        if str(now) != told:
            say(told := str(now))
        asked = time.monotonic()
        while time.monotonic() - asked < ASK_S:
            time.sleep(LOOK_S)
            if _tell(follower, on_event):
                break
    _tell(follower, on_event)
    _finish(run, now)


def submit(run: RunDir, job: Job) -> int:
    """Into the queue; its number there."""
    folder = run.path / "launch"
    keep(run, replace(job, code=parcel.digest()))
    write_atomic(folder / SCRIPT, script(job, str(run.path.absolute())))
    stop_file(run).unlink(missing_ok=True)
    number = int(_slurm(*SUBMIT, folder=folder).partition(";")[0])
    write_json(folder / "job.json", {"v": 1, "number": number})
    return number


def queue(job: Job) -> Queued | None:
    """The job, as Slurm knows it now; None if it has not been submitted, or ended some minutes ago."""
    return queued(_slurm("squeue", "--me", "--noheader", f"--name={job.name}", "--states=all", f"--format={FORMAT}"))


def patiently(job: Job) -> Queued | None:
    """``queue``, asked again where Slurm is silent; Silent where it is so for too long."""
    since = time.monotonic()
    while True:
        try:
            return queue(job)
        except Silent:
            if time.monotonic() - since > SILENT_S:
                raise
            time.sleep(LOOK_S)


def state(run: RunDir, job: Job) -> str:
    """One line on the job, one on the run."""
    number = _number(run)
    said = str(queue(job) or (f"job {number}: no longer known" if number else "no job"))
    end = run.end() if run.events.exists() else None
    step = run.read_status().get("step", 0) if run.status.exists() else 0
    return f"{said}\n{run.path}: {end['reason'] if end else 'not ended'}, step {step:,}"


def stop(run: RunDir, job: Job) -> str:
    """Have the ranks save and stop, and the job stay out of the queue; one that still waits there is taken out."""
    number = _in_queue(run, job, "stop")
    _slurm("scancel", "--state=PENDING", number)
    if (now := queue(job)) and now.state == "RUNNING":
        _slurm("scancel", "--signal=TERM", number)
    return f"job {number}: asked to save and stop"


def down(run: RunDir, job: Job) -> str:
    """End the job, whatever it does."""
    number = _in_queue(run, job, "down")
    _slurm("scancel", number)
    _over(run, "down")
    return f"job {number}: ended"


def log(run: RunDir) -> str:
    """The end of what the job has printed."""
    return (_text(run.path / "launch" / LOG) or "")[-4000:]


def shown(job: Job, runs_dir: Path) -> list[str]:
    """The script and the command that would be done, for whoever wants to see it first."""
    run = runs_dir / f"{job.name}-{stamp()}"
    words = script(replace(job, name=run.name), str(run.absolute()))
    return [f"# {run / 'launch' / SCRIPT}", words, f"cd {shlex.quote(str(run / 'launch'))}", shlex.join(SUBMIT)]


def keep(run: RunDir, job: Job) -> None:
    write_json(run.path / "launch" / "slurm.json", {"v": 1, **asdict(job)})


def opened(path: Path) -> tuple[RunDir, Job] | None:
    """A run, and what it was submitted as; None if it was not."""
    job = _known(RunDir(path))
    return (RunDir(path), job) if job else None


def _known(run: RunDir) -> Job | None:
    if (text := _text(run.path / "launch" / "slurm.json")) is None:
        return None
    facts = json.loads(text)
    facts.pop("v")
    return Job(**facts)


def _in_queue(run: RunDir, job: Job, verb: str) -> str:
    """Its number. Marked as one that is not to be put back into the queue, before anything is done to it."""
    stop_file(run).touch()
    now = queue(job)
    if now is None or now.is_over:
        got, hint = str(now or "no job of it in the queue"), f"eighteen status {run.path}"
        raise UsageError(f"{verb} {run.path}", got=got, need="one that waits or trains", hint=hint)
    return str(now.number)


def _tell(follower: Follower, on_event: OnEvent | None) -> bool:
    """Pass on what the run has told since; whether it has ended."""
    new = follower.new()
    for event in new:
        if on_event:
            on_event(event)
    return any(event["event"] == "end" for event in new)


def _finish(run: RunDir, job: Queued | None) -> None:
    reason, said = _reason(run), log(run)
    if reason in FINAL:
        _over(run, reason)
    if reason in ("done", "patience", "until"):
        return
    tried, hint = f"train {run.path.name}", f"eighteen logs {run.path}"
    is_open = not (run.path / "launch" / "ended.json").exists()  # by eighteen down
    if is_open and (reason == "stopped" or stop_file(run).exists()):
        raise Stopped(tried, got="a request to stop", need="to go on, later", hint="the same command goes on")
    if not said and reason is None:
        got, need = f"no word of it; {job or 'it has left the queue'}", "a folder that all nodes share"
        raise MachineError(
            tried, got=got, need=need, hint=f"the same command, where the nodes see {run.path.absolute()}"
        )
    got = reason if reason in ENDED else f"{job or 'it has left the queue'}; {last_line(said)}"
    raise ENDED.get(reason or "", MachineError)(tried, got=got, need="a run that comes to its end", hint=hint)


def _over(run: RunDir, reason: str | None) -> None:
    write_json(run.path / "launch" / "ended.json", {"v": 1, "reason": reason})


def _reason(run: RunDir) -> str | None:
    return (run.end() or {}).get("reason") if run.events.exists() else None


def _number(run: RunDir) -> int | None:
    text = _text(run.path / "launch" / "job.json")
    return json.loads(text)["number"] if text else None


def _slurm(*words: str, folder: Path | None = None) -> str:
    """What one of Slurm's commands prints; Silent if it cannot reach Slurm, MachineError if that refuses."""
    need = "Slurm's commands, as its login nodes have them"
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=ANSWER_S, cwd=folder
        )
    except FileNotFoundError:
        raise MachineError("ask Slurm", got=f"no {words[0]} here", need=need, hint="--hosts node1,node2") from None
    except subprocess.TimeoutExpired:
        raise Silent(shlex.join(words), got=f"no answer in {ANSWER_S:g} s", need="an answer", hint="sinfo") from None
    if done.returncode:
        got = done.stderr.strip().replace("\n", "; ") or f"exit code {done.returncode}"
        is_silent = any(sign in got for sign in SILENT)
        raise (Silent if is_silent else MachineError)(shlex.join(words), got=got, need="what Slurm takes", hint="sinfo")
    return done.stdout


def _text(path: Path | None) -> str | None:
    return path.read_text("utf-8", errors="replace") if path and path.is_file() else None
