"""A launch on a cluster that Slurm looks after: the script of its job, and what follows from what is seen. Pure.

``slurm_job`` is what the script starts on the nodes, ``cluster`` submits it and follows. Each task of the job is one
rank, so that a signal of Slurm's reaches every rank once.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from eighteen.base import rundir
from eighteen.base.errors import Stopped, UsageError
from eighteen.base.world import FILE_STORE

DEFAULT = "default"  # as a partition: the one that the cluster takes by itself
LOG = "out.log"
ATTEMPT = "== attempt"  # how the log's line begins with which an attempt does
MOST_FAILURES = 3  # in a row, without a new checkpoint in between
WARNED_S = 120  # before the time limit, to save in
AROUND_S = 15 * 60  # what a time limit leaves beside the time that a run may take: to start, to save, to be late
PORTS = range(20_000, 30_000)  # where ranks meet: below those that systems give to connections
# what is asked for in other words, or what the launch rests on
OURS = {
    **dict.fromkeys(("nodes", "ntasks", "ntasks-per-node"), "--machines, --gpus or --procs"),
    **dict.fromkeys(("gpus", "gpus-per-node"), "--gpus"),
    "partition": "--slurm PARTITION",
    "time": "--hours",
    "job-name": "--name",
    **dict.fromkeys(("output", "error", "open-mode", "chdir", "array", "wrap", "no-requeue"), "nothing: leave it out"),
}
# reasons of a run's end that another attempt does not change
FINAL = {*rundir.FINAL, "cost", "DataError"}
REFUSED = r"^(RecipeError|UsageError|DataError): "


@dataclass(frozen=True)
class Job:
    """What was asked for, the same whenever it is submitted again.

    name: of the job, and of the run's folder      partition: "": the cluster's own choice
    machines: nodes      ranks: on each      device: what they compute on; any: a GPU if they find one
    python, folder: the program's, and where it is started; all nodes see both
    dataset: an absolute path, or a URL      words: of ``eighteen train``, without the dataset
    has_recipe: whether a recipe of its own lies in the launch's folder
    options: of sbatch, without their dashes      minutes: its time limit; None: the partition's
    code: digest of the program
    """

    name: str
    partition: str
    machines: int
    ranks: int
    device: Literal["gpu", "cpu", "any"]
    python: str
    folder: str
    dataset: str
    words: Sequence[str]
    has_recipe: bool
    options: Sequence[str]
    minutes: int | None
    code: str


def options(words: Sequence[str]) -> list[str]:
    """Options of sbatch as somebody wrote them, without dashes; UsageError for one that cannot be or is another's."""
    found = []
    for word in words:
        option = word.removeprefix("--")
        # nothing that the lines of a script would read as something else: no space, quote, # or backslash
        if not (parts := re.fullmatch(r"([a-z][a-z-]+)(=[^\s'\"#\\]+)?", option)):
            need, hint = "an option of sbatch, its long name", "--sbatch account=vision --sbatch exclusive"
            raise UsageError("--sbatch", got=repr(word), need=need, hint=hint)
        if parts[1] in OURS:
            raise UsageError("--sbatch", got=word, need="what eighteen does not ask for itself", hint=OURS[parts[1]])
        found.append(option)
    return found


def minutes(hours: float | None, time_s: float | None) -> int | None:
    """The job's time limit: what is asked for, or what a run of ``time_s`` needs; None: the partition's."""
    if hours is None:
        return None if time_s is None else math.ceil((time_s + AROUND_S) / 60)
    if not WARNED_S * 2 / 3600 <= hours < math.inf:
        got, need = f"{hours:g}", f"at least {WARNED_S * 2 / 3600:.2g}, of which {WARNED_S} s are for saving"
        raise UsageError("--hours", got=got, need=need, hint="--hours 12")
    return math.ceil(hours * 60)


