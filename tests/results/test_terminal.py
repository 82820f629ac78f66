import io
import os
import pty
import signal
import subprocess
import sys

import pytest
from rich.console import Console

from eighteen.results.board import Board
from eighteen.results.terminal import Display, is_interactive

T = 1_790_000_000.0


def _event(kind, after_s, **facts):
    return {"v": 1, "event": kind, "time_s": T + after_s, **facts}


def _step(step, after_s, **facts):
    return _event(
        "step",
        after_s,
        step=step,
        epoch=step / 10,
        loss=1.0,
        top1=0.25,
        lr=0.1,
        images_per_s=1000.0,
        waits={"data": 0.25},
        **facts,
    )


RUN = [
    _event(
        "start",
        0,
        recipe="fast",
        dataset="flowers.e18",
        classes=["daisy", "rose"],
        num_samples=3663,
        num_steps=40,
        epochs=4,
        device="cpu",
        model="resnet50",
    ),
    _event("phase", 0, phase=0, size=96, batch=64, epoch=0, step=0),
    *(_step(step, step) for step in range(1, 11)),
    _event(
        "eval",
        11,
        step=10,
        epoch=1,
        split="val",
        loss=0.5,
        top1=0.75,
        top5=1.0,
        num_samples=648,
        seconds=1.0,
        best=True,
    ),
    _event("epoch", 11, epoch=1, hours=0.01, top1=75.0, top5=100.0),
    _event("checkpoint", 11, step=10, path="checkpoints/step-000010", bytes=2**20, seconds=0.5, best=True),
    *(_step(step, step) for step in range(12, 24)),
    _event("warning", 24, text="slow [red]disk"),
    _event("end", 25, reason="done", step=40, top1=0.75, top5=1.0, seconds=25.0, exit_code=0),
]


def _plain(events, **options):
    file = io.StringIO()
    console = Console(file=file, width=40)
    with Display(console, **options) as display:
        for event in events:
            display(event)
    return file.getvalue()


def _drawn(events, *, width=80, height=24):
    board = Board()
    for event in events:
        board.take(event)
    file = io.StringIO()
    Console(file=file, width=width, height=height).print(board)
    return file.getvalue()


def test_elsewhere_steps_take_one_line_an_interval_and_all_else_one_each():
    lines = _plain(RUN, interval_s=10).splitlines()
    assert [line.split()[:3] for line in lines] == [
        ["0:00", "start", "fast"],
        ["0:00", "phase", "0"],
        ["0:01", "step", "1/40"],
        ["0:11", "eval", "val"],
        ["0:11", "checkpoint", "checkpoints/step-000010"],
        ["0:12", "step", "12/40"],
        ["0:22", "step", "22/40"],
        ["0:24", "warning:", "slow"],
        ["0:25", "end", "done"],
    ]


def test_elsewhere_a_line_is_not_wrapped_coloured_or_taken_as_markup():
    text = _plain(RUN)
    assert "warning: slow [red]disk\n" in text
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) > 100


def test_the_board_shows_every_fact_of_the_run():
    text = _drawn(
        [*RUN[:-2], _step(30, 30, top5=0.5, memory_bytes=3 * 2**30, skipped=1, eta_s=0, size=96, batch=64, phase=0)]
    )
    facts = ("fast on flowers.e18", "resnet50 · cpu", "epoch 3.00 of 4", "step 30 of 40", "ETA 0:00")
    figures = ("1,000", "25.00 %", "3.0 GiB", "75.00 %", "100.00 %", "0:36")
    for shown in (*facts, *figures):
        assert shown in text
    assert "saved checkpoints/step-000010   1.0 MiB" in text


def test_a_new_phase_shows_its_size_before_its_first_step():
    assert "160 " not in _drawn(RUN)
    assert "160 " in _drawn([*RUN, _event("phase", 26, phase=1, size=160, batch=32, epoch=2, step=20)])


def test_the_end_says_why_and_how_good():
    assert "done after 0:25   top-1 75.00 %   top-5 100.00 %" in _drawn(RUN)


