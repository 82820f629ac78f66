"""The doctor's rules, as tables: what was seen, what is found first, and what is foretold."""

from __future__ import annotations

from dataclasses import replace

import pytest

from eighteen.advice import evidence
from eighteen.advice.doctor import diagnose
from eighteen.advice.evidence import Evidence, Pauses, Pictures, Setup, Trials, Window
from eighteen.base import recipe as recipes

ON_CPU = Setup("small", "net", "cpu", "bf16", 1, 1, 4.0, True, 100_000, 1_000_000)
ON_GPU = replace(ON_CPU, device="NVIDIA A100", cpus=16.0)
BUSY = Window(
    phase=0,
    size=64,
    batch=64,
    seconds=10.0,
    images=10_000,
    num_steps=156,
    data=0.0,
    communication=0.0,
    other=0.0,
    read_s=0.0,
    work_s=0.0002,
    threads=4,
    own=3.9,
    others=0.0,
    throttled=0.0,
    memory_bytes=2**30,
    is_kept=False,
)
WAITING = replace(BUSY, data=0.5, threads=1, work_s=0.001, own=2.0)
PICTURES = Pictures(128, 100, [50, 50], ["cat", "dog"])
LATE = Pauses(seconds=100.0)
NEVER_KEPT = {"data.keep": "never", "phases.0.epochs": 10}
HALF = {"train.micro_batch": 32}
TWO = replace(ON_CPU, world=2, local_world=2)


def seen(setup=ON_CPU, window=BUSY, **more):
    return Evidence(setup, window, **more)


SICK = [
    ("few-threads", seen(window=WAITING), {"data.threads": 4}),
    ("few-threads", seen(ON_GPU, replace(WAITING, own=1.5)), {"data.threads": 16}),
    ("slow-disk", seen(window=replace(WAITING, read_s=0.003, threads=4)), {"data.threads": 8}),
    ("network-disk", seen(window=replace(WAITING, read_s=0.003, threads=4), is_network=True), {"data.threads": 8}),
    ("arriving", seen(window=replace(WAITING, arrive=0.4)), {}),
    ("short-prefetch", seen(window=replace(WAITING, threads=4, work_s=0.0005)), {"data.prefetch": 6}),
    ("decoding", seen(ON_GPU, replace(WAITING, threads=16, work_s=0.015, own=15.9)), {}),
    ("many-threads", seen(window=replace(BUSY, threads=32)), {"data.threads": 4}),
    ("neighbours", seen(window=replace(BUSY, own=2.0, others=2.0)), {}),
    ("stolen", seen(window=replace(BUSY, own=2.0, others=2.0, stolen=1.9)), {}),
    ("quota", seen(window=replace(BUSY, own=1.0, throttled=0.8)), {}),
    ("small-batch", seen(trials=Trials(8, {8: 0.01, 16: 0.011, 32: 0.019, 64: 0.037})), {"batch": 256}),
    ("large-batch", seen(trials=Trials(64, {64: 0.1, 32: 0.03})), {"train.micro_batch": 32}),
    ("slow-rank", seen(TWO, replace(BUSY, waits=[(0, 0.5), (0, 0.05)])), {}),
    ("communication", seen(TWO, replace(BUSY, waits=[(0, 0.4), (0, 0.38)])), {}),
    ("evaluations", seen(pauses=replace(LATE, eval_s=40.0, num_evals=20)), {"eval.every": 34}),
    ("checkpoints", seen(pauses=replace(LATE, stall_s=9.0, save_s=40.0, num_saves=50)), {"train.checkpoint": "phase"}),
    (
        "large-pictures",
        seen(window=replace(BUSY, work_s=0.0038), pictures=replace(PICTURES, side=1500)),
        {},
    ),
    (
        "not-kept",
        seen(window=replace(BUSY, work_s=0.0038), pictures=replace(PICTURES, fits=True), recipe=NEVER_KEPT),
        {"data.keep": "auto"},
    ),
    (
        "float32",
        seen(replace(ON_CPU, precision="fp32"), trials=Trials(64, {64: 0.1}, other_s=0.05)),
        {"train.precision": "auto"},
    ),
    ("compiling", seen(pauses=replace(LATE, compile_s=60.0)), {"train.compile": False}),
    ("recompiles", seen(ON_GPU, replace(BUSY, num_graphs=3)), {"train.compile": False}),
    (
        "memory-full",
        seen(ON_GPU, replace(BUSY, memory_bytes=78 * 2**30), memory_total=80 * 2**30),
        {"train.micro_batch": 32},
    ),
    ("throttling", seen(ON_GPU, throttles=("temperature",)), {}),
    ("learning-rate", seen(recipe={"optim.batch": 64, "phases.0.batch": 1024, "optim.name": "sgd"}), {}),
    ("learning-rate", seen(recipe={"optim.batch": 4096, "phases.0.batch": 16_384, "optim.name": "sgd"}), {}),
    ("imbalance", seen(pictures=replace(PICTURES, counts=[1000, 20])), {"data.balance": "sampling"}),
    ("leakage", seen(pictures=replace(PICTURES, alike=[("val/1", "train/9")], looked_at=100)), {}),
]


