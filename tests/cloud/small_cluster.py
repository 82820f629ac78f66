"""A cluster of two nodes on this machine: Debian's munged, slurmctld and slurmd in the foreground, all in one folder.

Everything listens on loopback; a job of the partition ``urgent`` takes the nodes away from one of ``work``.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")
ENOUGH_S = 60.0

CONFIGURATION = """\
ClusterName=small
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,bf_interval=1
JobAcctGatherType=jobacct_gather/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=60
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2
PartitionName=work Nodes=n1,n2 Default=YES State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=urgent Nodes=n1,n2 State=UP PriorityTier=10 PreemptMode=OFF
"""


def why_not() -> str | None:
    """Why there can be no cluster here."""
    if os.geteuid() != 0:
        return "slurmd needs root"
    missing = [name for name in NEEDED if shutil.which(name) is None]
    return f"{' and '.join(missing)} not found: apt-get install slurm-wlm munge" if missing else None


@contextmanager
def cluster(folder: Path) -> Iterator[None]:
    """While the block lasts Slurm's commands find it. TimeoutError, with what it said, if it does not begin."""
    (folder / "state").mkdir()
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    configuration = folder / "slurm.conf"
    host = socket.gethostname().partition(".")[0]
    configuration.write_text(CONFIGURATION.format(folder=folder, host=host, ports=_free_ports(3)))
    os.environ["SLURM_CONF"] = str(configuration)
    munge = [
        f"--{name}={folder}/munge.{name.partition('-')[0]}"
        for name in ("key-file", "pid-file", "log-file", "seed-file")
    ]
    with ExitStack() as stack:
        stack.callback(os.environ.pop, "SLURM_CONF")
        begin = _beginner(folder, stack)
        begin("munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *munge)
        wait(lambda: (folder / "munge.socket").exists(), "munged to listen", folder)
        begin("slurmctld", "-D", "-f", str(configuration))
        begin("slurmd", "-D", "-N", "n1", "-f", str(configuration))
        begin("slurmd", "-D", "-N", "n2", "-f", str(configuration))
        stack.callback(_empty)  # its jobs are no children of its daemons
        wait(
            lambda: said("sinfo", "--noheader", "--partition=work", "--format=%D %t").strip() == "2 idle",
            "idle nodes",
            folder,
        )
        yield


def said(*words: str) -> str:
    return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True).stdout


def wait(is_so: Callable[[], object], what: str, folder: Path | None = None) -> None:
    end = time.monotonic() + ENOUGH_S
    while not is_so():
        if time.monotonic() > end:
            told = (
                [f"{path.name}: {path.read_text()[-500:]}" for path in sorted(folder.glob("*.out"))] if folder else []
            )
            raise TimeoutError("\n".join([f"no {what} in {ENOUGH_S:g} s", *told]))
        time.sleep(0.1)


def _beginner(folder: Path, stack: ExitStack) -> Callable[..., None]:
    def begin(*words: str) -> None:
        with (folder / f"{len(list(folder.glob('*.out')))}-{words[0]}.out").open("wb") as file:
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)
        stack.callback(process.wait)
        stack.callback(process.terminate)

    return begin


def _empty() -> None:
    said("scancel", "--me")
    wait(lambda: not said("squeue", "--noheader").strip(), "empty queue")


def _free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