def script(job: Job, run: str) -> str:
    """What sbatch is given, in the launch's folder. run: the run's folder, absolute"""
    here = [job.python, "-m", "eighteen.cloud.slurm_job"]
    asked = {
        "job-name": job.name,
        "partition": job.partition,
        "nodes": job.machines,
        "ntasks-per-node": job.ranks,
        "gpus-per-node": job.ranks if job.device == "gpu" else "",
        "time": job.minutes or "",
        "signal": f"TERM@{WARNED_S}",  # to the ranks, which save and end with 75
        "open-mode": "append",
        "output": LOG,
    }
    lines = ["#!/bin/sh", *(f"#SBATCH --{name}={value}" for name, value in asked.items() if value)]
    lines += ["#SBATCH --requeue", *(f"#SBATCH --{option}" for option in job.options), ""]
    lines += [f'echo "{ATTEMPT} $((1 + ${{SLURM_RESTART_COUNT:-0}})) on $SLURM_JOB_NODELIST"']
    lines += [f"run={shlex.quote(run)}", f"cd -- {shlex.quote(job.folder)} || exit 4"]
    lines += [f'code=$({shlex.join([*here, "begin"])} "$run") || exit']
    if job.machines == 1:  # its ranks meet in a file: nothing listens where others could reach it
        lines += ["meet=$(mktemp -d) || exit 4", "trap 'rm -rf -- \"$meet\"' EXIT", "trap 'exit 143' TERM"]
        lines += [f'export {FILE_STORE}="$meet/store" GLOO_SOCKET_IFNAME=lo NCCL_SOCKET_IFNAME=lo']
    if job.device == "cpu":
        lines += ["export CUDA_VISIBLE_DEVICES="]
    lines += ['if [ -e "$run/env.json" ]; then', '    set -- --resume "$run"', "else"]
    recipe = ' --recipe "$run/launch/recipe.toml"' if job.has_recipe else ""
    lines += [f'    set -- {shlex.join([job.dataset, *job.words])}{recipe} --into "$run"', "fi"]
    # no rank is ended while another still saves; each sees all processors of its machine, which they divide themselves
    cpus = '${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"}'
    lines += [f"srun --export=ALL --kill-on-bad-exit=0 --cpu-bind=none {cpus} \\"]
    lines += [f'    {shlex.join([*here, "rank"])} "$run" "$code" "$@"', f'{shlex.join([*here, "ended"])} "$run" $?']
    return "\n".join(lines) + "\n"


def rank_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What torch and ``base.world`` know a rank by, from what Slurm tells a task."""
    size, job = int(environ["SLURM_STEP_NUM_TASKS"]), int(environ["SLURM_JOB_ID"])
    restarts = int(environ.get("SLURM_RESTART_COUNT", 0))  # the port of an attempt before may still be taken
    return {
        "RANK": environ["SLURM_PROCID"],
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": environ["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": str(size // int(environ["SLURM_STEP_NUM_NODES"])),
        "MASTER_ADDR": environ["SLURM_LAUNCH_NODE_IPADDR"],  # of the script, which runs where the first rank does
        "MASTER_PORT": str(PORTS[(7 * job + restarts) % len(PORTS)]),
    }


@dataclass(frozen=True)
class Ended:
    """How an attempt ended.

    code: of srun: the highest of all ranks      reason: of the run's end, None if it told of none
    is_refused: something in it cannot be used, and was so before training began
    is_asked: a person has asked it to stop
    failures: how many attempts before it have failed in a row, and brought no newer checkpoint
    """

    code: int
    reason: str | None
    is_refused: bool
    is_asked: bool
    failures: int

    @property
    def is_warned(self) -> bool:
        """Whether it saved because Slurm wanted its machines back, or its time was over."""
        return self.code == Stopped.exit_code and self.reason == "stopped"


def goes_on(ended: Ended) -> bool:
    """Whether the job is put back into the queue."""
    if ended.code == 0 or ended.is_asked or ended.is_refused or ended.reason in FINAL:
        return False
    return ended.is_warned or ended.failures + 1 < MOST_FAILURES


def is_refused(log: str) -> bool:
    """Whether the last attempt in a job's log was refused: see ``Ended``."""
    return re.search(REFUSED, log.rpartition(f"{ATTEMPT} ")[2], re.MULTILINE) is not None


@dataclass(frozen=True)
class Queued:
    """A job as squeue tells of it, in the columns of ``FORMAT``."""

    number: int
    state: str
    why: str
    nodes: str

    @property
    def is_over(self) -> bool:
        return self.state in OVER

    def __str__(self) -> str:
        about = f" on {self.nodes}" if self.nodes else "" if self.why == "None" else f" ({self.why})"
        return f"job {self.number}: {self.state.lower()}{about}"


FORMAT = "%A|%T|%r|%N"
# what squeue calls jobs that come to nothing more; it forgets them after some minutes
OVER = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"}
OVER |= {"REVOKED", "TIMEOUT"}


def queued(text: str) -> Queued | None:
    """The newest job in squeue's answer; None if there is none."""
    rows = [line.split("|", 3) for line in text.splitlines()]
    return max((Queued(int(row[0]), *row[1:]) for row in rows), key=lambda one: one.number, default=None)


class Submitted(Protocol):
    @property
    def is_over(self) -> bool: ...


def next_action(job: Submitted | None, *, is_begun: bool, reason: str | None) -> Literal["follow", "submit", "finish"]:
    """What to do now.

    is_begun: whether this command has submitted the job, or has followed it      reason: of the run's end
    """
    if job is not None and not job.is_over:
        return "follow"
    return "finish" if is_begun or reason in FINAL else "submit"