@pytest.mark.parametrize(("code", "shown", "fix"), SICK, ids=[f"{code}-{n}" for n, (code, *_) in enumerate(SICK)])
def test_what_is_wrong_is_found_first(code, shown, fix):
    first = diagnose(shown)[0]
    assert first.code == code
    assert first.fix == fix
    assert first.evidence
    assert first.command


WELL = [
    seen(),
    seen(ON_GPU, replace(BUSY, own=8.0)),
    seen(window=replace(BUSY, data=0.04)),
    seen(window=replace(WAITING, is_kept=True)),
    seen(window=replace(BUSY, others=0.1)),
    seen(ON_GPU, replace(BUSY, own=8.0, others=2.0)),
    seen(trials=Trials(64, {64: 0.1, 128: 0.197, 32: 0.052})),
    seen(trials=Trials(64, {64: 0.1, 128: 0.18, 256: 0.32, 512: 0.56})),  # twice the batch alone brings little
    seen(TWO, replace(BUSY, waits=[(0, 0.03), (0, 0.05)])),
    seen(replace(TWO, num_weights=100_000), replace(BUSY, waits=[(0, 0.3), (0, 0.3)])),  # too few bytes for that
    seen(pauses=Pauses(100.0, eval_s=2.0, num_evals=1, stall_s=0.1, save_s=1.0, num_saves=4)),
    seen(recipe={"optim.batch": 64, "phases.0.batch": 256, "optim.name": "sgd"}),
    seen(pictures=PICTURES),
    seen(replace(ON_CPU, precision="fp32", bf16=False)),
    Evidence(ON_CPU),
]


@pytest.mark.parametrize("shown", WELL, ids=range(len(WELL)))
def test_of_a_healthy_run_nothing_is_said(shown):
    assert diagnose(shown) == []


def test_the_dearest_comes_first_and_each_gain_is_in_its_range():
    spoilt = seen(
        window=replace(WAITING, own=1.9, others=2.1), pauses=replace(LATE, eval_s=10.0, num_evals=5), pictures=PICTURES
    )
    found = diagnose(spoilt)
    assert len(found) >= 2
    assert [one.share for one in found] == sorted((one.share for one in found), reverse=True)
    assert all(one.gain.low <= one.gain.likely <= one.gain.high for one in found if one.gain)


def test_twice_the_threads_decode_twice_as_fast_until_steps_or_processors_are_the_narrowest():
    def gain(window):
        (found,) = [one.gain for one in diagnose(seen(ON_GPU, window)) if one.code == "few-threads"]
        assert found is not None
        return found.likely

    starved = replace(WAITING, data=0.9, work_s=0.001, threads=1, own=1.0)
    assert gain(starved) == pytest.approx(10)  # steps take a tenth of the time
    half = replace(starved, data=0.5)
    assert gain(half) == pytest.approx(2)


def test_twice_the_batch_also_makes_a_step_faster_where_that_was_seen():
    def gain(trials):
        heavy, waiting = replace(TWO, num_weights=10_000_000), replace(BUSY, waits=[(0, 0.5), (0, 0.5)])
        (found,) = [one.gain for one in diagnose(seen(heavy, waiting, trials=trials))]
        assert found is not None
        return found.likely

    assert gain(Trials()) == pytest.approx(1 / 0.75)
    assert gain(Trials(32, {32: 0.1, 64: 0.18})) == pytest.approx(1 / (0.25 + 0.5 * 0.9))


