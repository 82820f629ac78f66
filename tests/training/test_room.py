"""Runs that run out of memory: what becomes of the step, of the other ranks, and of the result."""

from __future__ import annotations

import json
import random
import shutil

import pytest
import torch
from small_runs import NUM_STEPS, differing, distance, happened, make_job, model, saved, train

import eighteen
from eighteen.base import rundir
from eighteen.base.errors import MachineError, Stopped
from eighteen.base.events import STOP
from eighteen.base.world import World
from eighteen.training import room
from eighteen.training import state as states
from eighteen.training.calibration import calibrate
from eighteen.training.step import train_step
from eighteen.training.train import torch_settings, train_loader


def cramped(*rooms: int, since: int = 0, net: str = "normed") -> tuple[str, ...]:
    return model("cramped"), f"model.args={{room={[*rooms]}, since={since}, net='{net}'}}"


def test_a_step_that_does_not_fit_is_taken_again_in_parts_half_as_large(data, tmp_path):
    run = train(data, tmp_path, *cramped(7)).run
    assert json.loads((run / "room.json").read_text())["halvings"] == [[0, 16, 13], [0, 16, 6]]
    told = [event["text"] for event in happened(run, "warning")]
    assert told == [f"memory ran out at step 0: parts of {size} pictures from here on" for size in (13, 6)]
    small = train(data, tmp_path, *cramped(7), "train.micro_batch=6").run
    assert not (small / "room.json").exists()
    assert differing(saved(run), saved(small)) == []
    assert len(happened(run, "step")) == NUM_STEPS


def test_each_phase_takes_parts_of_its_own(data, tmp_path):
    two = "phases=[{epochs=3, size=16, batch=26, min_scale=0.5}, {epochs=3, size=16, batch=26, min_scale=0.5}]"
    both = train(data, tmp_path / "both", two, model("normed"), "train.micro_batch=6").run
    own = train(data, tmp_path / "own", two, model("normed"), *(f"phases.{n}.micro_batch=6" for n in (0, 1))).run
    assert differing(saved(own), saved(both)) == []
    mixed = train(data, tmp_path / "mixed", two, model("normed"), "train.micro_batch=6", "phases.1.micro_batch=0").run
    assert differing(saved(mixed), saved(both)) != []
    ghosts = train(data, tmp_path / "ghosts", two, model("normed"), "train.ghost_batch=6", "phases.1.micro_batch=0").run
    assert differing(saved(ghosts), saved(both)) == [], "statistics are taken over as many as the recipe says"


def test_memory_that_runs_out_in_one_phase_leaves_smaller_parts_of_another_alone(data, tmp_path):
    sizes = "phases=[{epochs=3, size=16, batch=26}, {epochs=3, size=16, batch=26, micro_batch=4}]"
    run = train(data, tmp_path, *cramped(7), sizes).run
    assert json.loads((run / "room.json").read_text())["halvings"] == [[0, 16, 13], [0, 16, 6]]
    small = train(data, tmp_path, *cramped(7), sizes, "train.micro_batch=6").run
    assert differing(saved(run), saved(small)) == []


def test_memory_that_runs_out_at_one_size_leaves_smaller_pictures_whole(data, tmp_path, monkeypatch):
    """Also where it does while steps are only measured, before the first."""
    taken = set()

    def step(job, state, batch, now, **more):
        taken.add((now.size, now.micro_batch))
        if now.size == 32 and not 0 < now.micro_batch <= 13:
            raise torch.OutOfMemoryError("pretended")
        return train_step(job, state, batch, now, **more)

    monkeypatch.setattr(room, "train_step", step)
    this = make_job(data, tmp_path, "phases=[{epochs=3, size=16, batch=26}, {epochs=3, size=32, batch=26}]")
    state = states.start(this)
    calibrate(this, state, room=room.Room(this, state), afresh=True)
    assert taken == {(16, 0), (32, 0), (32, 13)}
    again = room.Room(this, state)
    with train_loader(this, state) as loader:
        for now, batch in loader:
            again.step(batch, now, count_hits=False, asks=(False, False, False))
    assert taken == {(16, 0), (32, 0), (32, 13)}
    assert json.loads(this.run.room.read_text())["halvings"] == [[0, 32, 13]]


