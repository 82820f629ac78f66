"""A disk that does not answer: the consumer hears what is waited for, and can go on or stop."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from eighteen.data import dataset as datasets
from eighteen.data.pack import pack

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(sys.platform != "linux" or not shutil.which("c++"), reason="slows reads down with LD_PRELOAD"),
]

# Reads from SLOW_OFFSET wait as long as the file SLOW_GATE is there.
SHIM = r"""
#include <cstdlib>
#include <dlfcn.h>
#include <unistd.h>

static ssize_t slow(const char *name, int file, void *bytes, size_t length, off64_t offset) {
  static const char *gate = getenv("SLOW_GATE");
  static const off64_t where = atoll(getenv("SLOW_OFFSET"));
  while (offset == where && access(gate, F_OK) == 0) usleep(5000);
  using Read = ssize_t (*)(int, void *, size_t, off64_t);
  return reinterpret_cast<Read>(dlsym(RTLD_NEXT, name))(file, bytes, length, offset);
}
extern "C" ssize_t pread(int f, void *b, size_t n, off_t o) { return slow("pread", f, b, n, o); }
extern "C" ssize_t pread64(int f, void *b, size_t n, off64_t o) { return slow("pread64", f, b, n, o); }
"""

PROGRAM = """
import sys
from pathlib import Path

import torch

from eighteen.base.errors import Stalled
from eighteen.base.order import Order
from eighteen.base.recipe import Augment, parse
from eighteen.base.schedule import schedule
from eighteen.base.world import World
from eighteen.data import dataset
from eighteen.data.loader import TrainLoader

path, gate, then = sys.argv[1:]
split = dataset.open(path).splits["train"]
tree = {"name": "t", "model": {"name": "none"}, "optim": {"batch": 1, "lr": [[0, 0.1], [1, 0]]}, "eval": {"size": 32}}
plan = schedule(parse({**tree, "phases": [{"epochs": 1, "size": 32, "batch": 12}]}), split.num_samples)
loader = TrainLoader(
    split, plan, Order(0, split.num_samples), World(), augment=Augment(), device=torch.device("cpu"), channels=3,
    patience_s=0.2,
)
with loader:
    batches = 0
    while True:
        try:
            batches += len(next(loader)[1].ids) > 0
        except Stalled as late:
            print(late, flush=True)
            if then == "stop":
                break
            Path(gate).unlink()
        except StopIteration:
            break
print("ended after", batches, "of", plan.num_steps, "batches", flush=True)
"""


@pytest.fixture(scope="module")
def run(pictures, tmp_path_factory):
    """Run PROGRAM, to go on or to stop, while sample 7 cannot be read."""
    folder = tmp_path_factory.mktemp("stalls")
    (folder / "shim.cpp").write_text(SHIM)
    subprocess.run(["c++", "-shared", "-fPIC", "-o", folder / "shim.so", folder / "shim.cpp", "-ldl"], check=True)
    pack(pictures, folder / "slow.e18", procs=1)
    offset = datasets.open(folder / "slow.e18").splits["train"].renditions["full"].index["offset"][7]

    def start(then: str) -> str:
        gate: Path = folder / "gate"
        gate.touch()
        slow = {"LD_PRELOAD": str(folder / "shim.so"), "SLOW_GATE": str(gate), "SLOW_OFFSET": str(offset)}
        command = [sys.executable, "-c", PROGRAM, folder / "slow.e18", gate, then]
        return subprocess.run(
            command, env={**os.environ, **slow}, check=True, capture_output=True, text=True, timeout=60
        ).stdout

    return start


STALLED = "Stalled: read sample 7 of train/full-00000.tar in "


def test_the_consumer_hears_what_is_waited_for_and_goes_on(run):
    told = run("go on")
    assert told.startswith(STALLED)
    assert told.endswith("ended after 9 of 9 batches\n")


def test_the_process_ends_although_a_read_is_stuck(run):
    told = run("stop")
    assert told.startswith(STALLED)
    assert "ended after" in told
