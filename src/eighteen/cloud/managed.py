"""Launches that SkyPilot's managed jobs look after: it rents, begins, and rents anew where machines are lost.

Nothing is reached by ssh. The job is sent as a tar file; what it and we tell each other lies beside the copies of its
checkpoints, see ``mailbox``. ``sky`` says what is asked, ``managed_job`` is what runs there; killed at any moment, the
same command goes on from what it sees.
"""

from __future__ import annotations

import tarfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from eighteen.base.errors import BudgetSpent, MachineError, Stopped, UsageError
from eighteen.base.events import OnEvent, read
from eighteen.base.files import write_atomic, write_json
from eighteen.base.rundir import RunDir
from eighteen.cloud import driver, parcel, rent, sky
from eighteen.cloud.launch import Launch, copies_of
from eighteen.cloud.launcher import ENDED
from eighteen.cloud.mailbox import Mailbox
from eighteen.cloud.sky import Job, Rental
from eighteen.cloud.slurm import FINAL, next_action

ASK_S = 20.0  # between two questions to SkyPilot, each of which takes it some seconds
DONE = {"done", "patience", "until"}

Say = Callable[[str], object]


def require_urls(data: str, words: list[str]) -> None:
    """UsageError without a dataset at a URL, and one for the copies: nothing else outlives the machines."""
    to = dict(pairwise(words)).get("--checkpoint-to", "")
    for what, url, hint in (
        ("a dataset", data, f"eighteen push {data} s3://bucket"),
        ("--checkpoint-to", to, "--checkpoint-to s3://bucket/runs"),
    ):
        if "://" not in url:
            need = f"{what} at a URL, which outlives the machines"
            raise UsageError("launch --managed", got=url or "none", need=need, hint=hint)


def mailbox(launch: Launch) -> Mailbox:
    return Mailbox(f"{copies_of(launch)}/{launch.name}")


def opened(path: Path) -> RunDir | None:
    """A run that a managed job trains; None for any other."""
    rental = rent.known(run := RunDir(path))
    return run if rental and rental.wish.is_managed else None


def follow(run: RunDir, *, on_event: OnEvent | None, say: Say) -> None:
    """Do all that is left to do, until the job has ended and its run lies here.

    Raises what ``eighteen train`` would: Stopped, Diverged, BudgetSpent; MachineError if the job failed.
    """
    launch, rental = _known(run)
    box, is_begun, told = mailbox(launch), False, ""
    while True:
        job, note = look(rental), box.read()
        action = next_action(job, is_begun=is_begun, reason=None if note.goes_on else note.reason)
        if action == "finish":
            break
        is_begun = True
        if action == "submit":
            _submit(run, launch, rental, say)
            continue
        if str(job) != told:
            say(told := str(job))
        time.sleep(ASK_S)
    say(f"bringing the run home from {box.url}")
    box.bring(run, has_checkpoints=True)
    if on_event and run.events.exists():
        for event in read(run.events):
            on_event(event)
    _finish(run, job)


def look(rental: Rental) -> Job | None:
    """The newest job of this launch; None if SkyPilot knows of none."""
    return next((one for one in reversed(_jobs()) if one.name == rental.cluster), None)


def state(run: RunDir) -> str:
    """A line on the job, one on what is saved."""
    launch, rental = _known(run)
    box = mailbox(launch)
    note, step = box.read(), box.step()
    saved = "nothing is copied yet" if step is None else f"step {step:,} is copied to {box.url}"
    last = f"; attempt {note.attempt} ended with {note.reason or note.said or note.code}" if note.attempt else ""
    return f"{look(rental) or 'no job'}\n{run.path}: {saved}{last}"


def log(run: RunDir) -> str:
    return rent.ask(sky.log_words(_known(run)[1]))


def stop(run: RunDir) -> str:
    """Have it save and stop; one that has no machines yet is taken back."""
    launch, rental = _known(run)
    job = _alive(run, rental, "stop")
    mailbox(launch).ask_to_stop()
    if job.state == "RUNNING":
        return f"job {job.number}: asked to save and stop"
    rent.ask(sky.cancel_words(job.number))
    return f"job {job.number}: taken back"


