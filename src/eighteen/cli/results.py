"""What a run is worth, and what it says of pictures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from eighteen.base.errors import DataError, UsageError
from eighteen.base.world import from_environment
from eighteen.cli.app import app, console, warn


@app.command(name="eval")
def eval_(
    run: Path,
    data: Path,
    *,
    split: str | None = None,
    checkpoint: str | None = None,
    size: int | None = None,
    crop: float | None = None,
    rect: bool | None = None,
    tta: str | None = None,
) -> None:
    """Evaluate a run: top-1, top-5, loss, every class, the confusion matrix, calibration.

    Args:
        run: A run folder.
        data: A packed dataset with the same classes.
        split: val, test or train; val if there is one.
        checkpoint: Of the run, e.g. step-000123; its best if left out.
        size: Side of the pictures in pixels; as the run's recipe if left out, as is all below.
        crop: Share of a picture's short side that the centre crop keeps.
        rect: Let pictures keep their aspect ratio, in batches of like ones.
        tta: Test-time augmentation, told beside the plain scores: none, flip or crops.
    """
    from eighteen import api
    from eighteen.base import rundir
    from eighteen.results import tables

    changed = {"size": size, "crop": crop, "rect": rect, "tta": tta}
    found = api.evaluate(run, data, split=split, checkpoint=checkpoint, **changed, say=warn)
    if from_environment().is_first:
        console().print(tables.show(found))
        print(f"\nwrote {api.eval_folder(rundir.open(run), data, found.split)}")


@app.command
def live(run: Path | None = None, *, port: int = 8018, runs_dir: Path = Path("runs")) -> None:
    """Show a run as a page for a browser of this machine, until Ctrl-C: board, curves, what the doctor found.

    Args:
        run: A run folder, also of a launch; the newest one, or the next that begins, if left out.
        port: At 127.0.0.1; 0: any that is free.
        runs_dir: Where runs lie.
    """
    from functools import partial

    from eighteen.base.rundir import RunDir
    from eighteen.results import live

    place, signs = (runs_dir, ("",)) if run is None else (run, ("recipe.toml", "events.jsonl", "launch"))
    if not any((place / sign).exists() for sign in signs):
        got = "a folder without a run" if place.is_dir() else "no such folder"
        need, hint = "a folder that eighteen train made", "ls runs/, or first eighteen train photos.e18"
        raise UsageError(f"show {place}", got=got, need=need, hint=hint)
    find = partial(live.newest, runs_dir) if run is None else partial(RunDir, run)
    live.serve(live.Page(find), port=port, on_ready=lambda url: print(f"{url} shows it until Ctrl-C", flush=True))


@app.command
def predict(
    run: Path,
    *pictures: Annotated[str, Parameter(allow_leading_hyphen=True)],
    top: int = 5,
    out: Path | None = None,
    format: str | None = None,
    batch: int = 64,
    checkpoint: str | None = None,
    tta: Literal["none", "flip", "crops"] = "none",
) -> None:
    """Say what pictures show.

    Args:
        run: A run folder.
        pictures: Files, folders, globs, or - for paths from standard input.
        top: How many classes to name.
        out: A .csv, .jsonl, .parquet or .txt file; standard output if left out.
        format: text, csv, jsonl or parquet, where no file name says it.
        batch: Pictures at a time.
        checkpoint: Of the run; its best if left out.
        tta: Test-time augmentation, the mean over views of each picture: flip (2 of them) or crops (6).
    """
    from eighteen import api
    from eighteen.results import predictions
    from eighteen.results.inputs import expand

    predictions.format_of(out, format)  # before anything is loaded
    paths = expand(pictures, sys.stdin)
    classifier = api.load(run, checkpoint=checkpoint)
    top = min(top, len(classifier.classes))
    unread = predictions.write(classifier.stream(paths, top=top, batch=batch, tta=tta), out, top=top, format=format)
    if unread:
        got, hint = f"{unread} that cannot be read", "look at the errors in the output"
        raise DataError("predict every picture", got=got, need="pictures that can be decoded", hint=hint)
