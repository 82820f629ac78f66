"""New processes of this machine as the ranks of a world, for as long as one question takes: a module and its arguments
go in, what the first rank printed comes out. They meet in a folder, and listen nowhere but on the loopback interface.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from eighteen.base.errors import MachineError
from eighteen.base.world import FILE_STORE
from eighteen.training.ranks import LOCAL_SOCKETS

LIMIT_S = 120.0


def asked(num_ranks: int, module: str, *arguments: str, on_cpu: bool) -> str:
    """What ``python -m module arguments``, on so many ranks, printed; MachineError with what they said if one fails."""
    with TemporaryDirectory(prefix="eighteen-") as folder, ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", module, *arguments],
                    env=os.environ | _environment(rank, num_ranks, Path(folder), on_cpu),
                    stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            for rank in range(num_ranks)
        ]
        try:
            told = [process.communicate(timeout=LIMIT_S) for process in processes]
        except subprocess.TimeoutExpired:
            told = [("", f"no answer for {LIMIT_S:g} s")]
        finally:
            for process in processes:
                process.kill()
    if any(process.returncode for process in processes):
        said = next((error.strip().splitlines()[-1] for _, error in told if error.strip()), "nothing")
        tried, need = f"ask {num_ranks} ranks for {module.rpartition('.')[2]}", "an answer"
        raise MachineError(tried, got=said, need=need, hint="see what the ranks said")
    return told[0][0]


def _environment(rank: int, size: int, folder: Path, on_cpu: bool) -> dict[str, str]:
    ranks = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size}
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if on_cpu else {}
    return (
        {name: str(value) for name, value in ranks.items()}
        | LOCAL_SOCKETS
        | hidden
        | {FILE_STORE: str(folder / "meet")}
    )