def test_a_step_that_is_broken_off_leaves_nothing_behind(data, tmp_path):
    """Neither gradients nor running statistics: only rounding tells the runs apart, as a batch is cut otherwise."""
    plain = train(data, tmp_path, model("grouped")).run
    run = train(data, tmp_path, *cramped(13, since=9, net="grouped")).run
    assert json.loads((run / "room.json").read_text())["halvings"] == [[9, 16, 13]]
    ours = {name.removeprefix("net."): weight for name, weight in saved(run).items()}
    assert distance(ours, saved(plain)) < 1e-5
    this = make_job(data, tmp_path, *cramped(1))
    state = states.start(this)
    before = state.buffers.clone()
    with train_loader(this, state) as loader:
        now, batch = next(loader)
    with torch_settings(this), pytest.raises(MachineError):
        room.Room(this, state).step(batch, now, count_hits=False, asks=(False, False, False))
    assert torch.equal(state.buffers, before)
    assert all(weight.grad is None for weight in state.weights)


def test_a_run_that_is_resumed_takes_parts_as_large_as_it_did(data, tmp_path):
    whole = train(data, tmp_path / "whole", *cramped(13, since=14)).run
    with pytest.raises(Stopped):
        train(data, tmp_path, *cramped(13, since=14), on_event=lambda event: STOP if event.get("step") == 15 else None)
    (run,) = (tmp_path / "runs").iterdir()
    for newest in (run / "checkpoints").glob("step-00001[4-9]"):
        shutil.rmtree(newest)
    eighteen.resume(run, data=data.path)
    assert happened(run, "resume")[-1]["step"] == 12
    assert differing(saved(run), saved(whole)) == []


def test_the_smallest_parts_that_do_not_fit_end_the_run_with_what_to_do(data, tmp_path):
    with pytest.raises(MachineError, match=r"take step 0 in parts of 3: got .*can't allocate memory"):
        train(data, tmp_path, *cramped(1))
    (run,) = (tmp_path / "runs").iterdir()
    assert happened(run, "end")[0]["exit_code"] == 4


def test_an_exact_run_is_not_cut_otherwise(data, tmp_path):
    exact = ("train.exact=true", "train.virtual_workers=2", "train.deterministic=true")
    with pytest.raises(MachineError, match="virtual worker"):
        train(data, tmp_path, *cramped(7), *exact)


def test_another_failure_of_torch_is_not_taken_for_it(data, tmp_path):
    assert not room.is_out_of_memory(RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match=r"too large|can't allocate") as error:
        torch.empty(2**52)
    assert room.is_out_of_memory(error.value)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"halvings": 3}', '{"halvings": [["a", 2, 2]]}', '{"halvings": [[1, 1, 1]]}']
)
def test_a_file_that_says_something_else_says_nothing(tmp_path, text):
    (tmp_path / "room.json").write_text(text)
    assert room.read(tmp_path / "room.json") == []


def test_ranks_with_different_memory_go_on_together(data, tmp_path):
    run = train(data, tmp_path, *cramped(13, 4), procs=2).run
    restarts = happened(run, "restart")
    assert [event["reason"] for event in restarts] == ["rank 1 ran out of memory"] * len(restarts)
    assert 1 <= len(restarts) <= 3
    assert {step["step"] for step in happened(run, "step")} == {*range(NUM_STEPS)}
    assert room.read(rundir.open(run).room)[-1][-1] <= 4


@pytest.mark.soak
def test_ranks_with_any_memory_end_alike(data, tmp_path):
    """100 random cases on 1 to 4 ranks: none hangs, all take parts that fit on all, and none runs out again."""
    draw = random.Random(18)
    for case in range(100):
        procs = draw.randint(1, 4)
        rooms = [draw.choice([2, 3, 4, 6, 9, 13, 26]) for _ in range(procs)]
        folder = tmp_path / str(case)
        run = train(data, folder, *cramped(*rooms, since=draw.choice([0, 5]), net="grouped"), procs=procs).run
        found = room.read(rundir.open(run).room)
        shares = [World(rank, procs).slice(26) for rank in range(procs)]
        needs = any(share.stop - share.start > most for share, most in zip(shares, rooms, strict=True))
        assert bool(found) == needs, (rooms, found)
        assert not found or found[-1][-1] <= min(rooms)
        assert happened(run, "end")[-1]["exit_code"] == 0
