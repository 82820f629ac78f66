import re

from eighteen.results.log import HEADER, Log

T = 1_790_000_000.0  # 2026-09-21 14:13:20 UTC


def _event(kind, **facts):
    return {"v": 1, "event": kind, "time_s": T, **facts}


def test_epoch_lines_are_those_of_2018_exactly(tmp_path):
    with Log(tmp_path / "log.txt") as log:
        log(_event("epoch", epoch=12, hours=0.035, top1=91.23, top5=99.81))
        log(_event("epoch", epoch=13, hours=0.04, top1=None, top5=None))
    assert (
        tmp_path / "log.txt"
    ).read_text() == "~~epoch\thours\ttop1\ttop5\n~~12\t0.03500\t91.230\t99.810\n~~13\t0.04000\tnan\tnan\n"


def test_other_events_are_lines_with_their_utc_time(tmp_path):
    with Log(tmp_path / "log.txt") as log:
        log(_event("start", num_steps=50))
        log(_event("step", step=10, epoch=0.5))
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert lines[2].startswith("2026-09-21 14:13:20Z  step 10/50  epoch 0.50  ")
    assert all(re.match(r"~~|\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ  \w", line) for line in lines)


def test_a_resumed_run_goes_on_in_the_same_file_with_one_header(tmp_path):
    for step in (1, 2):
        with Log(tmp_path / "log.txt") as log:
            log(_event("resume", step=step))
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert lines.count(HEADER) == 1
    assert len(lines) == 3


def test_every_line_is_on_disk_before_the_call_returns(tmp_path):
    with Log(tmp_path / "log.txt") as log:
        log(_event("warning", text="caf\udce9 バラ"))
        assert (tmp_path / "log.txt").read_text("utf-8").endswith("Z  warning: caf\\udce9 バラ\n")


def test_lines_of_epochs_that_are_trained_again_are_taken_out(tmp_path):
    with Log(tmp_path / "log.txt") as log:
        for epoch in (1, 2, 3):
            log(_event("epoch", epoch=epoch, hours=0.01, top1=50.0, top5=90.0))
    with (tmp_path / "log.txt").open("ab") as file:
        file.write("2026-09-21 14:13:20Z  caf\u00e9".encode()[:-1])  # where it was killed
    with Log(tmp_path / "log.txt") as log:
        log(_event("resume", step=10, epoch=2.5, checkpoint="step-000010"))
        log(_event("epoch", epoch=3, hours=0.02, top1=50.0, top5=90.0))
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines if line.startswith("~~")] == ["~~epoch", "~~1", "~~2", "~~3"]
    assert lines[-1].startswith("~~3\t0.02000")
    assert lines[-2].endswith("resume at step 10  from step-000010")
