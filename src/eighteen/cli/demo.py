"""The whole chain on pictures that are drawn for it."""

from __future__ import annotations

from pathlib import Path

from eighteen.base.files import unwritable_is_said
from eighteen.cli.app import app


@app.command
def demo(folder: Path = Path("demo"), *, samples: int = 3000) -> None:
    """Make pictures, then pack, train, evaluate and predict with the commands a person would type.

    Args:
        folder: Where everything goes.
        samples: How many pictures to make.
    """
    from eighteen.demo.tour import run_demo

    with unwritable_is_said(folder, hint=f"df -h {folder.parent}, or eighteen demo another"):
        raise SystemExit(run_demo(folder, num_samples=samples))