def test_cost_and_energy_have_their_places_where_they_are_known():
    assert not {"cost", "energy"} & set(_drawn(RUN).split())
    taken = {"cost_usd": 0.12, "energy_j": 123_456}
    epochs = [{**event, **taken} if event["event"] == "epoch" else event for event in RUN]
    text = _drawn([*epochs[:-1], _step(30, 30, cost_usd=0.4, energy_j=180_000)])
    assert "  $0.40  50.0 Wh   ETA" in text
    assert text.split("cost")[1].split()[0] == "energy"
    assert "100.00 %  $0.12    34.3 Wh" in text
    reached = [{"top1": share, "seconds": 10 * share, "cost_usd": share} for share in (0.5, 0.6, 0.7, 0.8, 0.9)]
    lines = _drawn([*RUN[:-1], {**RUN[-1], "cost_usd": 1.0, "reached": reached}]).splitlines()
    (head,) = [number for number, line in enumerate(lines) if "reached in" in line]
    assert lines[head].split() == ["top-1", "of", "reached", "in", "cost"]
    assert [line.split() for line in lines[head + 1 : head + 5]] == [
        [f"{share}0.00", "%", f"0:0{share}", f"$0.{share}0"] for share in "6789"
    ]


@pytest.mark.parametrize("num_events", range(len(RUN) + 1))
def test_facts_that_are_missing_show_as_dashes_at_any_moment(num_events):
    text = _drawn(RUN[:num_events])
    assert "None" not in text
    assert "ETA -" in text


@pytest.mark.parametrize("height", [24, 18, 10])
def test_the_board_fits_a_small_terminal_and_keeps_the_last_epochs(height):
    epochs = [_event("epoch", k, epoch=k, hours=k / 100, top1=float(k), top5=50.0) for k in range(1, 31)]
    text = _drawn([*RUN[:3], *epochs], height=height)
    assert len(text.splitlines()) <= max(height, 18)
    assert "\n 30 " in text


@pytest.mark.parametrize("width", [50, 80, 120])
def test_the_board_is_never_wider_than_the_terminal(width):
    assert max(map(len, _drawn([{**RUN[0], "dataset": "x" * 200}, *RUN[1:]], width=width).splitlines())) <= width


@pytest.mark.parametrize(
    ("environment", "live"),
    [({"TERM": "xterm"}, True), ({"TERM": "dumb"}, False), ({"TERM": "xterm", "CI": "true"}, False)],
)
def test_it_is_live_on_a_real_terminal_only(environment, live, monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as terminal, os.fdopen(master):
        assert is_interactive(Console(file=terminal)) is live
    assert is_interactive(Console(file=io.StringIO(), force_terminal=True)) is False


ENDLESS = """
import threading
from eighteen.base.events import event
from eighteen.results.terminal import Display
with Display() as display:
    display(event("phase", phase=0, size=96, batch=64))
    {then}
"""


@pytest.mark.parametrize(
    ("then", "code"), [("threading.Event().wait()", -signal.SIGINT), ("raise ValueError('a bug')", 1)]
)
def test_ctrl_c_and_exceptions_leave_the_terminal_with_its_cursor(then, code):
    master, slave = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | {"TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS.format(then=then)], stdout=slave, stderr=slave, stdin=slave, env=environment
    )
    os.close(slave)
    shown = b""
    while b"no checkpoint yet" not in shown:
        shown += os.read(master, 65536)
    if code < 0:
        process.send_signal(signal.SIGINT)
    shown += _rest(master)
    assert process.wait(timeout=30) == code
    assert shown.count(b"\x1b[?25l") == shown.count(b"\x1b[?25h") == 1
    assert shown.index(b"\x1b[?25h") < shown.index(b"Traceback")


def _rest(descriptor):
    """Everything until the other side closes, which Linux reports of a pty as an error."""
    shown = b""
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        while True:
            try:
                part = file.read(65536)
            except OSError:
                return shown
            if not part:
                return shown
            shown += part


def test_the_board_of_a_run_that_goes_on_forgets_its_end_and_the_epochs_after_its_checkpoint():
    later = _event("epoch", 24, epoch=2, hours=0.02, top1=80.0, top5=100.0)
    text = _drawn([*RUN[:-1], later, RUN[-1], _event("resume", 30, step=10, epoch=1.0, checkpoint="step-000010")])
    assert "75.00 %" in text
    assert "0:01:12" not in text
    assert "1:12" not in text, "the second epoch's time"
    assert "done" not in text
