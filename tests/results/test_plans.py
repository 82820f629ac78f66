"""Plans as tables, as JSON and as a drawing."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from xml.etree import ElementTree

import pytest
from rich.console import Console

from eighteen.advice.plan import Estimate, Plan, Refused, Task, Times
from eighteen.advice.rankings import front
from eighteen.base import recipe as recipes
from eighteen.base.schedule import schedule
from eighteen.results import plans

HERE = Plan(
    "this machine",
    1,
    1,
    False,
    Times(5, 0, 90, 1, 0, 3, 1, 0),
    Estimate(100, 90, 110),
    None,
    None,
    1e9,
    2e9,
    "measured here",
)
FAST = replace(
    HERE, where="aws <p5>", ranks=8, seconds=Estimate(60, 30, 90), usd=Estimate(9, 4, 14), basis="published figures"
)
CHEAP = replace(
    FAST, where="oci a10", is_spot=True, seconds=Estimate(600, 300, 900), usd=Estimate(1, 0.5, 2), notes=("old",)
)
DEAR = replace(
    FAST, where="dear", machines=2, seconds=Estimate(700, 300, 900), usd=Estimate(20, 10, 30), notes=("old",)
)
MADE, REFUSED = [HERE, FAST, CHEAP, DEAR], [Refused("b200", "nothing is known"), Refused("b300", "nothing is known")]


@pytest.fixture
def task():
    recipe = recipes.load("small", epochs=8)
    return Task(recipe, schedule(recipe, 6400), 100, 2**30, 128)


def test_tables_rank_by_front_price_and_time_and_say_what_is_worth_knowing(task):
    console = Console(width=160)
    with console.capture() as said:
        console.print(plans.show(task, MADE, REFUSED, ["no GPU here"]))
    text = said.get()
    assert "small: 8 epochs of 6,400 pictures (1.0 GiB), 800 steps at 64, 96, 128 px" in text
    by_price, by_time = text.split("by price")[1].split("by time")
    assert by_price.index("oci a10 spot") < by_price.index("aws <p5>") < by_price.index("2 x dear")
    assert by_time.index("aws <p5>") < by_time.index("this machine") < by_time.index("oci a10 spot")
    assert "1:00" in by_time
    assert "0:30-1:30" in by_time
    assert "4.00-14.00" in by_time
    assert "oci a10 and 1 more: old" in text
    assert "not planned: b200 and 1 more: nothing is known" in text
    assert "no GPU here" in text


def test_json_has_all_of_every_plan(task, tmp_path):
    plans.write(tmp_path / "plans.json", task, MADE, REFUSED, ["no GPU here"])
    read = json.loads((tmp_path / "plans.json").read_text())
    assert read["v"] == 1
    assert [one["where"] for one in read["plans"]] == ["aws <p5>", "this machine", "oci a10", "dear"]
    assert read["plans"][0]["usd"] == {"expected": 9, "low": 4, "high": 14}
    assert sum(read["plans"][1]["times"].values()) == 100
    assert read["front"] == ["aws <p5>", "oci a10 spot"]
    assert read["refused"][0] == {"where": "b200", "why": "nothing is known"}


@pytest.mark.parametrize("made", [MADE, [FAST], [HERE], []])
def test_the_drawing_has_a_point_a_price_and_names_the_front(task, tmp_path, made):
    plans.draw(tmp_path / "plans.svg", task, made)
    tree = ElementTree.parse(tmp_path / "plans.svg")
    space = "{http://www.w3.org/2000/svg}"
    titles = [circle.findtext(f"{space}title") for circle in tree.iter(f"{space}circle")]
    assert len(titles) == sum(one.usd is not None for one in made)
    named = {text.text for text in tree.iter(f"{space}text")}
    assert {plans.name(one) for one in front(made)} <= named


def test_dates_of_today_are_not_in_what_is_drawn_twice(task, tmp_path):
    for name in ("a.svg", "b.svg"):
        plans.draw(tmp_path / name, task, MADE)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert str(date.today()) not in (tmp_path / "a.svg").read_text()
