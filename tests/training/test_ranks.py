"""What becomes of processes that fail, or are told to stop: here they are small ones, which know no torch."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from eighteen.base.errors import DataError, Diverged, EighteenError, PeerLost
from eighteen.training import ranks

WAITS = "import signal; signal.sigwait({signal.SIGUSR1})"  # for what never comes
TOLD = "import json, pathlib, sys; pathlib.Path(sys.argv[1]).write_text(sys.argv[2]); sys.exit(int(sys.argv[3]))"


def start(monkeypatch, *programs, while_running=lambda: False):
    """Ranks that run these programs, each ``[code, argument ...]`` of Python; arguments take {meeting}."""

    def rank(run, dataset, number, size, store, on_cpu):
        code, *arguments = programs[number]
        command = [sys.executable, "-c", code, *(text.replace("MEETING", str(store.parent)) for text in arguments)]
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # as the real one does, or it could come too early
        try:
            return subprocess.Popen(command, start_new_session=True)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    monkeypatch.setattr(ranks, "_rank", rank)
    monkeypatch.setattr(ranks, "GRACE_S", 1.0)
    ranks.start(Path("run"), Path("data"), num_ranks=len(programs), on_cpu=True, while_running=while_running)


def told(number, error):
    text = json.dumps([type(error).__name__, [error.tried, error.got, error.need, error.hint]])
    return [TOLD, f"MEETING/error-{number}.json", text, str(error.exit_code)]


def test_ranks_that_end_well_raise_nothing(monkeypatch):
    start(monkeypatch, [""], [""])


def test_a_killed_rank_is_a_lost_peer_even_where_the_others_fail_for_it(monkeypatch):
    killed = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(PeerLost, match=r"train on 2 ranks: got rank 1 killed by SIGKILL.*\n.*--resume"):
        start(monkeypatch, ["import sys; sys.exit(1)"], [killed])


def test_a_rank_with_a_bug_is_named_with_its_exit_code(monkeypatch):
    with pytest.raises(EighteenError, match=r"got rank 1 ended with exit code 1"):
        start(monkeypatch, [""], ["import sys; sys.exit(1)"])


def test_a_rank_that_fails_ends_those_that_would_wait_for_it(monkeypatch):
    with pytest.raises(EighteenError, match="got rank 0 ended with exit code 1"):
        start(monkeypatch, ["import sys; sys.exit(1)"], [WAITS])


def test_the_error_that_a_rank_tells_is_raised_before_a_lost_peer(monkeypatch):
    lost = PeerLost("talk", got="silence", need="a peer", hint="wait")
    bad = Diverged("step 7", got="3 losses", need="a finite loss", hint="a lower rate")
    with pytest.raises(Diverged, match=r"step 7: got 3 losses, need a finite loss.\n  Try: a lower rate") as raised:
        start(monkeypatch, told(0, lost), told(1, bad))
    assert raised.value.exit_code == 5


def test_an_error_that_is_told_keeps_its_kind(monkeypatch):
    with pytest.raises(DataError, match="read a shard"):
        start(monkeypatch, [""], told(1, DataError("read a shard", got="half", need="a whole one", hint="check")))


def test_the_first_rank_is_asked_to_stop_once(monkeypatch):
    """It tells the others; asked by what is called while they run, which may ask again and again."""
    stops = "import signal; signal.sigwait({signal.SIGTERM})"
    start(monkeypatch, [stops], [""], while_running=lambda: True)


def test_ctrl_c_twice_ends_all_at_once(monkeypatch):
    before = signal.getsignal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        start(monkeypatch, [WAITS], [WAITS], while_running=lambda: signal.raise_signal(signal.SIGINT))
    assert signal.getsignal(signal.SIGINT) is before


def test_what_is_called_while_ranks_run_is_called_after_their_end_too(monkeypatch, tmp_path):
    """Or the last events would be missed."""
    seen = []
    start(
        monkeypatch,
        [TOLD, str(tmp_path / "made"), "", "0"],
        while_running=lambda: seen.append(list(tmp_path.iterdir())),
    )
    assert seen[-1] == [tmp_path / "made"]
