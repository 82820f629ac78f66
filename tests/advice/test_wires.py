"""All-reduces between real processes."""

from __future__ import annotations

import sys

import pytest

from eighteen.advice import peers, wires
from eighteen.base.errors import MachineError


def test_ranks_that_are_started_reduce_small_and_large_tensors():
    found = wires.here(2, 4096, on_cpu=True)
    assert {size: len(times) for size, times in found.items()} == {4: wires.ROUNDS[True], 4096: wires.ROUNDS[False]}
    assert all(0 < seconds < 30 for times in found.values() for seconds in times)


def test_ranks_that_fail_or_hang_are_an_error_and_leave_nothing_behind(monkeypatch, tmp_path):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho 'no such network' >&2; exit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(MachineError, match="no such network"):
        wires.here(2, 4096, on_cpu=True)
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(peers, "LIMIT_S", 0.2)
    with pytest.raises(MachineError, match=r"no answer for 0\.2 s"):
        wires.here(2, 4096, on_cpu=True)
