"""Training on several machines: that one has already, that Slurm gives, or that are rented."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from eighteen.base.errors import UsageError
from eighteen.cli.app import Changes, app, console

if TYPE_CHECKING:
    from eighteen.base.events import OnEvent
    from eighteen.base.rundir import RunDir
    from eighteen.cloud.sky import Rental

# What only some ways to get machines have a use for.
FITTING = {
    "--machines": ("--slurm", "--cloud"),
    "--hours": ("--slurm",),
    "--sbatch": ("--slurm",),
    "--gpu": ("--cloud",),
    "--spot": ("--cloud",),
    "--region": ("--cloud",),
    "--cheapest": ("--cloud",),
    "--prices": ("--cloud",),
    "--measured": ("--cloud",),
    "--yes": ("--cloud",),
    "--keep": ("--cloud",),
    "--managed": ("--cloud",),
    "--python": ("--hosts", "--cloud"),
    "--max-hours": ("--hosts", "--cloud"),
    "--max-cost": ("--hosts", "--cloud"),
    "--after-success": ("--hosts", "--cloud"),
    "--after-failure": ("--hosts", "--cloud"),
    "--power-off": ("--hosts",),
}


@app.command
def launch(
    data: str,
    *,
    hosts: str | None = None,
    slurm: str | None = None,
    cloud: str | None = None,
    machines: int | None = None,
    hours: float | None = None,
    sbatch: Annotated[tuple[str, ...], Parameter(negative="", consume_multiple=False)] = (),
    gpu: str | None = None,
    spot: Annotated[bool, Parameter(negative="")] = False,
    region: str | None = None,
    cheapest: Annotated[bool, Parameter(negative="")] = False,
    prices: Path | None = None,
    measured: Annotated[tuple[Path, ...], Parameter(negative="")] = (),
    yes: Annotated[bool, Parameter(negative="")] = False,
    keep: Annotated[bool, Parameter(negative="")] = False,
    managed: Annotated[bool, Parameter(negative="")] = False,
    python: str | None = None,
    gpus: int | None = None,
    procs: int | None = None,
    recipe: str = "auto",
    model: str | None = None,
    epochs: float | None = None,
    batch: int | None = None,
    set_: Changes = (),
    time: str | None = None,
    until: str | None = None,
    cost: str | None = None,
    price_usd_h: float | None = None,
    checkpoint_to: str | None = None,
    stage: Literal["stream", "first"] | None = None,
    warm: Annotated[bool, Parameter(negative="")] = False,
    disk_max: str | None = None,
    max_hours: float | None = None,
    max_cost: str | None = None,
    after_success: str | None = None,
    after_failure: str | None = None,
    power_off: Annotated[bool, Parameter(negative="")] = False,
    name: str | None = None,
    runs_dir: Path = Path("runs"),
    new: Annotated[bool, Parameter(negative="")] = False,
    preflight: bool = True,
    print_: Annotated[bool, Parameter(name="--print", negative="")] = False,
) -> None:
    """Train on several machines, and bring the run home.

    They are reached by ssh (--hosts), and sent program and dataset; or are those of Slurm (--slurm), which share
    a disk with this one; or are rented by SkyPilot (--cloud), after what they cost was agreed to, and given back at the
    end, however that comes.

    The same command again goes on with its launch, if this program was stopped or killed meanwhile; training goes on
    without it.

    Args:
        data: A packed dataset, which is sent to each machine, or which all of Slurm's see; or its URL, from where each
            gets it.
        hosts: Machines, e.g. node1,user@node2:2222, or a file with one a line. Ranks meet at the first.
        slurm: A partition of the cluster, or "default" for the one that it takes by itself.
        cloud: Rent machines there: aws, gcp, azure, or another that SkyPilot knows.
        machines: How many of Slurm's, 1 if left out; or to rent, if left out as eighteen plan would choose by --time or
            --cost.
        gpu: Of each machine that is rented, e.g. H100:8; left out, as --machines.
        spot: Cheaper ones, which may be taken back.
        region: Only there, e.g. us-east-1.
        cheapest: Ask for the cheapest place by name, and for the next if it has none.
        prices: A CSV table of offers, instead of the one that comes with the program.
        measured: What eighteen bench --json wrote, to tell what the run will take. May be several.
        yes: Rent without being asked whether the price is right.
        keep: Leave the machines rented at the end, or after Ctrl-C.
        managed: Let SkyPilot look after it, as one of its managed jobs: it rents anew where machines are lost, and
            training goes on from --checkpoint-to. Needs a dataset at a URL.
        hours: Slurm's time limit, after which the job is saved and goes back into the queue; if left out a quarter of
            an hour more than --time, or else the partition's.
        sbatch: An option of sbatch, e.g. account=vision or cpus-per-task=8. May be repeated.
        python: Of the machines, 3.11 or newer: python3, or one that is installed on machines that are rented.
        gpus: Ranks on each machine, one a GPU; all its GPUs if left out, but with --slurm one rank.
        procs: Ranks on each machine, as CPU processes.
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
        max_hours: After so many hours all is saved and ended, by the machines themselves; 24 if they are rented.
        max_cost: The same in dollars, e.g. '$40', by what is rented or by --price-usd-h.
        after_success: When the machines end what is left, e.g. stop:10m; keep: not at all.
        after_failure: The same after a failure, or where this program is gone before training began: stop:60m.
        power_off: Then the machines power off; 10 minutes after success and 60 after a failure, if left out. Rented
            ones always do.
        name: Of the run; NAME-UTC is its folder.
        runs_dir: Where runs lie.
        new: Begin a new launch, also where one of the same command could go on.
        preflight: Measure first whether the machines can train together: names, ports, links, an all-reduce.
        print_: Show what would be sent and done, and do nothing.
    """
    from eighteen.base import recipe as recipes
    from eighteen.cli import rental as rentals
    from eighteen.cloud import managed as managing
    from eighteen.cloud import sky
    from eighteen.cloud.limits import limits

    way = _only({"--hosts": hosts, "--slurm": slurm, "--cloud": cloud})
    theirs = {"--machines": machines, "--hours": hours, "--sbatch": sbatch, "--gpu": gpu, "--spot": spot}
    theirs |= {"--region": region, "--cheapest": cheapest, "--prices": prices, "--measured": measured, "--yes": yes}
    theirs |= {"--managed": managed, "--keep": keep, "--python": python, "--max-hours": max_hours}
    theirs |= {"--max-cost": max_cost, "--after-success": after_success, "--after-failure": after_failure}
    theirs |= {"--power-off": power_off}
    _require_fitting(way, theirs)
    if gpus is not None and procs is not None:
        need, hint = "one of them", "--gpus for GPUs, --procs for CPU processes"
        raise UsageError("launch", got="both --gpus and --procs", need=need, hint=hint)
    for flag, value in {"--keep": keep, "--after-success": after_success, "--after-failure": after_failure}.items():
        if managed and value:
            need = "--managed without it: SkyPilot gives the machines back as soon as a job has ended"
            raise UsageError("launch --managed", got=flag, need=need, hint=f"leave out {flag}")
    ranks = gpus if gpus is not None else procs
    if ranks is not None and ranks < 1:
        raise UsageError("--gpus", got=str(ranks), need="1 or more", hint="--gpus 8")
    file = Path(recipe) if recipe.endswith(".toml") else None
    if file is not None and not file.is_file():
        raise UsageError(f"launch with {recipe}", got="nothing there", need="a recipe", hint="eighteen recipes")
    if recipe != "auto":  # what is wrong in it is said here, and not by each machine
        recipes.load(recipe, model=model, epochs=epochs, batch=batch, changes=set_, side=32)
    given = {"--model": model, "--epochs": epochs, "--batch": batch, "--time": time, "--until": until}
    given |= {"--cost": cost, "--price-usd-h": price_usd_h, "--checkpoint-to": checkpoint_to}
    given |= {"--stage": stage, "--disk-max": disk_max}
    given |= {} if file else {"--recipe": recipe}
    words = [word for flag, value in given.items() if value is not None for word in (flag, str(value))]
    words += [word for change in set_ for word in ("--set", change)] + ["--warm"] * warm
    asked: dict[str, Any] = {"words": words, "recipe": file, "name": name}
    if slurm is not None:
        asked |= {"partition": slurm, "machines": 1 if machines is None else machines, "gpus": gpus, "procs": procs}
        asked |= {"hours": hours, "time_": time, "sbatch": sbatch}
        begun = _by_slurm(data, asked, runs_dir=runs_dir, new=new, is_shown=print_)
    else:
        asked |= {"machines": hosts or "", "python": python or ("python3" if hosts else sky.OWN_PYTHON)}
        asked |= {"ranks": ranks or 0, "power_off": power_off or (cloud is not None and not managed)}
        if managed:
            managing.require_urls(data, words)
        rental = None
        if cloud is not None:
            place = {"spot": spot, "region": region, "cheapest": cheapest, "managed": managed}
            money = {"time": time, "cost": cost, "price_usd_h": price_usd_h, "max_hours": max_hours}
            money |= {"max_cost": max_cost, "prices": prices, "measured": measured}
            wish = rentals.Asked(cloud, gpu, machines, **place, **money)
            rentals.check(wish)
            training = {"recipe": recipe, "epochs": epochs, "batch": batch, "changes": set_}
            asked["rent"] = wish.words
            where = None if new else runs_dir
            rental = rentals.agreed(wish, data, asked, training, runs_dir=where, is_agreed=yes, is_shown=print_)
            if rental is None:
                return
            price_usd_h = rental.usd_h
        asked["limits"] = limits(
            max_hours=max_hours,
            max_cost=max_cost,
            price_usd_h=price_usd_h,
            after_success=after_success,
            after_failure=after_failure,
            power_off=asked["power_off"],
        )
        if managed:
            assert rental, "it was agreed to"
            _follow(_by_skypilot(data, asked, rental, runs_dir=runs_dir, new=new))
            return
        begun = _on_machines(
            data, asked, rental, runs_dir=runs_dir, new=new, is_shown=print_, is_kept=keep, has_preflight=preflight
        )
    if begun is not None:
        _follow(begun)


@dataclass(frozen=True)
class Begun:
    """A launch with a folder of its own.

    follow: to its end, telling events and words      said: about it, before      is_left: whether it goes on without us
    """

    run: RunDir
    follow: Callable[..., None]
    said: str | None = None
    is_left: bool = True


def _by_slurm(data: str, asked: dict[str, Any], *, runs_dir: Path, new: bool, is_shown: bool) -> Begun | None:
    """None if it is only shown."""
    from eighteen.cloud import cluster

    job = cluster.wanted(data, **asked)
    if is_shown:
        print("\n".join(cluster.shown(job, runs_dir)))
        return None
    run, job = cluster.prepared(job, recipe=asked["recipe"], runs_dir=runs_dir, new=new)
    return Begun(run, partial(cluster.follow, run, job))


def _by_skypilot(data: str, asked: dict[str, Any], rental: Rental, *, runs_dir: Path, new: bool) -> Begun:
    from eighteen.cloud import driver, launcher, managed, rent

    run, wanted, _ = launcher.prepared(data, **asked, runs_dir=runs_dir, new=new)
    driver.keep(run, replace(wanted, priced=["--price-usd-h", f"{rental.usd_h:.6g}"]))
    rent.keep(run, replace(rental, name=wanted.name))
    return Begun(run, partial(managed.follow, run))


def _on_machines(
    data: str,
    asked: dict[str, Any],
    rental: Rental | None,
    *,
    runs_dir: Path,
    new: bool,
    is_shown: bool,
    is_kept: bool,
    has_preflight: bool,
) -> Begun | None:
    """None if it is only shown. rental: of machines that are rented first      is_kept: whether they are in the end"""
    from eighteen.cloud import launcher, rent
    from eighteen.cloud.limits import described

    if is_shown:
        print("\n".join(launcher.shown(launcher.wanted(data, **asked)[0])))
        return None
    run, wanted, local = launcher.prepared(data, **asked, runs_dir=runs_dir, new=new)
    if rental is not None:
        rent.keep(run, replace(rental, name=wanted.name))

    def follow(*, on_event: OnEvent, say: Callable[[str], object]) -> None:
        with ExitStack() as stack:
            there = wanted
            if rental is not None:
                there = stack.enter_context(rent.rented(run, wanted, is_kept=is_kept, say=say))
            launcher.follow(run, there, local, on_event=on_event, say=say, has_preflight=has_preflight)

    ends = described(wanted.limits, began=wanted.began, power_off=wanted.power_off) if wanted.limits else None
    return Begun(run, follow, ends, is_left=rental is None or is_kept)


def _follow(begun: Begun) -> None:
    from eighteen.results.terminal import Display

    screen = console(stderr=True)
    say = partial(screen.print, markup=False, highlight=False, soft_wrap=True)
    say(f"launch {begun.run.path}")
    if begun.said:
        say(begun.said)
    try:
        with Display(screen) as display:
            begun.follow(on_event=display, say=say)
    except KeyboardInterrupt:
        if begun.is_left:
            say(f"training goes on; the same command follows it again, eighteen stop {begun.run.path} ends it")
        raise
    print(begun.run.path)


def _only(ways: Mapping[str, str | None]) -> str:
    given = [flag for flag, value in ways.items() if value is not None]
    if len(given) != 1:
        need, hint = f"one of {', '.join(ways)}", "--hosts node1,node2, or --slurm default --machines 2"
        raise UsageError("launch", got=" and ".join(given) or "no machines", need=need, hint=hint)
    return given[0]


def _require_fitting(way: str, given: Mapping[str, object]) -> None:
    for flag, ways in FITTING.items():
        if given[flag] not in (None, False, ()) and way not in ways:
            need = f"it with {' or '.join(ways)} only"
            raise UsageError(f"launch {way}", got=flag, need=need, hint=f"leave out {flag}")
