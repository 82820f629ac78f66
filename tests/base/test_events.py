import pytest

from eighteen.base.events import Follower, append, event, last, mend, read, standing


def test_events_come_back_in_order_and_whole(tmp_path):
    log = tmp_path / "events.jsonl"
    for step in range(3):
        append(log, event("step", step=step, text="zwölf\nnew line"))
    with log.open("ab") as file:
        file.write(b'{"event": "step", "ste')  # somebody is still writing
    assert [found["step"] for found in read(log)] == [0, 1, 2]
    assert all(found["v"] == 1 and found["event"] == "step" and found["time_s"] > 0 for found in read(log))


def test_follower_returns_each_event_once(tmp_path):
    log = tmp_path / "events.jsonl"
    follower = Follower(log)
    assert follower.new() == []
    append(log, event("a"))
    assert [found["event"] for found in follower.new()] == ["a"]
    with log.open("ab") as file:
        file.write(b'{"event": "half"')
        file.flush()
        assert follower.new() == []
        file.write(b"}\n")
    assert follower.new() == [{"event": "half"}]


def told(path, *kinds_and_steps):
    for kind, step in kinds_and_steps:
        append(path, event(kind, step=step))


def test_what_follows_a_resume_replaces_what_was_told_of_later_steps(tmp_path):
    told(tmp_path / "e", ("step", 3), ("epoch", 3), ("checkpoint", 4), ("step", 4), ("skip", 5), ("checkpoint", 6))
    append(tmp_path / "e", event("warning", text="slow"))
    told(tmp_path / "e", ("end", 6), ("resume", 4), ("step", 4), ("step", 5))
    kept = [(one["event"], one.get("step")) for one in standing(read(tmp_path / "e"))]
    before = [("step", 3), ("epoch", 3), ("checkpoint", 4), ("warning", None)]
    assert kept == [*before, ("resume", 4), ("step", 4), ("step", 5)]


def test_an_end_that_does_not_know_its_step_stands(tmp_path):
    append(tmp_path / "e", event("end", reason="Stopped", exit_code=75))
    told(tmp_path / "e", ("resume", 4))
    assert [one["event"] for one in standing(read(tmp_path / "e"))] == ["end", "resume"]


def test_the_last_event_of_a_kind_is_found_also_before_a_line_that_was_cut(tmp_path):
    assert last(tmp_path / "e", "end") is None
    told(tmp_path / "e", ("start", 1), ("end", 1), ("start", 2), ("step", 2))
    assert last(tmp_path / "e", "eval") is None
    with (tmp_path / "e").open("a") as file:
        file.write('{"v": 1, "event": "end", "st')
    found = last(tmp_path / "e", "start", "end")
    assert found
    assert (found["event"], found["step"]) == ("start", 2)


@pytest.mark.parametrize("tail", [b"", b"{", b'{"v": 1, "event": "step"}'])
def test_a_line_that_was_cut_is_taken_off_before_the_next_is_written(tmp_path, tail):
    mend(tmp_path / "e")
    told(tmp_path / "e", ("step", 1))
    with (tmp_path / "e").open("ab") as file:
        file.write(tail)
    mend(tmp_path / "e")
    told(tmp_path / "e", ("step", 2))
    assert [one["step"] for one in read(tmp_path / "e")] == [1, 2]
