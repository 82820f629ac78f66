"""What a managed job of SkyPilot's does on each of its machines: ``python -m eighteen.cloud.managed_job``, in the
folder that ``managed`` has sent.

torch's launcher trains there, going on from the newest copy of a checkpoint. The first machine's exit code is the
job's: with ``RELAUNCH`` SkyPilot rents anew and begins once more. All others end with 0 whatever they saw, since it
kills the rest of a job when one machine's part fails, and the first may still be saving.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import IO

from eighteen.base import events
from eighteen.base.errors import BudgetSpent, EighteenError, MachineError, Stopped
from eighteen.base.rundir import RunDir
from eighteen.cloud import agent, driver
from eighteen.cloud.launch import Launch, words_of
from eighteen.cloud.launcher import ENDED, last_line
from eighteen.cloud.limits import GRACE_S
from eighteen.cloud.mailbox import Mailbox, Note
from eighteen.cloud.managed import mailbox
from eighteen.cloud.sky import RELAUNCH
from eighteen.cloud.slurm import REFUSED, Ended, goes_on

POLL_S = 1.0  # between two looks at the clock
ASK_S = 10.0  # between two looks whether somebody wants it to stop
KEPT = 400  # lines of what is printed


def train(home: Path, environ: Mapping[str, str]) -> int:
    """One attempt, to its end: this machine's exit code."""
    launch = driver.known(RunDir(home))
    assert launch, "it was sent"
    ends = json.loads((home / "launch" / "job.json").read_text("utf-8"))["ends"]
    box, number = mailbox(launch), int(environ["SKYPILOT_NODE_RANK"])
    before = box.read()
    if not before.goes_on or box.is_to_stop():
        return before.code
    if time.time() > ends:
        box.write(replace(before, reason="stopped", goes_on=False, code=BudgetSpent.exit_code))
        return BudgetSpent.exit_code
    run, is_copied = RunDir(home / "runs" / launch.name), box.step() is not None
    if not is_copied:  # on all machines: they wait for each other before the first can copy anything
        shutil.rmtree(run.path, ignore_errors=True)
    elif number == 0:
        box.bring(run)
    launch = replace(launch, hosts=environ["SKYPILOT_NODE_IPS"].split(), attempt=before.attempt + 1)
    ranks = launch.ranks or max(1, int(environ.get("SKYPILOT_NUM_GPUS_PER_NODE", 0)))
    code, said, is_late = _trained(home, launch, number, ranks, box, ends, is_copied=is_copied)
    if number:
        return 0
    if run.path.exists():
        box.send(run)
    told = run.events.exists()
    step = (events.last(run.events, "checkpoint") or {}).get("step", 0) if told else 0
    reason = (run.end() or {}).get("reason") if told else None
    refusal = None if reason else re.search(REFUSED, said, re.MULTILINE)
    reason = refusal[1] if refusal else reason
    failures = before.failures if before.step == step else 0
    how = Ended(
        Stopped.exit_code if reason == "stopped" else code, reason, refusal is not None, box.is_to_stop(), failures
    )
    note = noted(how, attempt=launch.attempt, step=step, is_late=is_late, said=said)
    if note.goes_on:
        print(f"attempt {note.attempt} ended with {reason or code}; SkyPilot is asked for another", flush=True)
    box.write(note)
    return note.code


def noted(how: Ended, *, attempt: int, step: int, is_late: bool, said: str) -> Note:
    """What follows from the end of an attempt.

    step: of its last checkpoint      is_late: whether the limit of all ended it      said: all that it printed
    """
    goes = not is_late and goes_on(how)
    failures = how.failures + (how.code != 0 and not how.is_warned)
    if goes:
        code = RELAUNCH
    elif is_late:
        code = BudgetSpent.exit_code
    elif how.code == 0 or how.is_asked:
        code = 0
    else:
        code = ENDED.get(how.reason or "", MachineError).exit_code
    return Note(attempt, how.reason, step, failures, goes, code, last_line(said) if how.code else "")


def _trained(
    home: Path, launch: Launch, number: int, ranks: int, box: Mailbox, ends: float, *, is_copied: bool
) -> tuple[int, str, bool]:
    """The launcher's exit code, the end of what it printed, and whether it was ended by the limit of all.

    is_copied: whether a copy of a checkpoint is gone on with
    """
    words = words_of(replace(launch, run=launch.name if is_copied else ""), launch.hosts[number], ranks, is_there=False)
    words += [] if is_copied else ["--into", f"runs/{launch.name}"]
    environment = os.environ | {"EIGHTEEN_LAUNCH": str(agent.HOME / "launches" / launch.name)}
    lines, asked_s, looked_s = deque[str](maxlen=KEPT), None, time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *words],
        cwd=home,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout
    teller = Thread(target=_tell, args=(process.stdout, lines))
    teller.start()
    end = {"launch": launch.name}
    while process.poll() is None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(POLL_S)
        is_late = time.time() > ends
        is_asked = is_late
        if number == 0 and time.monotonic() - looked_s > ASK_S:
            looked_s = time.monotonic()
            with suppress(MachineError):
                is_asked = is_late or box.is_to_stop()
        if is_asked and asked_s is None:  # the ranks of all machines save as one of them does
            asked_s = time.monotonic()
            agent.end({**end, "gently": True})
        if asked_s is not None and time.monotonic() - asked_s > GRACE_S:
            agent.end({**end, "gently": False})
    teller.join()
    return process.returncode, "".join(lines), asked_s is not None and time.time() > ends


def _tell(source: IO[str], lines: deque[str]) -> None:
    for line in source:
        print(line, end="", flush=True)
        lines.append(line)


def main() -> int:
    try:
        return train(Path.cwd(), os.environ)
    except EighteenError as error:  # of the place where copies are
        print(error, file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
