"""Recipes with one mistake each: refused in four parts, with exit code 2, before torch is loaded."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from eighteen.base import recipe as recipes

SECONDS = 2.0  # of a processor, for the whole command: waiting for a busy one does not count

CALL_ALL = """
import contextlib, io, json, sys, time
from eighteen import cli

for path in sys.argv[1:]:
    began, said = time.process_time(), io.StringIO()
    with contextlib.redirect_stderr(said):
        code = cli.main(["train", "data.e18", "--recipe", path])
    print(json.dumps([path, code, time.process_time() - began, said.getvalue(), "torch" in sys.modules]))
"""

WRONG = {
    bool: ("maybe", 7),
    int: (-1, 1.5, "many", [1]),
    float: (-0.5, "much", [0.5], float("nan"), float("inf")),
    str: (3, ["a"], False),
    list: ("none", {}, [["a", 1]]),
    dict: (5, "none"),
}


def mutations() -> Iterator[bytes]:
    """The recipe ``small`` with a key misspelt, a wrong value, a table lost, or a character that is no TOML."""
    text = recipes.dump(recipes.load("small"))
    tree = tomllib.loads(text)
    for path, value in leaves(tree):
        if path[0] == "claim" or path[:2] == ("model", "args"):
            continue  # free for anything
        yield changed(text, path, f"{path[-1]}e", value, old=path[-1])
        for wrong in WRONG[type(value)]:
            if not accepted(text, path, wrong):
                yield changed(text, path, path[-1], wrong)
    for section in ("model", "optim", "phases", "eval"):
        yield tomli_w.dumps({name: value for name, value in tree.items() if name != section}).encode()
    lines = text.splitlines()
    yield from ("\n".join([*lines[:at], "= broken", *lines[at:]]).encode() for at in range(0, len(lines), 7))
    yield from (text.encode()[:at] + b"\xff" + text.encode()[at:] for at in range(0, len(text), 200))


def leaves(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if isinstance(value, dict | list) and value and isinstance(next(iter(value)), str | dict):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def changed(text: str, path: tuple[Any, ...], key: str, value: Any, old: str | None = None) -> bytes:
    tree: Any = tomllib.loads(text)
    node = tree
    for part in path[:-1]:
        node = node[part]
    if old is not None:
        del node[old]
    node[key] = value
    return tomli_w.dumps(tree).encode()


def accepted(text: str, path: tuple[Any, ...], value: Any) -> bool:
    """Whether a key takes such a value: -0.5 is a fine angle."""
    try:
        recipes.parse(tomllib.loads(changed(text, path, path[-1], value).decode()))
    except recipes.RecipeError:
        return False
    return True


@pytest.fixture(scope="module")
def mutated(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A hundred of them, drawn with a seed."""
    folder = tmp_path_factory.mktemp("mutated")
    drawn = random.Random(12).sample(list(mutations()), 100)
    files = [folder / f"{number:03d}.toml" for number in range(len(drawn))]
    for file, content in zip(files, drawn, strict=True):
        file.write_bytes(content)
    return files


def assert_four_parts(said: str) -> None:
    assert re.fullmatch(r"RecipeError: .+: got .+, need .+\.\n  Try: .+\n", said, re.DOTALL), said
    assert "Traceback" not in said


def test_a_hundred_mutated_recipes_are_refused_in_four_parts_and_without_torch(mutated, tmp_path):
    command = [sys.executable, "-c", CALL_ALL, *map(str, mutated)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == 100
    for path, code, seconds, said, has_torch in found:
        assert code == 2, (path, said)
        assert_four_parts(said)
        assert not has_torch, path
        assert seconds < SECONDS, path
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [0, 50, 99])
def test_the_whole_command_takes_less_than_two_seconds_of_a_processor(mutated, tmp_path, number):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "eighteen", "train", "data.e18", "--recipe", str(mutated[number])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=os.environ)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 2
    assert_four_parts(done.stderr)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < SECONDS
