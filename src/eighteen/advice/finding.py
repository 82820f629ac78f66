"""What the doctor has found: one thing that costs time or accuracy, what shows it, and what to type against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

LEAST_SHARE = 0.05  # of the time: what costs less is not worth a word


class Gain(NamedTuple):
    """How many times as fast the run would be without it: at least, likely and at most."""

    low: float
    likely: float
    high: float


@dataclass(frozen=True)
class Finding:
    """code: also the name of its page in docs/doctor/
    what, why: one sentence each      evidence: what was measured
    command: what to type, or to do where no command does it
    gain: None where it costs accuracy and no time, or where nobody can tell
    fix: keys of the recipe and their new values, where that is all it takes
    is_safe: the fix changes nothing of what is learned, so that it may be applied while a run trains
    items: what it is about, where that is more than a sentence can name, such as pictures
    """

    code: str
    what: str
    why: str
    evidence: str
    command: str
    gain: Gain | None = None
    fix: Mapping[str, Any] = field(default_factory=dict)
    is_safe: bool = False
    items: Sequence[str] = ()

    @property
    def share(self) -> float:
        """Of the time, that it costs."""
        return 1 - 1 / self.gain.likely if self.gain else 0.0


def around(likely: float, *, by: float = 0.2) -> Gain:
    """A gain, and by how much of it the model that foretells it is usually wrong."""
    more = likely - 1
    return Gain(1 + (1 - by) * more, likely, 1 + (1 + by) * more)


def fixed(fix: Mapping[str, Any]) -> str:
    """A fix as flags of a command."""
    return " ".join(
        f"--batch {value}" if key == "batch" else f"--set {key}={toml(value)}" for key, value in fix.items()
    )


def toml(value: Any) -> str:
    """A value of a fix, as ``--set`` takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
