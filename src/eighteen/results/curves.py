"""A run's events as curves over its epochs: figures of plotly as plain dicts, which a page hands to plotly.js.

Each has at most ``MOST_POINTS`` points a curve, however long the run; what lies between is their mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from eighteen.base.events import Event
from eighteen.results.lines import fill

MOST_POINTS = 600
KEEPS = 0.8  # of a smooth curve, at each of its points

TRAIN, VAL, VAL_5 = "#4477aa", "#cc3311", "#ee9977"
FAINT = "rgba(68, 119, 170, 0.3)"
PARTS = {"data": "#cc3311", "communication": "#ee7733", "other": "#bbbbbb", "compute": "#4477aa"}  # of a step's time

SHOWN = ("event", "time_s", "step", "epoch", "loss", "top1", "images_per_s", "waits", "lr", "memory_bytes")  # of steps

Figure = dict[str, Any]
Points = tuple[np.ndarray, np.ndarray]
Read = Callable[[Event], float | None]


def figures(events: Sequence[Event]) -> list[Figure]:
    """Accuracy, loss, speed, where the time goes, learning rate and memory, as ``{"data": ..., "layout": ...}``.

    events: those that count (``events.standing``)
    """
    steps = [one for one in events if one["event"] == "step" and one.get("epoch") is not None]
    evals = [_at(one, steps) for one in events if one["event"] == "eval" and one.get("split", "val") != "train"]
    phases = [one for one in events if one["event"] == "phase" and one.get("epoch") is not None]

    def curve(name: str, read: Read, colour: str = TRAIN, **how: Any) -> Figure:
        return _trace(name, _points(steps, read), colour, **how)

    def trained(name: str, read: Read) -> list[Figure]:
        epochs, values = _points(steps, read)
        faint = _trace(name, (epochs, values), FAINT, width=1, showlegend=False, hoverinfo="skip")
        return [faint, _trace(name, (epochs, _smooth(values)), TRAIN, width=2)]

    def seen(name: str, read: Read, colour: str) -> Figure:
        return _trace(name, _points(evals, read), colour, mode="lines+markers")

    top1, top5, loss = _reads("top1", 100), _reads("top5", 100), _reads("loss")
    accuracy = [*trained("train top-1", top1), seen("val top-1", top1, VAL), seen("val top-5", top5, VAL_5)]
    losses = [*trained("train", loss), seen("val", loss, VAL)]
    parts = [curve(part, _reads_part(part), colour, width=0, stackgroup="time") for part, colour in PARTS.items()]
    return [
        _figure("accuracy, %", accuracy, phases),
        _figure("loss", losses, phases),
        _figure("images/s", [curve("images/s", _reads("images_per_s"))], phases, rangemode="tozero"),
        _figure("where the time goes, %", parts, phases, range=[0, 100]),
        _figure("learning rate", [curve("learning rate", _reads("lr"))], phases, rangemode="tozero"),
        _figure("memory, GiB", [curve("memory", _reads("memory_bytes", 2**-30))], phases, rangemode="tozero"),
    ]


def slim(event: Event) -> Event:
    """Without what no curve shows, if it is one of the many about steps."""
    return {name: event[name] for name in SHOWN if name in event} if event["event"] == "step" else event


def _at(evaluated: Event, steps: Sequence[Event]) -> Event:
    """With the epoch of its step: at the end of a run its own counts an epoch that was cut short as a whole one."""
    if not steps:
        return evaluated
    done, epochs = ([one[name] for one in steps] for name in ("step", "epoch"))
    return evaluated | {"epoch": float(np.interp(evaluated["step"], done, epochs))}


def _reads(name: str, factor: float = 1.0) -> Read:
    return lambda event: None if (value := event.get(name)) is None else factor * value


def _reads_part(part: str) -> Read:
    return lambda event: None if (share := (event.get("waits") or {}).get(part)) is None else 100 * share


def _points(events: Iterable[Event], read: Read) -> Points:
    """Epochs and values, [N] float each, N <= MOST_POINTS; means of neighbours where there are more."""
    told = [(one["epoch"], value) for one in events if (value := read(one)) is not None]
    every = max(1, -(-len(told) // MOST_POINTS))
    means = [np.mean(told[start : start + every], axis=0) for start in range(0, len(told), every)]
    epochs, values = np.reshape(means, (-1, 2)).T
    return epochs, values


def _smooth(values: np.ndarray) -> np.ndarray:
    """The exponential moving average, without the pull of its beginning (Kingma and Ba 2015, arXiv 1412.6980)."""
    mean, weight, smooth = 0.0, 0.0, []
    for value in values:
        mean, weight = KEEPS * mean + (1 - KEEPS) * value, KEEPS * weight + (1 - KEEPS)
        smooth.append(mean / weight)
    return np.array(smooth)


def _trace(name: str, points: Points, colour: str, *, width: float = 1.5, **how: Any) -> Figure:
    x, y = map(_rounded, points)
    line = {"color": colour, "width": width}
    return {"type": "scatter", "mode": "lines", "name": name, "x": x, "y": y, "line": line, **how}


def _rounded(values: np.ndarray) -> list[float]:
    return [float(f"{value:.5g}") for value in values]


def _figure(title: str, traces: Sequence[Figure], phases: Sequence[Event], **y_axis: Any) -> Figure:
    """phases: where one begins with another size or batch, a line stands, and says so at its top"""
    shown = [trace for trace in traces if trace["x"]]
    changes = [(new, text) for old, new in zip([{}, *phases], phases, strict=False) if (text := _change(old, new))]
    return {
        "data": shown,
        "layout": {
            "title": {"text": title},
            "showlegend": len({trace["name"] for trace in shown}) > 1,
            "yaxis": y_axis,
            "shapes": [_line(phase["epoch"]) for phase, _ in changes],
            "annotations": [_label(phase["epoch"], text) for phase, text in changes],
        },
    }


def _change(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What is said of a phase: its size, or, where that is the one before it, its batch; nothing if all is the same."""
    if old.get("size") != new.get("size"):
        return fill("{size} px", new)
    return fill("batch {batch}", new) if old.get("batch") != new.get("batch") else ""


def _line(epoch: float) -> Figure:
    line = {"color": "#999999", "width": 1, "dash": "dot"}
    return {"type": "line", "x0": epoch, "x1": epoch, "yref": "paper", "y0": 0, "y1": 1, "line": line}


def _label(epoch: float, text: str) -> Figure:
    font, place = {"size": 10, "color": "#777777"}, {"xanchor": "left", "yref": "paper", "y": 1, "yanchor": "bottom"}
    return {"x": epoch, "text": text, "showarrow": False, "font": font, **place}
