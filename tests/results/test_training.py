"""The figures of training as a person and a program read them."""

from __future__ import annotations

import json

from rich.console import Console

from eighteen.advice.ceilings import Ceilings
from eighteen.advice.roofline import Roofline
from eighteen.advice.turns import Training, Turn, Variant, rows
from eighteen.results import training

TOP, ROOFS = Ceilings("bfloat16", 2e12, 1e11), {64: Roofline(1e9, 1e8, 800.0)}
OURS = Variant(64, 50, "synthetic", False)
BARE, REAL = Variant(64, 50, "synthetic", False, "bare"), Variant(64, 50, "real", False)
LIGHTNING = Variant(64, 50, "synthetic", False, "lightning")


def measured():
    turns = {
        OURS: [Turn(0.125, 0.0), Turn(0.11, 0.0), Turn(0.1, 0.0)],
        BARE: [Turn(0.1, 0.0), Turn(0.11, 0.0), Turn(0.1, 0.0)],
        LIGHTNING: [Turn(0.125, 0.0), Turn(0.121, 0.0), Turn(0.12, 0.0)],
        REAL: [Turn(0.25, 0.5), Turn(0.2, 0.2), Turn(0.25, 0.5)],
    }
    found = rows(turns, first_s=dict.fromkeys(turns, 2.0), rooflines=ROOFS, top=TOP)
    left_out = {"64 px, synthetic, compiled": "no compiler", "64 px, real, compiled": "no compiler"}
    return Training("net", "small", "cpu", 2, 20, 3, TOP, ROOFS, found, left_out)


def test_the_table_fits_80_columns_and_says_how_fast_against_the_bare_loop_and_the_ceilings():
    console = Console(width=80)
    with console.capture() as said:
        console.print(training.show(measured()))
    lines = [" ".join(line.split()) for line in said.get().splitlines()]
    assert "64 noise eager 455 400-500 1.000 1.00-1.25 0% 23% 45% 57%" in lines
    assert "64 Trainer eager 413 400-417 - - 0% 21% 41% 52%" in lines
    assert "64 px: a step of Lightning's Trainer takes 1.100 times as long (1.00-1.20)" in lines
    assert "64 real eager 200 200-250 - - 50% 10% 20% 25%" in lines
    assert "64 px, batches of 50: 1 GFLOP and 100 MB a picture, at most 800 images/s" in lines
    assert "left out, no compiler: 64 px, synthetic, compiled; 64 px, real, compiled" in lines


def test_json_has_all_figures_and_the_machine(tmp_path):
    training.write(measured(), tmp_path / "training.json")
    read = json.loads((tmp_path / "training.json").read_text())
    assert read["rows"][0]["over_bare"] == {"median": 1.0, "low": 1.0, "high": 1.25}
    assert read["rows"][1]["variant"]["loop"] == "bare"
    assert read["environment"]["num_cpus"] >= 1
