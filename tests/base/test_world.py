import subprocess
import sys

import pytest

from eighteen.base.world import World, from_environment


@pytest.mark.parametrize("batch", [0, 1, 2, 5, 31, 32, 100, 2048])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_slices_are_the_whole_batch_and_split_no_pair(batch, size):
    slices = [World(rank=rank, size=size).slice(batch) for rank in range(size)]
    assert [position for part in slices for position in range(part.start, part.stop)] == list(range(batch))
    assert all(part.start % 2 == 0 for part in slices if part.start < batch)
    counts = [part.stop - part.start for part in slices]
    assert max(counts) - min(counts) <= 3  # a pair, and the odd one at the end


def test_world_comes_from_the_variables_of_torchrun():
    assert from_environment({}) == World()
    torchrun = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    assert from_environment(torchrun) == World(rank=5, size=8, local_rank=1, local_size=4)


def test_a_process_leaves_in_silence_where_its_reader_has_gone():
    code = "import sys; from eighteen.base.world import leave; sys.stdout.buffer.close(); leave(3)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (3, "")
