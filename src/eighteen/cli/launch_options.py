"""What ``eighteen launch`` is asked, in groups: each is a heading of its help, and fits some ways to get machines."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from eighteen.cli.app import Changes

Flag = Annotated[bool, Parameter(negative="")]


@Parameter(name="*", group="Training")
@dataclass(frozen=True)
class Training:
    """What ``eighteen train`` is asked on the machines.

    Args:
        recipe: A recipe by name, a TOML file, or auto, which picks one for the data and the machines.
        model: A timm name, or package.module:function.
        epochs: Stretch the recipe to this many.
        batch: The global batch of the first phase; the others and the learning rate follow.
        set_: Change the recipe: a.b=value. May be repeated.
        time: How long all may take, e.g. 18m.
        until: End with the first evaluation as good as this, e.g. top1=0.93.
        cost: What all may cost, e.g. '$2', by --price-usd-h.
        price_usd_h: Of all machines together, in dollars an hour.
        checkpoint_to: Copy each checkpoint there as well: a path that all machines see, or a URL of fsspec.
        stage: Of a dataset at a URL: stream, train as soon as its first shards are there, or first, when all are.
        warm: Also read the shards that are on the machines already into their memory.
        disk_max: The most that all datasets from URLs may take on each machine, e.g. 50GB.
    """

    recipe: str = "auto"
    model: str | None = None
    epochs: float | None = None
    batch: int | None = None
    set_: Changes = ()
    time: str | None = None
    until: str | None = None
    cost: str | None = None
    price_usd_h: float | None = None
    checkpoint_to: str | None = None
    stage: Literal["stream", "first"] | None = None
    warm: Flag = False
    disk_max: str | None = None

    @property
    def file(self) -> Path | None:
        """Of the recipe, where it is no name."""
        return Path(self.recipe) if self.recipe.endswith(".toml") else None

    @property
    def words(self) -> list[str]:
        """Of ``eighteen train``; a file is sent along, and named there."""
        words = []
        for flag, value in given(self).items():
            if flag == "--set":
                words += [word for change in value for word in (flag, change)]
            elif flag == "--warm":
                words.append(flag)
            elif flag != "--recipe" or self.file is None:
                words += [flag, str(value)]
        return words


@Parameter(name="*", group="Machines of Slurm")
@dataclass(frozen=True)
class Slurm:
    """With --slurm alone.

    Args:
        hours: Slurm's time limit, after which the job is saved and goes back into the queue; if left out a quarter of
            an hour more than --time, or else the partition's.
        sbatch: An option of sbatch, e.g. account=vision or cpus-per-task=8. May be repeated.
    """

    hours: float | None = None
    sbatch: Annotated[tuple[str, ...], Parameter(negative="", consume_multiple=False)] = ()


@Parameter(name="*", group="Machines that are rented")
@dataclass(frozen=True)
class Renting:
    """With --cloud alone.

    Args:
        gpu: Of each machine, e.g. H100:8; if left out as eighteen plan would choose by --time or --cost.
        spot: Cheaper ones, which may be taken back.
        region: Only there, e.g. us-east-1.
        cheapest: Ask for the cheapest place by name, and for the next if it has none.
        prices: A CSV table of offers, instead of the one that comes with the program.
        measured: What eighteen bench --json wrote, to tell what the run will take. May be several.
        yes: Rent without being asked whether the price is right.
        keep: Leave the machines rented at the end, or after Ctrl-C.
        managed: Let SkyPilot look after it, as one of its managed jobs: it rents anew where machines are lost, and
            training goes on from --checkpoint-to. Needs a dataset at a URL.
    """

    gpu: str | None = None
    spot: Flag = False
    region: str | None = None
    cheapest: Flag = False
    prices: Path | None = None
    measured: Annotated[tuple[Path, ...], Parameter(negative="")] = ()
    yes: Flag = False
    keep: Flag = False
    managed: Flag = False


@Parameter(name="*", group="Until when")
@dataclass(frozen=True)
class Ending:
    """What the machines see to themselves; Slurm has limits of its own.

    Args:
        max_hours: After so many hours all is saved and ended, by the machines themselves; 24 if they are rented.
        max_cost: The same in dollars, e.g. '$40', by what is rented or by --price-usd-h.
        after_success: When the machines end what is left, e.g. stop:10m; keep: not at all.
        after_failure: The same after a failure, or where this program is gone before training began: stop:60m.
        power_off: Then the machines power off; 10 minutes after success and 60 after a failure, if left out. Rented
            ones always do.
    """

    max_hours: float | None = None
    max_cost: str | None = None
    after_success: str | None = None
    after_failure: str | None = None
    power_off: Flag = False


def given(options: Any) -> dict[str, Any]:
    """What was typed, by flag."""
    values = {f"--{one.name.rstrip('_').replace('_', '-')}": getattr(options, one.name) for one in fields(options)}
    return {flag: value for flag, value in values.items() if value not in (None, False, ())}
