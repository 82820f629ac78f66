"""Why training is slow, and what it will take."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from eighteen.base.errors import UsageError
from eighteen.base.files import unwritable_is_said
from eighteen.cli.app import Changes, app, console, numbers, tidily, to_stderr, warn
from eighteen.cli.planned import planned


@app.command
@tidily()
def doctor(
    target: Path,
    *,
    recipe: str = "auto",
    model: str | None = None,
    batch: int | None = None,
    set_: Changes = (),
    gpus: int | None = None,
    procs: int | None = None,
    seconds: float = 10.0,
    fix: Annotated[bool, Parameter(negative="")] = False,
    json: Path | None = None,
) -> None:
    """Find out why training is slow, or learns wrongly: what, why, what shows it, what to type, what that will bring.

    Args:
        target: A run, also one that trains; or a dataset, on which a training is tried for some seconds.
        recipe: A recipe by name, a TOML file, or auto; as all below for a dataset only.
        model: A timm name, or package.module:function.
        batch: The global batch of the first phase; the others follow.
        set_: Change the recipe: a.b=value. May be repeated.
        gpus: Ranks to try with, one a GPU.
        procs: Ranks to try with, as CPU processes.
        seconds: How long to watch the training.
        fix: Apply what can be, one by one, keep what helps, and say what to type.
        json: A file to write the findings to.
    """
    from eighteen import api
    from eighteen.base.files import write_json
    from eighteen.results import findings

    if seconds <= 0:
        got, need = f"{seconds:g}", "seconds above 0"
        raise UsageError("--seconds", got=got, need=need, hint="eighteen doctor --seconds 10")
    found = api.doctor(
        target,
        recipe=recipe,
        model=model,
        batch=batch,
        changes=set_,
        gpus=gpus,
        procs=procs,
        seconds=seconds,
        fix=fix,
        say=to_stderr,
    )
    console().print(findings.show(found))
    if json is not None:
        write_json(json, {"v": 1, "findings": [findings.facts(one) for one in found]})
        print(f"wrote {json}")


@app.command
def plan(
    data: Path | None = None,
    *,
    samples: float | None = None,
    side: int | None = None,
    recipe: str = "auto",
    epochs: float | None = None,
    batch: int | None = None,
    set_: Changes = (),
    measured: Annotated[tuple[Path, ...], Parameter(negative="")] = (),
    prices: Path | None = None,
    machines: str = "1,2,4",
    target: str | None = None,
    time: str | None = None,
    cost: str | None = None,
    runs_dir: Path = Path(),
    json: Path | None = None,
    plot: Path | None = None,
) -> None:
    """Say what a training would take, here and on machines that can be rented: time, money, energy, disk, memory.

    It measures this machine first, unless that was done before or --measured says what it found.

    Args:
        data: A packed dataset.
        samples: Instead of a dataset: so many pictures, on paper, e.g. 1e9.
        side: Of the pictures on paper, the short one, in pixels; as ImageNet's if left out.
        recipe: A recipe by name, a TOML file, or auto, which picks one for the data and the machine.
        epochs: Stretch the recipe to this many.
        batch: The global batch of the first phase; the others follow.
        set_: Change the recipe: a.b=value. May be repeated.
        measured: What eighteen bench --json wrote, of this machine or others. May be several.
        prices: A CSV table of offers, instead of the one that comes with the program.
        machines: How many of an offer to plan with, e.g. 1,2,4.
        target: Plan with the cheapest recipe that claims this, e.g. top1=0.76.
        time: Show only what is expected to end in this time, e.g. 20m.
        cost: Show only what is expected to cost no more, e.g. '$10'.
        runs_dir: Where this machine is measured.
        json: A file to write all plans to.
        plot: An SVG to draw them into.
    """
    from tempfile import TemporaryDirectory

    from eighteen.advice.offers import offers
    from eighteen.base import budget as budgets
    from eighteen.data import dataset as datasets
    from eighteen.data.plan import TINY_SIDE
    from eighteen.demo.sheets import pack_sheets

    if (data is None) == (samples is None):
        got = "neither a dataset nor --samples" if data is None else "both a dataset and --samples"
        need, hint = "one of them", "eighteen plan --samples 1.28e6 --recipe fast"
        raise UsageError("plan", got=got, need=need, hint=hint)
    for flag, value in {"samples": samples, "side": side}.items():
        if value is not None and not 8 <= value <= 1e12:
            need, hint = "8 or more", f"eighteen plan --{flag} {'1e6' if flag == 'samples' else '375'}"
            raise UsageError(f"--{flag}", got=f"{value:g}", need=need, hint=hint)
    for flag, path, suffix in (("json", json, ".json"), ("plot", plot, ".svg")):
        if path is not None and (path.suffix.lower() != suffix or not path.parent.is_dir()):
            need = f"a {suffix} file in a folder that exists"
            raise UsageError(f"--{flag}", got=repr(str(path)), need=need, hint=f"--{flag} plans{suffix}")
    if recipe != "auto" and target is not None:
        raise UsageError("plan", got="--recipe and --target", need="one of them", hint="leave out --recipe")
    counts = numbers("--machines", machines)
    if not counts or min(counts) < 1:
        raise UsageError("--machines", got=repr(machines), need="numbers from 1 on", hint="--machines 1,2,4")
    limits = {
        "seconds": None if time is None else budgets.seconds(time),
        "usd": None if cost is None else budgets.dollars(cost),
    }
    offered = offers(prices)
    with TemporaryDirectory() as folder:
        from eighteen.advice import planning
        from eighteen.advice.rankings import fastest_first, within
        from eighteen.results import plans

        if data is not None:
            dataset = datasets.open(data)
        elif (side or planning.SIDE) <= TINY_SIDE:
            dataset = planning.noise(Path(folder), side or planning.SIDE)
        else:
            dataset = datasets.open(pack_sheets(Path(folder)))
        made = planned(
            dataset,
            samples=samples,
            side=side,
            recipe=recipe,
            epochs=epochs,
            batch=batch,
            changes=set_,
            files=measured,
            offered=offered,
            counts=counts,
            target=target,
            today=date.today(),
            runs_dir=runs_dir,
        )
    kept = within(made.plans, **limits)
    if not kept and made.plans:
        nearest = fastest_first(made.plans)[0]
        warn(f"none of {len(made.plans)} plans keeps to that; the fastest is {plans.told(nearest)}")
    console().print(plans.show(made.task, kept, made.refused, made.remarks))
    facts = (made.task, kept, made.refused, made.remarks)
    for path, written in ((json, plans.write), (plot, plans.draw)):
        if path is not None:
            with unwritable_is_said(path, hint=f"ls -ld {path.parent}"):
                written(path, *facts)
            print(f"wrote {path}")