def test_what_a_neighbour_costs_is_seen_when_it_has_gone():
    def gain(trials):
        (found,) = diagnose(seen(window=replace(BUSY, own=2.0, others=2.0), trials=trials))
        assert found.gain is not None
        return found.gain.likely

    assert gain(Trials()) == pytest.approx(2.0)
    assert gain(Trials(64, fed_s=64 / 1300, others=0.1)) == pytest.approx(1.3)  # 1,000 images/s with it
    assert gain(Trials(64, fed_s=64 / 1050, others=2.0)) == pytest.approx(2.0)  # it is still there


def test_what_keeping_pictures_or_more_of_them_brings_is_read_off_steps_that_the_loader_fed():
    window, alone = replace(BUSY, other=0.1, images=500), {32: 0.1, 64: 0.12}

    def gains(trials, window=window):
        shown = seen(window=window, pictures=replace(PICTURES, fits=True), recipe=NEVER_KEPT, trials=trials)
        return {one.code: one.gain.likely for one in diagnose(shown) if one.gain}

    found = gains(Trials(32, alone, fed_s=0.2, kept_s=0.1, knee_s=0.28))
    assert found["not-kept"] == pytest.approx(1 / (0.1 + 0.9 / 2))
    assert found["small-batch"] == pytest.approx(1 / (0.1 + 0.9 * 0.7))
    fast = replace(window, images=2700)  # 300 images/s: a step of 32 kept ones in 0.1 s would be only 320
    assert gains(Trials(32, alone, fed_s=0.2, kept_s=0.1), fast)["not-kept"] == pytest.approx(
        1 / (0.1 + 0.9 * 300 / 320)
    )
    assert "small-batch" not in gains(Trials(32, alone, fed_s=0.2, kept_s=0.1, knee_s=0.39))  # the loader is narrower


STEP = {
    "event": "step",
    "phase": 0,
    "size": 64,
    "batch": 10,
    "threads": 2,
    "memory_bytes": 5,
    "cpus": {"own": 1.5, "others": 0.25},
    "waits": {"data": 0.2, "communication": 0.0, "other": 0.1, "compute": 0.7},
    "stages": {"read_s": 0.1, "verify_s": 0.0, "decode_s": 0.2, "resize_s": 0.1, "copy_s": 0.1},
}


def steps(*seconds, phase=0, first=0):
    return [
        {**STEP, "phase": phase, "time_s": now, "step": first + 10 * n, "samples": 100 * (first + n)}
        for n, now in enumerate(seconds)
    ]


def test_a_window_is_what_lies_between_its_first_event_and_its_last():
    found = evidence.window(steps(0.0, 1.0, 3.0))
    assert found is not None
    assert (found.seconds, found.images, found.num_steps) == (3.0, 200, 20)
    assert found.images_per_s == pytest.approx(200 / 2.7)
    assert (found.read_s, found.work_s) == (pytest.approx(0.001), pytest.approx(0.004))
    assert (found.own, found.others, found.throttled) == (1.5, 0.25, None)


def test_a_window_looks_at_the_phase_that_took_longest_or_at_the_last_seconds():
    both = [*steps(0.0, 50.0), *steps(51.0, 52.0, 53.0, phase=1, first=10)]
    longest, newest = evidence.window(both), evidence.window(both, most_s=1.5)
    assert longest is not None
    assert newest is not None
    assert (longest.phase, newest.phase, newest.seconds) == (0, 1, 1.0)
    assert evidence.window(both[:1]) is None


def test_all_keys_that_rules_ask_for_are_of_a_recipe():
    keys = evidence.keys(recipes.load("small"))
    for key in ("optim.batch", "optim.name", "phases.0.batch", "phases.0.epochs", "eval.every", "data.keep"):
        assert key in keys
    assert {"data.balance", "data.prefetch", "train.checkpoint_minutes"} <= {*keys}


def test_every_finding_has_a_page(request):
    docs = request.config.rootpath / "docs" / "doctor"
    codes = {code for code, *_ in SICK} | {"memory-unused"}
    assert codes <= {page.stem for page in docs.glob("*.md")}
