"""What is said while a run trains: once, in a line, and only of what lasts."""

from __future__ import annotations

import pytest

from eighteen.advice.watch import Watch
from eighteen.base import recipe as recipes

START = {
    "event": "start",
    "time_s": 0.0,
    "recipe": "small",
    "model": "net",
    "device": "cpu",
    "precision": "fp32",
    "world": 1,
    "local_world": 1,
    "cpus": 4.0,
    "bf16": False,
    "num_samples": 10_000,
    "num_weights": 1000,
}


def step(number, *, data, threads=1):
    return {
        "event": "step",
        "time_s": float(number),
        "phase": 0,
        "size": 64,
        "batch": 10,
        "step": number,
        "samples": 100 * number,
        "threads": threads,
        "memory_bytes": 5,
        "cpus": {"own": 1.5, "others": 0.0},
        "waits": {"data": data, "communication": 0.0, "other": 0.0, "compute": 1 - data},
        "stages": {"read_s": 0.0, "verify_s": 0.0, "decode_s": 0.9, "resize_s": 0.0, "copy_s": 0.0},
    }


@pytest.fixture
def watch():
    looking = Watch(recipes.load("small"))
    looking(START)
    return looking


def told(watch, events):
    return [found.code for event in events if (found := watch(event))]


def test_what_costs_time_is_said_once(watch):
    assert told(watch, [step(n, data=0.5) for n in range(100)]) == ["few-threads"]


def test_what_costs_little_or_does_not_last_is_not_said(watch):
    assert told(watch, [step(n, data=0.03) for n in range(60)]) == []
    assert told(watch, [step(60 + n, data=0.5 if n == 3 else 0.0) for n in range(60)]) == []


def test_pictures_that_are_kept_are_decoded_once_so_nothing_is_said(watch):
    watch({"event": "phase", "time_s": 0.0, "phase": 0, "kept": "host"})
    assert told(watch, [step(n, data=0.5) for n in range(60)]) == []


def test_a_run_that_began_again_is_looked_at_anew(watch):
    assert told(watch, [step(n, data=0.5) for n in range(40)]) == ["few-threads"]
    watch(START)
    assert told(watch, [step(100 + n, data=0.5) for n in range(40)]) == []
    assert len(watch._events) <= 1 + 40
