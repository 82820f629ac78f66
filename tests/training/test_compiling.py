"""Compiling ahead: all shapes of a run before its first step, nothing after it, and no compiler no harm."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from small_runs import NUM_STEPS, distance, happened, make_job, model, saved, train
from test_step import steps

import eighteen
from eighteen.base.errors import Stopped
from eighteen.base.world import World
from eighteen.training import compiling, state
from eighteen.training.heartbeat import Heartbeat
from eighteen.training.train import torch_settings

PHASES = "phases=[{epochs=2, size=16, batch=26, min_scale=0.5}, {epochs=4, size=24, batch=30, min_scale=0.5}]"
NET = model("smooth")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """One for all tests, and not the user's."""
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.delenv(compiling.CACHE, raising=False)
    return folder / "eighteen" / "compiled"


@pytest.fixture(params=["aot_eager", pytest.param("inductor", marks=pytest.mark.soak)])
def backend(request, monkeypatch):
    """The compiler up to where it would make kernels, or, which takes a while, the whole of it."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=request.param))
    return request.param


def ahead(this, now):
    with torch_settings(this):
        told = compiling.compile_ahead(this, now, Heartbeat())
    return [facts for kind, facts in told if kind == "compile"], [facts for kind, facts in told if kind == "warning"]


def test_a_run_compiles_each_size_before_its_first_step_and_nothing_after_it(data, tmp_path, cache, backend):
    seen = []

    def on_event(event):
        seen.append(event["event"])
        if event["event"] == "phase":
            torch.compiler.set_stance("fail_on_recompile")

    try:
        run = train(data, tmp_path, NET, PHASES, "train.compile=true", on_event=on_event).run
    finally:
        torch.compiler.set_stance("default")
    assert [(event["size"], event["batch"]) for event in happened(run, "compile")] == [(16, 26), (24, 30)]
    assert all(event["seconds"] > 0 for event in happened(run, "compile"))
    assert seen.index("phase") > seen.index("compile") > seen.index("start")
    assert any(cache.rglob("*")) or backend != "inductor", "what was compiled is kept"
    eager = train(data, tmp_path / "eager", NET, PHASES).run
    assert not happened(eager, "compile")
    assert distance(saved(run), saved(eager)) < 1e-3


@pytest.mark.usefixtures("backend")
def test_it_leaves_everything_as_it_was(data, tmp_path):
    this = make_job(data, tmp_path, model("normed"), "train.compile=true")
    now = state.start(this)
    before = {name: tensor.clone() for name, tensor in now.model.state_dict().items()}
    random = torch.get_rng_state()
    told, warned = ahead(this, now)
    assert (len(told), warned) == (1, [])
    assert isinstance(now.net, compiling.Compiled)
    assert now.net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in now.model.state_dict().items())
    assert all(weight.grad is None for weight in now.weights)
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(
    "changes",
    [
        ("augment.translate=2", "augment.mixup=0.4", "augment.rotate=[-5, 5]"),
        ("train.micro_batch=10",),
        ("train.exact=true", "train.virtual_workers=4", "train.precision='bf16'"),
    ],
    ids=["augmented", "micro", "exact"],
)
def test_no_step_compiles_anew_whatever_was_done_to_its_pictures(data, tmp_path, changes, monkeypatch):
    this = make_job(data, tmp_path, NET, "train.compile=true", *changes)
    now = state.start(this)
    ahead(this, now)
    monkeypatch.setattr(state, "start", lambda _: now)
    torch.compiler.set_stance("fail_on_recompile")
    try:
        with torch_settings(this):  # a precision of float32 products that differs would do
            steps(this, 3)
    finally:
        torch.compiler.set_stance("default")
    assert now.step == 3


def test_a_shape_that_was_not_compiled_goes_through_the_net_as_it_is():
    net = torch.nn.Flatten()
    one = compiling.Compiled(net)
    one.shapes[torch.Size((2, 3, 8, 8))] = lambda images: -images.flatten(1)
    images = torch.rand(3, 3, 8, 8)
    assert torch.equal(one(images), images.flatten(1))
    assert torch.equal(one(images[:2]), -images[:2].flatten(1))


def test_without_a_compiler_the_run_goes_on_as_it_is_and_says_so(data, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "new"))
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("there-is-no-such-compiler",))
    run = train(data, tmp_path, NET, PHASES.replace("26", "22"), "train.compile=true").run
    (warning,) = (event["text"] for event in happened(run, "warning") if "compile" in event["text"])
    assert warning.startswith("compile the model for 16 px: ")
    assert "going on without" in warning
    assert not happened(run, "compile")
    assert happened(run, "end")[0]["reason"] == "done"
    eager = train(data, tmp_path / "eager", NET, PHASES.replace("26", "22")).run
    assert distance(saved(run), saved(eager)) == 0


def test_a_cache_that_cannot_be_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert compiling._cache() is None


@pytest.mark.parametrize(
    ("compile_", "device", "steps_left", "exact", "does"),
    [
        ("auto", "cpu", 10**9, "", False),
        ("auto", "cuda", 10**9, "", True),
        ("auto", "cuda", 10, "", False),
        ("auto", "cuda", 10**9, "train.exact=true", False),
        ("auto", "cuda", 10**9, "train.deterministic=true", False),
        ("true", "cpu", 1, "train.exact=true", True),
        ("false", "cuda", 10**9, "", False),
    ],
)
def test_auto_compiles_on_a_gpu_where_enough_is_to_come(data, tmp_path, compile_, device, steps_left, exact, does):
    value = compile_ if compile_ != "auto" else "'auto'"
    this = replace(
        make_job(data, tmp_path, f"train.compile={value}", *filter(None, [exact])), device=torch.device(device)
    )
    assert compiling.pays(this, compiling.Shape(16, 26, (26,), 16 * 16 * 26 * steps_left)) is does


@pytest.mark.parametrize(
    ("device", "ranks", "size", "counts", "mode"),
    [
        ("cuda", 1, 32, (26,), "reduce-overhead"),
        ("cpu", 1, 32, (26,), None),
        ("cuda", 2, 32, (13,), None),
        ("cuda", 1, 32, (13, 13), None),
        ("cuda", 1, 96, (26,), None),
    ],
)
def test_passes_over_tiny_pictures_are_captured_on_one_gpu(data, tmp_path, device, ranks, size, counts, mode):
    this = replace(make_job(data, tmp_path, world=World(0, ranks)), device=torch.device(device))
    assert compiling.mode_for(this, compiling.Shape(size, 26, counts, 1e9)) == mode


def test_the_shapes_of_a_run_are_those_still_to_come_in_the_shares_of_a_rank(data, tmp_path):
    phases = PHASES.replace("size=24", "size=[16, 48]")
    this = make_job(data, tmp_path, phases, world=World(1, 3))
    now = replace(state.start(make_job(data, tmp_path, phases)), parts=state.Slices(*_slices(this)))
    found = {(shape.size, shape.batch): shape.counts for shape in compiling.shapes_left(this, now)}
    assert found == {(16, 26): (8,), (16, 30): (10,), (48, 30): (10,)}
    later = replace(now, step=now.plan.num_steps - 1)
    assert [(shape.size, shape.pixels) for shape in compiling.shapes_left(this, later)] == [(48, 48**2 * 10)]


def test_a_run_with_a_time_has_as_many_pixels_to_come_as_it_has_time_for(data, tmp_path):
    this, longer = (make_job(data, tmp_path, PHASES, f"budget.seconds={seconds}") for seconds in (60, 6000))
    now = state.start(make_job(data, tmp_path, PHASES))
    few, many = ([shape.pixels for shape in compiling.shapes_left(job, now)] for job in (this, longer))
    assert sum(few) == pytest.approx(60 * compiling.PER_SECOND)
    assert many == pytest.approx([100 * pixels for pixels in few])
    assert compiling.shapes_left(this, replace(now, step=now.plan.num_steps)) == []


def _slices(this):
    net = torch.nn.Flatten()
    return net, torch.zeros(0), torch.zeros(0, dtype=torch.int64), this.world


@pytest.mark.soak
def test_two_ranks_compile_stop_and_go_on(data, tmp_path):
    changes = (NET, "train.compile=true", "optim.ema=0.9")
    with pytest.raises(Stopped):
        train(
            data,
            tmp_path,
            *changes,
            procs=2,
            on_event=lambda event: eighteen.STOP if event["event"] == "step" and event["step"] == 9 else None,
        )
    run = next((tmp_path / "runs").iterdir())
    assert eighteen.resume(run, procs=2).step == NUM_STEPS
    assert [(event["size"], event["batch"]) for event in happened(run, "compile")] == [(16, 26)] * 2
    assert not [event for event in happened(run, "warning") if "compile" in event["text"]]
    whole = train(data, tmp_path / "whole", *changes, procs=2).run
    for part in ("model", "ema", "optimizer"):
        assert distance(saved(run, part), saved(whole, part)) == 0
    eager = train(data, tmp_path / "eager", *changes, "train.compile=false", procs=2).run
    assert distance(saved(run), saved(eager)) < 1e-3
