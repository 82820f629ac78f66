from eighteen.base.events import Follower, append, event, read


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
