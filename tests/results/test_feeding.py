"""The figures of the loader as a person and a program read them."""

from __future__ import annotations

import json

from rich.console import Console

from eighteen.advice.feeding import TASKS, Feeding, Pass, Setting, rows
from eighteen.results import feeding

STAGES = {"read_s": 0.1, "verify_s": 0.1, "decode_s": 0.6, "resize_s": 0.2, "copy_s": 0.0}


def measured():
    one, bare = Setting(TASKS[0], "full", 1), Setting(TASKS[0], "full", 1, bare=True)
    passes = {one: [Pass(1000, 0.8, 1.0, STAGES, 10**7)], bare: [Pass(1000, 0.8, 0.96, {"decode_s": 1.0}, None)]}
    return Feeding("native", 1000, 250, 1, 0.01, 0.2, rows(passes, read_bytes={"full": 110e3}))


def test_the_table_fits_80_columns_and_says_what_the_loader_costs_beyond_its_decoder():
    console = Console(width=80)
    with console.capture() as said:
        console.print(feeding.show(measured()))
    lines = [" ".join(line.split()) for line in said.get().splitlines()]
    assert "crop 128 full 1 1.000 1.00-1.00 1,250 1,250-1,250 1.00 1.04" in lines
    assert "crop 128 full bare 1 0.960 0.96-0.96 1,250 1,250-1,250 1.00 -" in lines
    assert "crop 128 full 1 110.0 10 10.0% 10.0% 60.0% 20.0% 0.0%" in lines
    assert "opened in 0.010 s, first batch of 224 px 0.200 s later" in lines


def test_json_has_all_figures_and_the_machine(tmp_path):
    feeding.write(measured(), tmp_path / "feeding.json")
    read = json.loads((tmp_path / "feeding.json").read_text())
    assert read["rows"][0]["setting"]["task"]["name"] == "crop 128"
    assert read["rows"][0]["cpu_ms"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert read["environment"]["num_cpus"] >= 1
