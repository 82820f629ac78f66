"""What the doctor finds safe is taken up while a run trains, and nothing that is learned changes."""

from __future__ import annotations

import json

import pytest
from small_runs import differing, happened, saved, train

from eighteen.base import fixes, rundir


def asking(folder, fix):
    """Asks for a fix with the first step of the run in this folder, as somebody who looks on would."""
    asked = []

    def on_event(event):
        if event["event"] == "step" and not asked:
            asked.extend(folder.glob("runs/*"))
            fixes.ask(rundir.open(asked[0]), fix)

    return on_event


@pytest.mark.parametrize("options", [(), ("data.keep=never",)])
def test_threads_and_prefetch_change_at_the_end_of_an_epoch_and_no_weight_does(data, tmp_path, options):
    plain = train(data, tmp_path, "data.threads=1", *options).run
    fix = {"data.threads": 2, "data.prefetch": 5}
    run = train(
        data, tmp_path / "fixed", "data.threads=1", "train.fix=true", *options, on_event=asking(tmp_path / "fixed", fix)
    ).run
    (told,) = happened(run, "fixed")
    assert told["fixes"] == fix
    threads = {event["step"]: event["threads"] for event in happened(run, "step")}
    assert {count for step, count in threads.items() if step < told["step"]} == {1}
    assert {count for step, count in threads.items() if step > told["step"]} == {2}
    assert differing(saved(run), saved(plain)) == []


def test_a_recipe_that_does_not_let_it_is_left_alone(data, tmp_path):
    run = train(data, tmp_path, "data.threads=1", on_event=asking(tmp_path, {"data.threads": 2})).run
    assert happened(run, "fixed") == []
    assert {event["threads"] for event in happened(run, "step")} == {1}


def test_smaller_parts_hold_from_a_step_on_as_where_memory_runs_out(data, tmp_path):
    run = train(data, tmp_path, "train.fix=true", on_event=asking(tmp_path, {"train.micro_batch": 6})).run
    (told,) = happened(run, "fixed")
    assert json.loads((run / "room.json").read_text())["halvings"] == [[told["step"], 0, 6]]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"fixes": 3}', '{"fixes": {"data.threads": "x"}}'])
def test_a_file_that_says_something_else_asks_for_nothing(tmp_path, text):
    run = rundir.RunDir(tmp_path)
    assert fixes.asked(run) == {}
    run.fixes.write_text(text)
    assert fixes.asked(run) == {}
    fixes.ask(run, {"data.threads": 3})
    fixes.ask(run, {"data.prefetch": 4})
    assert fixes.asked(run) == {"data.threads": 3, "data.prefetch": 4}
