"""What the pages say, held against the program."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from eighteen import cli
from eighteen.base import errors
from eighteen.base import recipe as recipes

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "LOG.md")] + sorted((ROOT / "docs").rglob("*.md"))
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def commands(text: str) -> Iterator[list[str]]:
    """The words of each ``eighteen COMMAND ...`` in a page's blocks of code."""
    for block in re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if found := re.match(r"(?:\$ )?(?:torchrun .* -m )?eighteen (.*)", line):
                yield shlex.split(found[1], comments=True)


def flags(words: list[str]) -> set[str]:
    return {word.partition("=")[0] for word in words if word.startswith("--")}


def test_reference_of_recipes_is_that_of_the_models():
    reference = script("recipe_reference")
    page = reference.PAGE.read_text("utf-8")
    assert page == reference.page(page), "run: python scripts/recipe_reference.py"
    assert "|  |" not in page, "a key without a meaning"


def test_recipe_on_the_page_is_valid(tmp_path):
    (tmp_path / "mine.toml").write_text(
        re.findall(r"^```toml\n(.*?)^```", _text("recipes.md"), re.MULTILINE | re.DOTALL)[0]
    )
    assert recipes.load(str(tmp_path / "mine.toml")).epochs == 30


def test_readme_names_the_recipes_that_there_are():
    (listed,) = re.findall(r"^The recipes are (.*?)\.$", _text("README.md"), re.MULTILINE | re.DOTALL)
    assert re.findall(r"`([\w-]+)`", listed) == list(recipes.bundled())


def test_page_on_recipes_has_the_claim_of_each():
    for name in recipes.bundled():
        recipe = recipes.load(name, side=32)
        claim = recipe.claim
        theirs = f"{claim['published']} ({claim['source']})" if "published" in claim else "ours"
        assert f"| `{name}` | {recipe.about} | {theirs} | {claim['measured']} |\n" in _text("recipes.md")


@every_page
def test_every_command_on_the_pages_has_the_options_it_is_shown_with(page, capsys):
    for command, *words in commands(page.read_text("utf-8")):
        inner = words[:1] if command == "bench" else []
        assert cli.main([command, *inner, "--help"]) == 0
        assert flags(words) <= flags(re.findall(r"--[a-z-]+", capsys.readouterr().out))


@every_page
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_exit_codes_are_those_of_the_errors():
    told = {int(code) for code in re.findall(r"^\| (\d+)[ ,|]", _text("README.md"), re.MULTILINE)}
    kinds = errors.EighteenError.__subclasses__()
    assert {kind.exit_code for kind in kinds} - {errors.BudgetSpent.exit_code} <= told


def test_every_kind_of_event_is_explained():
    package = ROOT / "src" / "eighteen"
    source = "".join(path.read_text("utf-8") for room in ("training", "api") for path in (package / room).glob("*.py"))
    table = _text("events.md").partition("| kind |")[2].partition("\n\n")[0]
    told = set(re.findall(r"(?:event|_tell|\[|append\()\(\s*\"(\w+)\",\s", source))
    assert told == set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE))


def _text(name: str) -> str:
    return next(page for page in PAGES if page.name == name).read_text("utf-8")
