"""What becomes of processes that fail, or are told to stop: here they are small ones, which know no torch."""

from __future__ import annotations

import json
import signal
import sys

import pytest
from small_runs import happened, recipe

from eighteen.base import rundir
from eighteen.base.errors import DataError, Diverged, EighteenError, PeerLost
from eighteen.training import ranks, supervisor
from eighteen.training.ranks import Attempt, End
from eighteen.training.supervisor import Trials, worth_another

WAITS = "import signal; signal.sigwait({signal.SIGUSR1})"  # for what never comes
TOLD = "import json, pathlib, sys; pathlib.Path(sys.argv[1]).write_text(sys.argv[2]); sys.exit(int(sys.argv[3]))"
KILLED = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
BUG = "import sys; sys.exit(1)"
ITS_OWN = """
import json, os, sys
meeting = os.path.dirname(os.environ["EIGHTEEN_FILE_STORE"])
code, *arguments = json.loads(os.environ["PROGRAMS"])[int(os.environ["RANK"])]
sys.argv[1:] = [text.replace("MEETING", meeting) for text in arguments]
exec(code)
"""


@pytest.fixture
def run(tmp_path):
    return rundir.create(tmp_path, "run", recipe=recipe(), command="", environment={}).path


@pytest.fixture
def start(run, monkeypatch):
    """Ranks that run these programs, each ``[code, argument ...]`` of Python; arguments take MEETING."""

    def started(*programs, while_running=lambda: False, **options):
        monkeypatch.setattr(ranks, "command", lambda: [sys.executable, "-c", ITS_OWN])
        monkeypatch.setattr(ranks, "GRACE_S", 1.0)
        monkeypatch.setenv("PROGRAMS", json.dumps(programs))
        options = {"num_ranks": len(programs), "on_cpu": True, "while_running": while_running, **options}
        supervisor.start(run, run / "data", **options)

    return started


def told(number, error):
    text = json.dumps([type(error).__name__, [error.tried, error.got, error.need, error.hint]])
    return [TOLD, f"MEETING/error-{number}.json", text, str(error.exit_code)]


def test_ranks_that_end_well_raise_nothing(start):
    start([""], [""])


def test_a_killed_rank_is_a_lost_peer_even_where_the_others_fail_for_it(start, run):
    with pytest.raises(
        PeerLost, match=r"train on 2 ranks: got rank 1 killed by SIGKILL, 3 times in a row.*\n.*--resume"
    ):
        start([BUG], [KILLED])
    assert [(event["attempt"], event["reason"], event["world"]) for event in happened(run, "restart")] == [
        (2, "rank 1 killed by SIGKILL", 2),
        (3, "rank 1 killed by SIGKILL", 2),
    ]
    assert [(event["reason"], event["exit_code"]) for event in happened(run, "end")] == [("PeerLost", 7)]


def test_ranks_that_only_lost_each_other_are_started_again(start, run, tmp_path):
    lost = PeerLost("talk", got="silence", need="a peer", hint="wait")
    with pytest.raises(PeerLost, match="talk: got silence"):
        start(told(0, lost), told(1, lost))
    assert len(happened(run, "restart")) == 2


def test_a_rank_that_keeps_dying_is_left_out_where_fewer_will_do(start, run):
    """Its place is: of the three that were there the first and the last go on."""
    dies_on_1 = "import os, signal\nif os.environ['CUDA_VISIBLE_DEVICES'].split(',')[int(os.environ['RANK'])] == '1':\n"
    dies_on_1 += "    os.kill(os.getpid(), signal.SIGKILL)"
    start([dies_on_1], [dies_on_1], [dies_on_1], on_cpu=False, min_ranks=2)
    assert [(event["attempt"], event["world"]) for event in happened(run, "restart")] == [(2, 3), (3, 2)]


def test_a_stopped_rank_is_found_and_ended(start, run, monkeypatch):
    """Its heartbeat is silent. Here it has one only because its first word is long ago."""
    monkeypatch.setattr("eighteen.training.heartbeat.GENEROUS_S", -60.0)
    with pytest.raises(PeerLost, match="got rank 0 hung and rank 1 hung, 3 times in a row"):
        start([WAITS], [WAITS])


