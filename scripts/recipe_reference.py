"""The reference of a recipe's keys: the models of ``base.recipe`` go in, the tables of docs/recipes.md come out.

``python scripts/recipe_reference.py`` writes them into docs/recipes.md, below its mark.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from eighteen.base.recipe import Recipe

PAGE = Path(__file__).parent.parent / "docs" / "recipes.md"
MARK = "<!-- below: written by scripts/recipe_reference.py -->\n"

Schema = Mapping[str, Any]  # of JSON Schema

# What pydantic calls a section -> its heading on the page.
SECTIONS = {
    "Model": "[model]",
    "Optim": "[optim]",
    "Drops": "[optim] lr, as drops",
    "Phase": "[[phases]]",
    "Augment": "[augment]",
    "Eval": "[eval]",
    "Data": "[data]",
    "Train": "[train]",
    "Budget": "[budget]",
}


def reference() -> str:
    """A table of keys for the top of a recipe, and one for each section."""
    schema = Recipe.model_json_schema()
    plain = {key: field for key, field in schema["properties"].items() if not _is_section(field)}
    tables = [("At the top", {**schema, "properties": plain})]
    tables += [(f"`{heading}`", schema["$defs"][name]) for name, heading in SECTIONS.items()]
    return "\n".join(f"### {heading}\n\n{_table(section)}" for heading, section in tables)


def page(old: str) -> str:
    """The page with today's tables below its mark."""
    above, mark, _ = old.partition(MARK)
    assert mark, f"no mark in {PAGE}"
    return f"{above}{mark}\n{reference()}"


def _is_section(field: Schema) -> bool:
    return "$ref" in field or "$ref" in field.get("items", {})


def _table(section: Schema) -> str:
    rows = [("key", "value", "default", "meaning"), ("---", "---", "---", "---"), *_rows(section)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _rows(section: Schema) -> Iterator[tuple[str, str, str, str]]:
    for key, field in section["properties"].items():
        default = "required" if key in section.get("required", ()) else _default(field.get("default"))
        yield f"`{key}`", _value(field).replace("|", "\\|"), default, field.get("description", "")


def _default(value: Any) -> str:
    if value is None:
        return "none"
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"`{value:.4g}`" if is_number else f"`{json.dumps(value)}`"


def _value(field: Schema) -> str:
    """What may stand there, in words."""
    if "anyOf" in field:
        return " or ".join(_value(option) for option in field["anyOf"] if option.get("type") != "null")
    if "enum" in field:
        return ", ".join(f"`{json.dumps(value)}`" for value in field["enum"])
    if "$ref" in field:
        return "a table"
    if field["type"] == "array":
        return f"[{', '.join(map(_value, field['prefixItems']))}]" if "prefixItems" in field else _list(field)
    names = {"boolean": "true, false", "integer": "whole number", "number": "number", "string": "text"}
    return names.get(field["type"], "a table") + _bounds(field)


def _list(field: Schema) -> str:
    return f"list of {_value(field['items'])}"


def _bounds(field: Schema) -> str:
    if "minimum" in field and "maximum" in field:
        return f" from {_number(field['minimum'])} to {_number(field['maximum'])}"
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {_number(field[name])}" for name, sign in signs.items() if name in field]
    return f" {' and '.join(bounds)}" if bounds else ""


def _number(bound: float) -> str:
    power = int(bound).bit_length() - 1
    return f"2^{power}" if power > 30 and bound == 2**power else f"{bound:g}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
