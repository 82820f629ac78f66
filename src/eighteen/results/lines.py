"""An event as one line of text, and quantities as people read them: what the log and the terminal share.

In: events as ``base/events.py`` lists them, any fact of which may be missing. Out: strings; what is missing is ``-``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from eighteen.base.budget import usd
from eighteen.base.events import Event

MISSING = "-"

_TEMPLATES = {
    "start": (
        "start {recipe} on {dataset}  {num_classes} classes  {num_samples} pictures  {epochs:g} epochs  "
        "{num_steps} steps  {model} of {num_weights} weights  {world} x {device} in {precision}  decoder {decoder}"
    ),
    "resume": "resume at step {step}  from {checkpoint}",
    "restart": "restart {attempt}  after {reason}  from step {step} on {world} ranks",
    "phase": "phase {phase}  size {size}  batch {batch}  from epoch {epoch:.4g}  step {step}",
    "step": (
        "step {step}/{num_steps}  epoch {epoch:.2f}  size {size}  batch {batch}  {images_per_s:,.0f} images/s  "
        "loss {loss:.4f}  top-1 {top1:percent}  top-5 {top5:percent}  lr {lr:.4g}  waiting {waiting:percent}  "
        "memory {memory_bytes:memory}  ETA {eta_s:clock}"
    ),
    "eval": (
        "eval {split}  epoch {epoch:.4g}  size {size}  loss {loss:.4f}  top-1 {top1:percent}  top-5 {top5:percent}  "
        "without TTA  {num_samples} pictures in {seconds:.1f} s"
    ),
    "checkpoint": "checkpoint {path}  {bytes:memory} in {seconds:.1f} s",
    "tuned": "tuned in {seconds:.1f} s  micro-batches {parts}  threads {threads}  batch {batch}",
    "calibrated": "calibrated in {seconds:.1f} s",
    "budget": (
        "budget {seconds:clock}  spent {spent_s:clock}  {num_steps} steps, {epochs:.4g} epochs, an evaluation every "
        "{every}  steps take {speed_ratio:.2f} of what was measured"
    ),
    "reached": "reached top-1 {top1:percent} in {seconds:clock}",
    "skip": "skip step {step}  its loss was not finite, no weight was changed  {streak} in a row",
    "warning": "warning: {text}",
    "finding": "finding {code}: {what}: {evidence}  try {command}  docs/doctor/{code}.md",
    "fixed": "fixed from step {step} on",
    "notice": "notice of {cloud}: {what}  {when}",
    "end": "end {reason}  step {step}  top-1 {top1:percent}  top-5 {top5:percent}  without TTA  in {in_all:clock}",
}


def line(event: Event, *, num_steps: int | None = None) -> str:
    """One event in one line, without its time. num_steps is what the start event promised."""
    template = _TEMPLATES.get(event["event"])
    if template is None:  # from a later version: every fact as it is
        known = (f"{name} {value}" for name, value in event.items() if name not in ("event", "time_s", "v"))
        return visible("  ".join([event["event"], *known]))
    classes = event.get("classes")
    derived = {
        "num_classes": len(classes) if isinstance(classes, list | tuple) else classes,
        "waiting": waiting(event.get("waits")),
        "in_all": in_all(event),
        "parts": ", ".join(MISSING if part is None else f"{part:,}" for part in event.get("micro_batch", ())),
    }
    return "  ".join([fill(template, {"num_steps": num_steps, **derived, **event}), *_notes(event)])


def _notes(event: Event) -> Iterator[str]:
    """What is worth a word only when it is so."""
    if event.get("rect"):
        yield "rectangles"
    if text := with_tta(event):
        yield text
    if event.get("kept"):
        yield f"pixels kept in {event['kept']} memory ({memory(event.get('kept_bytes', 0))})"
    if event.get("best") is True:
        yield "best so far"
    if event.get("cached") is True:
        yield "by an earlier run"
    yield from spent(event)
    if event.get("energy"):
        yield visible(f"energy {', '.join(f'{source} {how}' for source, how in event['energy'].items())}")
    if event.get("reached"):
        yield f"reached {', '.join(map(_milestone, milestones(event['reached'])))}"
    if event.get("gain"):
        yield f"{event['gain'][1]:.2f} times as fast without it"
    if event.get("fixed") is True:
        yield "applied at the end of this epoch"
    if event.get("fixes"):
        yield " ".join(f"{key}={value}" for key, value in event["fixes"].items())
    if event.get("goes"):
        yield "saving and stopping"
    if event.get("skipped"):
        yield f"{event['skipped']} skipped"
    if event.get("exit_code"):
        yield f"exit code {event['exit_code']}"


def in_all(end: Event) -> float | None:
    """Seconds since the command began, as far as its ``end`` knows: what was reached on the way has them too."""
    return end.get("clock_s", end.get("seconds"))


def milestones(reached: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What an ``end`` event has as ``reached``, by time; of those that one evaluation reached, the highest."""
    highest = {one["seconds"]: one for one in sorted(reached, key=lambda one: one["top1"])}
    return [highest[seconds] for seconds in sorted(highest)]


