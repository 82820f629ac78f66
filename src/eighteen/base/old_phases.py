"""Phases as the ImageNet program of 2018 wrote them -> the TOML of a recipe.

In: its list of dicts as text, e.g. ``[{'ep': 0, 'sz': 128, 'bs': 512}, {'ep': (0, 28), 'lr': (1.0, 0.0)}]``; it is
parsed as data and never evaluated. An entry with ``bs`` says what is trained on from its epoch on, one with ``lr`` the
rate from its epoch on, (first, last) along a line; one entry may say both. Batches are those of one GPU, and rates are
absolute. Out: a recipe of the same batches and the same rate at every step (Shaw, Bulatov and Howard 2018,
github.com/cybertronai/imagenet18).
"""

from __future__ import annotations

import ast
import math
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from eighteen.base.errors import RecipeError, did_you_mean
from eighteen.base.recipe import parse

KEYS = {"ep", "sz", "bs", "lr", "trndir", "valdir", "min_scale", "rect_val", "use_ar", "keep_dl"}
LONGEST = 100_000  # characters: more is no list that a person wrote
MOST = 1e9
MIN_SCALE = 0.08  # what the program took where a phase said nothing
JUST_BEFORE = 1e-6  # epochs: the end of a line whose successor starts elsewhere; far less than a step lasts
EXAMPLE = (
    """eighteen recipes --from-phases "[{'ep': 0, 'sz': 128, 'bs': 256}, {'ep': (0, 18), 'lr': (1.0, 0.0)}]" --gpus 8"""
)


@dataclass(frozen=True)
class _Pictures:
    """What is trained on from epoch ``start`` on; batch is that of one GPU."""

    start: float
    size: int
    batch: int
    min_scale: float
    rect: bool
    rendition: str | None


@dataclass(frozen=True)
class _Line:
    """The rate from epoch ``start`` to ``end``, where it is ``first`` and ``last``."""

    start: float
    end: float
    first: float
    last: float

    def at(self, epoch: float) -> float:
        return self.first + (self.last - self.first) * (epoch - self.start) / (self.end - self.start)


def translated(text: str, *, num_gpus: int) -> str:
    """The recipe as TOML. Raises RecipeError for whatever is no list of such phases, has gaps or overlaps."""
    if num_gpus < 1:
        raise RecipeError("--gpus", got=str(num_gpus), need="1 or more", hint="--gpus 8")
    entries = _entries(text)
    lines = _lines(entries)
    pictures = _pictures(entries, end=lines[-1].end)
    toml = _toml(pictures, lines, num_gpus)
    parse(tomllib.loads(toml))
    return toml


def _entries(text: str) -> list[dict[str, Any]]:
    need = "a list of dicts of numbers and strings, as the program printed it"
    if len(text) > LONGEST:
        raise RecipeError("--from-phases", got=f"{len(text):,} characters", need=need, hint=EXAMPLE)
    try:
        found = ast.literal_eval(text.strip())
        shown = repr(found)[:80]  # a ValueError for a number of too many digits
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        got = f"what is no plain data ({re.sub(' on line .*|: <.*', '', str(error))[:80] or type(error).__name__})"
        raise RecipeError("--from-phases", got=got, need=need, hint=EXAMPLE) from None
    if not isinstance(found, list | tuple) or not found or not all(isinstance(entry, dict) for entry in found):
        raise RecipeError("--from-phases", got=shown, need=need, hint=EXAMPLE)
    for number, entry in enumerate(found):
        if unknown := [key for key in entry if key not in KEYS]:
            raise _wrong(number, got=f"an unknown key {unknown[0]!r}"[:80], need=_keys(), hint=_meant(unknown[0]))
        if "ep" not in entry or not {"bs", "lr"} & {*entry}:
            raise _wrong(number, got=f"only {', '.join(entry) or 'nothing'}", need="ep, and bs or lr", hint=EXAMPLE)
    return list(found)


def _lines(entries: list[dict[str, Any]]) -> list[_Line]:
    """The rate over all epochs, without a gap."""
    numbered = [(number, entry) for number, entry in enumerate(entries) if "lr" in entry]
    if not numbered:
        raise RecipeError("--from-phases", got="no lr in any entry", need="a learning rate", hint=EXAMPLE)
    spans = [_span(number, entry) for number, entry in numbered]
    _starts_in_order((number for number, _ in numbered), [start for start, _ in spans], "lr")
    lines = []
    following = [start for start, _ in spans[1:]] + [None]
    for (number, entry), (start, end), then in zip(numbered, spans, following, strict=True):
        if end is None and then is None:
            raise _wrong(number, got=f"no end after epoch {start:g}", need="'ep': (first, last) at last", hint=EXAMPLE)
        if end is not None and then is not None and end != then:
            raise _not_joined(number, start, end, then, need="rates that follow each other")
        rates = _numbers(number, entry, "lr", least=0.0)
        if len(rates) == 2 and end is None:
            hint = f"'ep': ({start:g}, {then:g})"
            raise _wrong(number, got="two rates but no last epoch", need="'ep': (first, last)", hint=hint)
        until = then if then is not None else end
        assert until is not None
        lines.append(_Line(start, until, rates[0], rates[-1]))
    return lines


