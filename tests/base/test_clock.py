"""What a run has taken, over processes."""

import json
import subprocess
import sys
import time

import pytest

from eighteen.base import clock
from eighteen.base.clock import Clock
from eighteen.base.energy import Energy


def test_a_clock_counts_from_when_it_began_and_what_was_before():
    assert Clock(time.monotonic() - 5, 100.0).seconds == pytest.approx(105, abs=1)


def test_a_command_that_goes_on_counts_what_those_before_took(tmp_path):
    path, began = tmp_path / "clock.json", time.monotonic() - 50
    clock.resumed(path, began=began).keep(path)
    later = clock.resumed(path, began=began + 45)
    assert later.before_s == pytest.approx(50, abs=1)
    assert later.seconds == pytest.approx(55, abs=1)


def test_ranks_that_a_command_starts_again_count_its_time_once(tmp_path):
    path, began = tmp_path / "clock.json", time.monotonic() - 50
    Clock(began, 30.0).keep(path)
    assert clock.resumed(path, began=began) == Clock(began, 30.0, None)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"began": 1}', '{"began": "x", "before_s": 1, "seconds": 2}'])
def test_a_broken_file_is_none(tmp_path, text):
    (tmp_path / "clock.json").write_text(text)
    assert clock.resumed(tmp_path / "clock.json", began=7.0) == Clock(7.0, 0.0)


class Meter(Energy):
    """One that says what a test wants."""

    def __init__(self, joules: float | None) -> None:
        self.said = joules

    @property
    def joules(self) -> float | None:
        return self.said


@pytest.mark.parametrize("began_again", [True, False], ids=["same command", "another"])
def test_energy_adds_up_over_all_processes_as_far_as_it_was_read(tmp_path, monkeypatch, began_again):
    monkeypatch.setattr(clock, "KEEP_S", 0.0)
    path, began = tmp_path / "clock.json", time.monotonic()
    first = clock.resumed(path, began=began, energy=Meter(70.0))
    assert first.joules == 70.0
    first.energy = Meter(90.0)
    first.keep(path)
    later = clock.resumed(path, began=began + (not began_again), energy=Meter(5.0))
    assert later.joules == 75.0


@pytest.mark.parametrize(("before", "here"), [(None, 5.0), (70.0, None), (None, None)])
def test_energy_that_was_measured_in_part_is_not_measured(tmp_path, before, here):
    path = tmp_path / "clock.json"
    Clock(1.0, energy=Meter(before)).keep(path, now=True)
    assert clock.resumed(path, began=2.0, energy=Meter(here)).joules is None


def test_a_clock_of_an_older_version_has_no_energy(tmp_path):
    (tmp_path / "clock.json").write_text('{"began": 1, "before_s": 1, "seconds": 2}')
    assert clock.resumed(tmp_path / "clock.json", began=7.0) == Clock(7.0, 2.0, None)


def test_it_is_written_now_and_then_or_when_it_must(tmp_path):
    path, ours = tmp_path / "clock.json", Clock()
    ours.keep(path)
    first = path.read_text()
    ours.keep(path)
    assert path.read_text() == first
    ours.keep(path, now=True)
    assert json.loads(path.read_text())["seconds"] > json.loads(first)["seconds"]


def test_a_process_began_before_python_did():
    before = time.monotonic()
    script = "import time; at = time.monotonic(); from eighteen.base import clock; print(at, clock.process_began())"
    at, began = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    assert before - 0.05 <= float(began) <= float(at)


def test_ranks_are_told_when_the_command_began(monkeypatch):
    monkeypatch.setenv(clock.BEGAN, "12.5")
    assert clock.command_began() == 12.5
    monkeypatch.delenv(clock.BEGAN)
    assert clock.command_began() == pytest.approx(clock.process_began(), abs=0.1)