def test_a_rank_with_a_bug_is_named_with_its_exit_code(start):
    with pytest.raises(EighteenError, match=r"got rank 1 ended with exit code 1"):
        start([""], ["import sys; sys.exit(1)"])


def test_a_rank_that_fails_ends_those_that_would_wait_for_it(start):
    with pytest.raises(EighteenError, match="got rank 0 ended with exit code 1"):
        start(["import sys; sys.exit(1)"], [WAITS])


def test_the_error_that_a_rank_tells_is_raised_before_a_lost_peer(start):
    lost = PeerLost("talk", got="silence", need="a peer", hint="wait")
    bad = Diverged("step 7", got="3 losses", need="a finite loss", hint="a lower rate")
    with pytest.raises(Diverged, match=r"step 7: got 3 losses, need a finite loss.\n  Try: a lower rate") as raised:
        start(told(0, lost), told(1, bad))
    assert raised.value.exit_code == 5


def test_an_error_that_is_told_keeps_its_kind(start):
    with pytest.raises(DataError, match="read a shard"):
        start([""], told(1, DataError("read a shard", got="half", need="a whole one", hint="check")))


def test_the_first_rank_is_asked_to_stop_once(start):
    """It tells the others; asked by what is called while they run, which may ask again and again."""
    stops = "import signal; signal.sigwait({signal.SIGTERM})"
    start([stops], [""], while_running=lambda: True)


def test_ctrl_c_twice_ends_all_at_once(start):
    before = signal.getsignal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        start([WAITS], [WAITS], while_running=lambda: signal.raise_signal(signal.SIGINT))
    assert signal.getsignal(signal.SIGINT) is before


def test_what_is_called_while_ranks_run_is_called_after_their_end_too(start, tmp_path):
    """Or the last events would be missed."""
    seen = []
    start(
        [TOLD, str(tmp_path / "made"), "", "0"],
        while_running=lambda: seen.append((tmp_path / "made").exists()),
    )
    assert seen[-1]


KILL, TERM = -signal.SIGKILL, -signal.SIGTERM


@pytest.mark.parametrize(
    ("codes", "hung", "got_further", "whose"),
    [
        ((0, KILL), (), False, [1]),
        ((7, KILL, 1), (), True, [1]),
        ((None, KILL, TERM), (), True, [1, 2]),
        ((None, None), (1,), False, [1]),
        ((7, 7), (), False, [0, 1]),
        ((7, 1), (), True, [1]),
        ((7, 1), (), False, []),  # a bug that shows again and again
        ((7, 4), (), True, []),
        ((75, KILL), (), True, []),
        ((5, None), (), True, []),
    ],
)
def test_what_is_worth_another_attempt(codes, hung, got_further, whose):
    ends = [End(rank, code, rank in hung) for rank, code in enumerate(codes)]
    assert [end.rank for end in worth_another(Attempt(ends, False, []), got_further)] == whose
    assert worth_another(Attempt(ends, True, []), got_further) == []


def trials(places, min_ranks, **settings):
    return Trials(list(places), min_ranks, recipe().train.model_copy(update=settings))


def dead(*these):
    return [End(rank, KILL) for rank in these]


def test_three_attempts_in_a_row_without_getting_further_are_enough():
    ours = trials(range(2), 2)
    further = [True, False, False, True, False, False, False]
    assert [ours.another(dead(number % 2), one) for number, one in enumerate(further)] == [True] * 6 + [False]


def test_getting_further_is_a_later_step_or_a_later_checkpoint():
    ours = trials(range(2), 2)
    came = [(0, 0), (0, 7), (4, 6), (4, 7), (4, 8), (4, 8)]
    assert [ours.came_to(*one) for one in came] == [True, True, True, False, True, False]


def test_no_more_ranks_are_left_out_than_may_be():
    ours = trials(range(3), 2)
    for _ in range(2):
        assert ours.another(dead(1), False)
    assert ours.places == [0, 2]
    assert [ours.another(dead(1), False) for _ in range(3)] == [True, True, False]
    assert ours.places == [0, 2]


def test_ranks_that_share_virtual_workers_are_as_many_as_divide_them():
    ours = trials(range(8), 3, exact=True, virtual_workers=8)
    for _ in range(2):
        assert ours.another(dead(2), False)
    assert ours.places == [0, 1, 3, 4]