def _pictures(entries: list[dict[str, Any]], *, end: float) -> list[_Pictures]:
    numbered = [(number, entry) for number, entry in enumerate(entries) if "bs" in entry]
    if not numbered:
        raise RecipeError("--from-phases", got="no bs in any entry", need="a batch and a size", hint=EXAMPLE)
    found: list[_Pictures] = []
    for number, entry in numbered:
        start, batch = _span(number, entry)[0], _whole(number, entry, "bs")
        if _flag(number, entry, "keep_dl"):  # the program changed nothing but the batch
            found.append(_kept(number, entry, found, start, batch))
            continue
        if "sz" not in entry:
            raise _wrong(number, got="bs without sz", need="sz, or 'keep_dl': True", hint="'sz': 128")
        scale = _numbers(number, entry, "min_scale", least=0.0)[0] if "min_scale" in entry else MIN_SCALE
        rect = _flag(number, entry, "rect_val") or _flag(number, entry, "use_ar")
        _rendition(number, entry, "valdir")
        rendition = _rendition(number, entry, "trndir")
        found.append(_Pictures(start, _whole(number, entry, "sz"), batch, scale, rect, rendition))
    starts = [one.start for one in found]
    _starts_in_order((number for number, _ in numbered), starts, "bs")
    if starts[-1] >= end:
        got = f"a phase from epoch {starts[-1]:g} on, where the rates have ended"
        raise _wrong(numbered[-1][0], got=got, need=f"an epoch below {end:g}", hint="a last lr that ends later")
    for (number, entry), start, then in zip(numbered, starts, [*starts[1:], end], strict=True):
        last = None if "lr" in entry else _span(number, entry)[1]  # beside a rate it is the rate's
        if last not in (None, then):
            raise _not_joined(number, start, last, then, need="sizes that follow each other up to the last lr")
    return found


def _kept(number: int, entry: dict[str, Any], before: list[_Pictures], start: float, batch: int) -> _Pictures:
    if not before:
        raise _wrong(number, got="keep_dl in the first phase", need="sz and bs", hint="'sz': 128")
    kept = before[-1]
    if "sz" in entry and _whole(number, entry, "sz") != kept.size:
        got, need = f"keep_dl with sz {entry['sz']}", f"sz {kept.size} as before, or no keep_dl"
        raise _wrong(number, got=got, need=need, hint=f"'sz': {kept.size}")
    return _Pictures(start, kept.size, batch, kept.min_scale, kept.rect, kept.rendition)


def _starts_in_order(numbers: Iterable[int], starts: list[float], key: str) -> None:
    numbers = list(numbers)
    if starts[0] != 0:
        got = f"a gap: the first {key} is at epoch {starts[0]:g}"
        raise _wrong(numbers[0], got=got, need=f"{key} from epoch 0 on", hint="'ep': 0")
    for number, (one, then) in zip(numbers[1:], pairwise(starts), strict=True):
        if then <= one:
            got = f"an overlap: {key} at epoch {then:g} after {key} at epoch {one:g}"
            raise _wrong(number, got=got, need="epochs that rise", hint=f"'ep' above {one:g}")


def _span(number: int, entry: dict[str, Any]) -> tuple[float, float | None]:
    """From epoch to epoch; None: until the next entry's."""
    epochs = _numbers(number, entry, "ep", least=0.0)
    if len(epochs) == 1:
        return epochs[0], None
    if epochs[1] <= epochs[0]:
        raise _wrong(number, got=f"ep {entry['ep']}", need="(first, last) epochs that rise", hint="'ep': (0, 6)")
    return epochs[0], epochs[1]


def _numbers(number: int, entry: dict[str, Any], key: str, *, least: float) -> list[float]:
    """One or two numbers, not below ``least``."""
    value = entry[key]
    parts = list(value) if isinstance(value, list | tuple) else [value]
    sound = [part for part in parts if isinstance(part, int | float) and not isinstance(part, bool)]
    if len(sound) != len(parts) or len(parts) not in (1, 2) or not all(least <= part < MOST for part in parts):
        need = f"{key} as one or two numbers from {least:g} to {MOST:g}"
        raise _wrong(number, got=f"{key} {value!r}"[:80], need=need, hint=EXAMPLE)
    return [float(part) for part in parts]