def _milestone(one: Mapping[str, Any]) -> str:
    cost = " and ".join(spent(one))
    return f"{percent(one['top1'], digits=0)} in {clock(one['seconds'])}{f' for {cost}' if cost else ''}"


def fill(template: str, facts: Mapping[str, Any]) -> str:
    """A ``str.format`` template filled with facts, of which any may be missing.

    Beside Python's own, there are the formats ``percent`` (of a share in [0, 1]), ``memory`` (of bytes), ``clock`` (of
    seconds), ``energy`` (of joules) and ``usd``. Numbers without a format have commas between thousands; text is made
    visible.
    """
    return template.format_map(_Facts(facts))


def with_tta(facts: Mapping[str, Any]) -> str:
    """The scores with test-time augmentation, and which; empty if there are none."""
    text = "with TTA ({tta}) top-1 {top1_tta:percent}  top-5 {top5_tta:percent}"
    return fill(text, facts) if facts.get("top1_tta") is not None else ""


def percent(share: float | None, *, digits: int = 2) -> str:
    return MISSING if share is None else f"{100 * share:.{digits}f} %"


def memory(num_bytes: float) -> str:
    """Bytes in the binary unit that leaves 1 to 1023 of it: ``3.4 GiB``."""
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    power = min(max(int(num_bytes).bit_length() - 1, 0) // 10, len(units) - 1)
    value = num_bytes / 1024**power
    return f"{value:.{1 if power and value < 100 else 0}f} {units[power]}"


def energy(joules: float) -> str:
    """Joules in watt-hours, or thousands of them, to three digits: ``34.2 Wh``."""
    hours, unit = (joules / 3.6e3, "Wh") if joules < 3.6e6 else (joules / 3.6e6, "kWh")
    return f"{hours:.{0 if hours >= 100 else 1 if hours >= 10 else 2}f} {unit}"


def spent(facts: Mapping[str, Any]) -> Iterator[str]:
    """Dollars, and energy, as far as they are known."""
    if facts.get("cost_usd") is not None:
        yield usd(facts["cost_usd"])
    if facts.get("energy_j") is not None:
        yield energy(facts["energy_j"])


def clock(seconds: float) -> str:
    """Seconds as ``m:ss``, ``h:mm:ss`` or ``d days h:mm:ss``."""
    minutes, second = divmod(max(0, round(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days} {'day' if days == 1 else 'days'} {hour}:{minute:02}:{second:02}"
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


def waiting(waits: Mapping[str, float] | None) -> float | None:
    """The share of time in which steps waited for their pictures."""
    return waits.get("data") if waits else None


def visible(text: str) -> str:
    r"""Text that cannot move the cursor or break a line: control codes, undecodable bytes as ``\n``, ``\udc80``."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class _Facts(dict[str, Any]):
    """Facts as ``format_map`` takes them: each can be missing, and each knows our formats."""

    def __getitem__(self, name: str) -> _Fact:
        return _Fact(self.get(name))


class _Fact:
    def __init__(self, value: Any) -> None:
        self._value = value

    def __format__(self, form: str) -> str:
        if self._value is None or self._value == "":
            return MISSING
        if not isinstance(self._value, int | float):
            return visible(str(self._value))
        ours = _FORMATS.get(form)
        return ours(self._value) if ours else format(self._value, form or ",")


_FORMATS = {"percent": percent, "memory": memory, "clock": clock, "energy": energy, "usd": usd}
