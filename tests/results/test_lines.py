import pytest

from eighteen.results.lines import clock, energy, fill, line, memory, percent, visible, waiting

WAITS = {"data": 0.012, "compute": 0.988}
STEP = {"v": 1, "event": "step", "time_s": 5.0, "step": 120, "epoch": 1.234, "phase": 0, "size": 96, "batch": 256}
STEP |= {"loss": 1.25, "top1": 0.5, "top5": 0.875, "lr": 0.1, "images_per_s": 12345.6, "waits": WAITS, "skipped": 0}
STEP |= {"memory_bytes": 3 * 2**30, "eta_s": 3723}
EVAL = {"event": "eval", "split": "val", "epoch": 3, "loss": 1, "top1": 0.7, "top5": None, "num_samples": 648}
EVAL |= {"seconds": 1.23, "best": True, "size": 224, "rect": False}


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (
            STEP,
            "step 120/2,000  epoch 1.23  size 96  batch 256  12,346 images/s  loss 1.2500  top-1 50.00 %  "
            "top-5 87.50 %  lr 0.1  waiting 1.20 %  memory 3.0 GiB  ETA 1:02:03",
        ),
        (
            {"event": "step", "skipped": 2},
            "step -/2,000  epoch -  size -  batch -  - images/s  loss -  top-1 -  top-5 -  lr -  waiting -  memory -  "
            "ETA -  2 skipped",
        ),
        (
            {
                "event": "start",
                "recipe": "fast",
                "dataset": "a.e18",
                "classes": ["x", "y"],
                "num_samples": 3663,
            },
            "start fast on a.e18  2 classes  3,663 pictures  - epochs  2,000 steps  - of - weights  - x - in -  "
            "decoder -",
        ),
        (
            {"event": "phase", "phase": 1, "size": 160, "batch": 1024, "epoch": 10, "step": 400},
            "phase 1  size 160  batch 1,024  from epoch 10  step 400",
        ),
        (
            EVAL,
            "eval val  epoch 3  size 224  loss 1.0000  top-1 70.00 %  top-5 -  without TTA  648 pictures in 1.2 s  "
            "best so far",
        ),
        (
            EVAL | {"rect": True, "tta": "flip", "top1_tta": 0.71, "top5_tta": 0.9},
            "eval val  epoch 3  size 224  loss 1.0000  top-1 70.00 %  top-5 -  without TTA  648 pictures in 1.2 s  "
            "rectangles  with TTA (flip) top-1 71.00 %  top-5 90.00 %  best so far",
        ),
        (
            {"event": "checkpoint", "path": "a/b", "bytes": 1536, "seconds": 0.25, "best": False},
            "checkpoint a/b  1.5 KiB in 0.2 s",
        ),
        (
            {"event": "tuned", "seconds": 3.21, "cached": True, "micro_batch": [64, None], "threads": 2, "batch": None},
            "tuned in 3.2 s  micro-batches 64, -  threads 2  batch -  by an earlier run",
        ),
        ({"event": "calibrated", "seconds": 3.21, "cached": False}, "calibrated in 3.2 s"),
        ({"event": "calibrated", "seconds": 0.01, "cached": True}, "calibrated in 0.0 s  by an earlier run"),
        (
            {"event": "budget", "seconds": 1080, "spent_s": 270.2, "num_steps": 5400, "epochs": 17.2345, "every": 2}
            | {"speed_ratio": 0.912},
            "budget 18:00  spent 4:30  5,400 steps, 17.23 epochs, an evaluation every 2  steps take 0.91 of what was "
            "measured",
        ),
        ({"event": "reached", "top1": 0.9, "seconds": 61.2}, "reached top-1 90.00 % in 1:01"),
        (
            {"event": "reached", "top1": 0.9, "seconds": 61.2, "cost_usd": 0.345},
            "reached top-1 90.00 % in 1:01  $0.34",
        ),
        (
            {"event": "end", "reason": "until", "step": 9, "top1": 0.9, "top5": 1.0, "seconds": 300, "cost_usd": 2}
            | {
                "reached": [
                    {"top1": 0.5, "seconds": 60, "cost_usd": 0.4},
                    {"top1": 0.6, "seconds": 60, "cost_usd": 0.4},
                    {"top1": 0.9, "seconds": 301, "cost_usd": 2},
                ]
            },
            "end until  step 9  top-1 90.00 %  top-5 100.00 %  without TTA  in 5:00  $2.00  "
            "reached 60 % in 1:00 for $0.40, 90 % in 5:01 for $2.00",
        ),
        (
            EVAL | {"cost_usd": 0.345, "energy_j": 123_456},
            "eval val  epoch 3  size 224  loss 1.0000  top-1 70.00 %  top-5 -  without TTA  648 pictures in 1.2 s  "
            "best so far  $0.34  34.3 Wh",
        ),
        (
            {"event": "end", "reason": "cost", "step": 9, "cost_usd": 4.99, "energy_j": 3.6e6, "exit_code": 6}
            | {
                "reached": [
                    {"top1": 0.5, "seconds": 60, "cost_usd": 0.4, "energy_j": 36_000},
                    {"top1": 0.9, "seconds": 301, "energy_j": None},
                ]
            },
            "end cost  step 9  top-1 -  top-5 -  without TTA  in -  $4.99  1.00 kWh  "
            "reached 50 % in 1:00 for $0.40 and 10.0 Wh, 90 % in 5:01  exit code 6",
        ),
        (
            {"event": "start", "recipe": "fast", "energy": {"gpu": "by NVML", "cpu": "not measured: no\nRAPL"}},
            "start fast on -  - classes  - pictures  - epochs  2,000 steps  - of - weights  - x - in -  "
            r"decoder -  energy gpu by NVML, cpu not measured: no\nRAPL",
        ),
        (
            {"event": "skip", "step": 7, "streak": 2},
            "skip step 7  its loss was not finite, no weight was changed  2 in a row",
        ),
        ({"event": "resume", "step": 7, "checkpoint": "step-7"}, "resume at step 7  from step-7"),
        ({"event": "resume", "step": 0, "checkpoint": None}, "resume at step 0  from -"),
        (
            {"event": "notice", "cloud": "aws", "what": "terminate", "when": "2026-11-24T08:22:00Z", "goes": True},
            "notice of aws: terminate  2026-11-24T08:22:00Z  saving and stopping",
        ),
        ({"event": "notice", "cloud": "gcp", "what": "x", "when": None, "goes": False}, "notice of gcp: x  -"),
        (
            {"event": "restart", "attempt": 2, "reason": "rank 1 hung", "world": 2, "step": 40, "stacks": ["a"]},
            "restart 2  after rank 1 hung  from step 40 on 2 ranks",
        ),
        ({"event": "warning", "text": "two\nlines"}, r"warning: two\nlines"),
        (
            {"event": "end", "reason": "done", "step": 9, "top1": 0.5, "top5": 1.0, "seconds": 50, "clock_s": 61},
            "end done  step 9  top-1 50.00 %  top-5 100.00 %  without TTA  in 1:01",
        ),
        (
            {"event": "end", "reason": "diverged", "exit_code": 5},
            "end diverged  step -  top-1 -  top-5 -  without TTA  in -  exit code 5",
        ),
        ({"event": "from-the-future", "v": 9, "time_s": 0, "fact": "a\nb"}, r"from-the-future  fact a\nb"),
    ],
)
def test_an_event_is_one_line_and_missing_facts_are_dashes(event, text):
    assert line(event, num_steps=2000) == text


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (
            "{n} {n:.1f} {share:percent} {n:memory} {n:clock} {n:energy} {share:usd}",
            "1,234 1234.0 12.50 % 1.2 KiB 20:34 0.34 Wh $0.12",
        ),
        ("{no} {no:.1f} {no:percent} {no:memory} {no:clock} {empty}", "- - - - - -"),
        ("{name} {name:.4g} {name:percent}", r"a\nb a\nb a\nb"),
    ],
)
def test_fill_knows_our_formats_and_what_is_missing(template, text):
    assert fill(template, {"n": 1234, "share": 0.125, "name": "a\nb", "empty": "", "nothing": None}) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00"), (90061, "1 day 1:01:01"), (-3, "0:00")],
)
def test_clock(seconds, text):
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (200 * 2**20, "200 MiB"), (2**50, "1024 TiB")],
)
def test_memory(num_bytes, text):
    assert memory(num_bytes) == text


@pytest.mark.parametrize(
    ("joules", "text"),
    [(0, "0.00 Wh"), (1234, "0.34 Wh"), (123_456, "34.3 Wh"), (1_234_567, "343 Wh"), (36e6, "10.0 kWh")],
)
def test_energy(joules, text):
    assert energy(joules) == text


@pytest.mark.parametrize(("share", "text"), [(0, "0.00 %"), (1, "100.00 %"), (None, "-")])
def test_percent(share, text):
    assert percent(share) == text


@pytest.mark.parametrize(
    ("waits", "share"), [({"data": 0.25, "communication": 0.125, "compute": 0.625}, 0.25), ({}, None), (None, None)]
)
def test_waiting_is_for_pictures_only(waits, share):
    assert waiting(waits) == share


@pytest.mark.parametrize(
    ("text", "shown"),
    [("バラ a", "バラ a"), ("a\x1b[2Jb", r"a\x1b[2Jb"), ("a\r\nb", r"a\r\nb"), ("caf\udce9", r"caf\udce9")],
)
def test_visible_text_cannot_move_the_cursor(text, shown):
    assert visible(text) == shown
