import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from eighteen.base.errors import UsageError
from eighteen.base.events import append
from eighteen.results.tensorboard import TensorBoard, rebuild

BATCH = 32


def _step(step, **facts):
    waits = {"data": 0.25, "compute": 0.75}
    known = {
        "samples": step * BATCH,
        "loss": 4.0 / step,
        "lr": 0.5,
        "images_per_s": 1000.0,
        "size": 96,
        "batch": BATCH,
        "waits": waits,
        "epoch": step / 10,
    }
    return {"v": 1, "event": "step", "time_s": 1000.0 + step, "step": step, **known, **facts}


def _eval(step, top1):
    return {
        "v": 1,
        "event": "eval",
        "time_s": 1000.5 + step,
        "step": step,
        "samples": step * BATCH,
        "split": "val",
        "loss": 0.5,
        "top1": top1,
        "top5": 1.0,
    }


def _read(logdir):
    accumulator = EventAccumulator(str(logdir), size_guidance={"scalars": 0})
    accumulator.Reload()
    return {
        tag: [(e.step, e.wall_time, e.value) for e in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]
    }


def _run(logdir, events):
    with TensorBoard(logdir) as board:
        for event in events:
            board(event)


def test_x_is_samples_seen_and_wall_time_the_events(tmp_path):
    _run(
        tmp_path,
        [
            {"event": "start", "time_s": 1000.0, "v": 1},
            _step(1),
            _step(2),
            _eval(2, 0.75),
            {"event": "end", "time_s": 1003.0, "v": 1},
        ],
    )
    read = _read(tmp_path)
    assert read["train/loss"] == [(32, 1001.0, 4.0), (64, 1002.0, 2.0)]
    assert read["val/top1"] == [(64, 1002.5, 0.75)]
    assert read["time/data"] == [(32, 1001.0, 0.25), (64, 1002.0, 0.25)]
    assert set(read) == {
        *("train/loss", "train/lr", "train/images_per_s", "train/size", "train/batch", "train/epoch"),
        *("time/data", "time/compute", "val/loss", "val/top1", "val/top5"),
    }


def test_cost_and_energy_are_drawn_where_they_are_known(tmp_path):
    _run(tmp_path, [_step(1, cost_usd=0.5, energy_j=None), _step(2, cost_usd=1.0, energy_j=36.0)])
    read = _read(tmp_path)
    assert read["machine/cost_usd"] == [(32, 1001.0, 0.5), (64, 1002.0, 1.0)]
    assert read["machine/energy_j"] == [(64, 1002.0, 36.0)]


def test_missing_facts_write_no_point(tmp_path):
    _run(tmp_path, [_step(1, loss=None), _step(2), {"v": 1, "event": "step", "time_s": 1.0, "step": 3}])
    assert [step for step, _, _ in _read(tmp_path)["train/loss"]] == [64]


def test_a_resumed_run_replaces_the_steps_after_its_checkpoint(tmp_path):
    _run(tmp_path, [_step(1), _step(2), _step(3), _eval(3, 0.25)])
    resumed = [
        {"event": "resume", "time_s": 2000.0, "v": 1, "step": 1},
        _step(2, loss=9.0),
        _step(3, loss=8.0),
        _eval(3, 0.5),
    ]
    with TensorBoard(tmp_path) as board:
        for event in resumed:
            board(event)
    read = _read(tmp_path)
    assert [(step, value) for step, _, value in read["train/loss"]] == [(32, 4.0), (64, 9.0), (96, 8.0)]
    assert [value for _, _, value in read["val/top1"]] == [0.5]


def test_rebuilt_from_events_is_what_was_written_live(tmp_path):
    events = [
        _step(1),
        _step(2),
        _eval(2, 0.25),
        {"event": "resume", "time_s": 2000.0, "v": 1, "step": 1},
        _step(2, loss=9.0),
        _eval(2, 0.5),
    ]
    for event in events:
        append(tmp_path / "events.jsonl", event)
    _run(tmp_path / "live", events)
    assert rebuild(tmp_path / "events.jsonl", tmp_path / "rebuilt") == len(events)
    assert _read(tmp_path / "rebuilt") == _read(tmp_path / "live")
    assert _read(tmp_path / "rebuilt")["train/loss"] == [(32, 1001.0, 4.0), (64, 1002.0, 9.0)]


def test_rebuild_does_not_mix_with_files_that_are_there(tmp_path):
    _run(tmp_path, [_step(1)])
    with pytest.raises(UsageError, match="got a folder that has some, need a new folder"):
        rebuild(tmp_path / "events.jsonl", tmp_path)