def _whole(number: int, entry: dict[str, Any], key: str) -> int:
    value = _numbers(number, entry, key, least=1)
    if len(value) != 1 or value[0] != int(value[0]):
        raise _wrong(number, got=f"{key} {entry[key]!r}", need=f"{key} as a whole number", hint=f"'{key}': 128")
    return int(value[0])


def _flag(number: int, entry: dict[str, Any], key: str) -> bool:
    value = entry.get(key, False)
    if not isinstance(value, bool):
        raise _wrong(number, got=f"{key} {value!r}"[:80], need="True or False", hint=f"'{key}': True")
    return value


def _rendition(number: int, entry: dict[str, Any], key: str) -> str | None:
    """The program kept smaller copies of all pictures in folders such as ``-sz/160``, named for the short side."""
    value = entry.get(key, "")
    known = re.fullmatch(r"(?:-sz/(\d{1,4}))?", value) if isinstance(value, str) else None
    if known is None:
        got, need = f"{key} {value!r}"[:80], "'' or '-sz/160', the short side of a rendition"
        raise _wrong(number, got=got, need=need, hint=f"leave out {key}, then set rendition in the TOML")
    return known[1]


def _not_joined(number: int, start: float, end: float, then: float, *, need: str) -> RecipeError:
    what = "a gap" if end < then else "an overlap"
    got = f"{what} from epoch {min(end, then):g} to {max(end, then):g}"
    return _wrong(number, got=got, need=need, hint=f"'ep': ({start:g}, {then:g})")


def _wrong(number: int, *, got: str, need: str, hint: str) -> RecipeError:
    return RecipeError(f"--from-phases, entry {number}", got=got, need=need, hint=hint)


def _keys() -> str:
    return f"one of {', '.join(sorted(KEYS))}"


def _meant(key: object) -> str:
    return did_you_mean(key, KEYS) if isinstance(key, str) else "keys as strings"


def _toml(pictures: list[_Pictures], lines: list[_Line], num_gpus: int) -> str:
    ends = [one.start for one in pictures[1:]] + [lines[-1].end]
    last, reference = pictures[-1], pictures[0].batch
    phases = "\n".join(_phase(one, end - one.start, num_gpus, last) for one, end in zip(pictures, ends, strict=True))
    points = [f"[{_plain(epoch)}, {_plain(rate)}]" for epoch, rate in _points(pictures, lines, reference)]
    rows = "".join(f"    {', '.join(points[first : first + 5])},\n" for first in range(0, len(points), 5))
    return f"""\
name = "translated"
about = "ResNet-50 through phases of the ImageNet program of 2018."

[model]
name = "resnet50"
args = {{ zero_init_last = true }}

[optim]
name = "sgd"
momentum = 0.9
nesterov = false
weight_decay = 1e-4
batch = {reference * num_gpus}
lr = [
{rows}]

{phases}
[eval]
size = {last.size}
crop = 0.877
rect = {str(last.rect).lower()}
"""


def _phase(one: _Pictures, epochs: float, num_gpus: int, last: _Pictures) -> str:
    rows = [f"epochs = {_plain(epochs)}", f"size = {one.size}", f"batch = {one.batch * num_gpus}"]
    rows += [f"min_scale = {_plain(one.min_scale)}"]
    if one.rendition:
        rows.append(f'rendition = "{one.rendition}"')
    if one.size != last.size:
        rows.append(f"eval_size = {one.size}")
    if one.rect != last.rect:
        rows.append(f"eval_rect = {str(one.rect).lower()}")
    return "\n".join(["[[phases]]", *rows, ""])


def _points(pictures: list[_Pictures], lines: list[_Line], reference: int) -> list[tuple[float, float]]:
    """Points of a rate that is multiplied by batch / reference; where it jumps, one just before and one there."""
    end = lines[-1].end
    borders = sorted({one.start for one in pictures} | {line.start for line in lines} | {end})
    points: list[tuple[float, float]] = []
    for start, stop in pairwise(borders):
        batch = [one for one in pictures if one.start <= start][-1].batch
        line = [one for one in lines if one.start <= start][-1]
        first, last = (line.at(epoch) * reference / batch for epoch in (start, stop))
        if not points:
            points.append((start, first))
        elif not math.isclose(points[-1][1], first, rel_tol=1e-9):
            points[-1] = (start - JUST_BEFORE, points[-1][1])
            points.append((start, first))
        points.append((stop, last))
    return points


def _plain(value: float) -> str:
    """Ten digits: what the program's own arithmetic added after them is noise."""
    return f"{value:.0f}" if value == int(value) and value < 1e9 else f"{value:.10g}"