def down(run: RunDir) -> str:
    """End the job, whatever it does; SkyPilot gives its machines back."""
    _, rental = _known(run)
    job = _alive(run, rental, "down")
    rent.ask(sky.cancel_words(job.number))
    driver.keep_end(run, "down")
    return f"job {job.number}: cancelled; SkyPilot gives its machines back"


def sweep(say: Say) -> list[str]:
    """Cancel all jobs of ours, whatever launch they are of; their names."""
    found = [one for one in _jobs() if not one.is_over]
    if found:
        say(f"cancelling {', '.join(one.name for one in found)}")
        rent.ask(sky.cancel_words(*(one.number for one in found)))
    return [one.name for one in found]


def _jobs() -> list[Job]:
    return sky.jobs(rent.ask(sky.queue_words(), unless=sky.NO_JOBS))


def _submit(run: RunDir, launch: Launch, rental: Rental, say: Say) -> None:
    box = mailbox(launch)
    box.take_back_stop()
    box.write(replace(box.read(), goes_on=True, failures=0, code=0, said=""))
    launch = replace(launch, code=parcel.digest(), environment=parcel.environment(launch.urls))
    driver.keep(run, launch)
    tar, file = _packed(run, launch, rental), run.path / "launch" / "rent.yaml"
    write_atomic(file, sky.text(sky.job(rental, launch, tar)))
    say(f"handing a job to SkyPilot, which takes minutes if its controller does not run yet; {rent.watched(run)}")
    words = sky.job_words(rental, file)
    code, said = rent.logged(run, words)
    if code:
        raise rent.failed(words, said)
    rent.keep(run, replace(rental, state="rented"))


def _packed(run: RunDir, launch: Launch, rental: Rental) -> Path:
    """What the machines get: the program, the launch, its recipe, which packages they need, and when all ends."""
    folder = run.path / "launch"
    most_s = launch.limits.get("most_s") if launch.limits else None
    ends = launch.began + most_s if most_s else time.time() + 3600 * rental.hours
    write_json(folder / "job.json", {"v": 1, "ends": ends})
    facts = driver.asked(launch)
    wanted = {name: facts[name] for name in ("launch", "environment", "modules", "requirements")}
    write_json(folder / "packages.json", wanted)
    files = parcel.files() | {f"launch/{name}.json": folder / f"{name}.json" for name in ("launch", "job", "packages")}
    if (folder / "recipe.toml").is_file():
        files["recipe.toml"] = folder / "recipe.toml"
    path = folder.absolute() / "job.tar"
    with tarfile.open(path, "w") as tar:
        for name, file in files.items():
            tar.add(file, name, recursive=False)
    return path


def _known(run: RunDir) -> tuple[Launch, Rental]:
    launch, rental = driver.known(run), rent.known(run)
    assert launch
    assert rental
    return launch, rental


def _alive(run: RunDir, rental: Rental, verb: str) -> Job:
    job = look(rental)
    if job is None or job.is_over:
        hint = f"eighteen status {run.path}"
        raise UsageError(f"{verb} {run.path}", got=str(job or "no job"), need="one that waits or trains", hint=hint)
    return job


def _finish(run: RunDir, job: Job | None) -> None:
    launch, rental = _known(run)
    note = mailbox(launch).read()
    rent.keep(run, replace(rental, state="returned"))
    if note.reason in FINAL and not note.goes_on:
        driver.keep_end(run, note.reason)
    if note.reason in DONE:
        return
    tried, hint = f"train {run.path.name}", "the same command goes on"
    if note.code == BudgetSpent.exit_code and note.reason not in ENDED:
        got, need = "the limit of --max-hours or --max-cost", "an end before it"
        raise BudgetSpent(tried, got=got, need=need, hint="the same command with a higher limit goes on")
    is_open = not (run.path / "launch" / "ended.json").exists()  # by eighteen down
    if mailbox(launch).is_to_stop() and is_open:
        raise Stopped(tried, got="a request to stop", need="to go on, later", hint=hint)
    reason = note.reason if note.reason in ENDED else None
    got = reason or "; ".join(filter(None, [str(job or "no job"), note.said]))
    raise ENDED.get(reason or "", MachineError)(
        tried, got=got, need="a run that comes to its end", hint=f"eighteen logs {run.path}"
    )
