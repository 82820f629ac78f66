"""What the script of a job (``slurm.script``) starts on the nodes: ``python -m eighteen.cloud.slurm_job VERB RUN ...``.

begin   once an attempt, before its ranks: prints the digest of the program that all are to have
rank    one task: becomes ``eighteen train``
ended   once an attempt, after its ranks: puts the job back into the queue, if that helps
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from eighteen.base import events
from eighteen.base.errors import MachineError, Stopped
from eighteen.base.files import write_json
from eighteen.base.rundir import RunDir
from eighteen.cloud import parcel
from eighteen.cloud.slurm import LOG, MOST_FAILURES, Ended, goes_on, is_refused, rank_environment

HELD = {signal.SIGTERM, signal.SIGUSR1}  # until the trainer listens, which lets them in


def begin(run: RunDir) -> int:
    code = parcel.digest()
    if code != json.loads((run.path / "launch" / "slurm.json").read_text("utf-8"))["code"]:
        print("warning: the program is another one than when the job was submitted", file=sys.stderr)
    print(code)
    return 0


def rank(run: RunDir, code: str, *words: str) -> int:
    """Does not return where it can train. code: the digest that ``begin`` printed"""
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    if stop_file(run).exists():  # asked for when no rank was there yet to be told
        return Stopped.exit_code
    if (ours := parcel.digest()) != code:
        got, hint = f"the program {ours}", "a checkout and an environment on a disk that all nodes share"
        error = MachineError(f"train on {socket.gethostname()}", got=got, need=f"{code}, as the others", hint=hint)
        print(error, file=sys.stderr)
        return error.exit_code
    os.environ.update(rank_environment(os.environ))
    os.execv(sys.executable, [sys.executable, "-m", "eighteen", "train", *words])


def ended(run: RunDir, code: str) -> int:
    """The attempt's exit code, after what follows from it."""
    step = (events.last(run.events, "checkpoint") or {}).get("step", 0)
    file = run.path / "launch" / "failures.json"
    before = json.loads(file.read_text("utf-8")) if file.exists() else {}
    failures = before["failures"] if before.get("step") == step else 0
    reason = (run.end() or {}).get("reason")
    refused = is_refused((run.path / "launch" / LOG).read_text("utf-8", errors="replace"))
    how = Ended(int(code), reason, refused, stop_file(run).exists(), failures)
    if not goes_on(how):
        print(f"ended with {code}")
        return how.code
    if not how.is_warned:
        write_json(file, {"v": 1, "step": step, "failures": failures + 1})
        print(f"failed with {code}, {failures + 1} of {MOST_FAILURES} times at step {step}")
    job = os.environ["SLURM_JOB_ID"]
    print(f"back into the queue, to go on from step {step}", flush=True)
    subprocess.run(["scontrol", "requeue", job], stdin=subprocess.DEVNULL)  # it ends us; what it refuses, it says
    return how.code


def stop_file(run: RunDir) -> Path:
    """There while a person wants the run stopped, and not begun again by itself."""
    return run.path / "launch" / "stop"


if __name__ == "__main__":
    verb, run, *more = sys.argv[1:]
    sys.exit({"begin": begin, "rank": rank, "ended": ended}[verb](RunDir(Path(run)), *more))
