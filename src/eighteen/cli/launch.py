"""Training on several machines: that one has already, that Slurm gives, or that are rented."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from eighteen.base.errors import UsageError
from eighteen.cli.app import app, console
from eighteen.cli.launch_options import Ending, Flag, Renting, Slurm, Training, given

if TYPE_CHECKING:
    from eighteen.base.events import OnEvent
    from eighteen.base.rundir import RunDir
    from eighteen.cloud.sky import Rental

# What only some ways to get machines have a use for, beside groups of options.
FITTING = {
    "--machines": ("--slurm", "--cloud"),
    "--python": ("--hosts", "--cloud"),
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
    gpus: int | None = None,
    procs: int | None = None,
    python: str | None = None,
    name: str | None = None,
    runs_dir: Path = Path("runs"),
    new: Flag = False,
    preflight: bool = True,
    print_: Annotated[bool, Parameter(name="--print", negative="")] = False,
    training: Training = Training(),  # noqa: B008  # which cannot change
    on_slurm: Slurm = Slurm(),  # noqa: B008
    renting: Renting = Renting(),  # noqa: B008
    ending: Ending = Ending(),  # noqa: B008
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
        gpus: Ranks on each machine, one a GPU; all its GPUs if left out, but with --slurm one rank.
        procs: Ranks on each machine, as CPU processes.
        python: Of the machines, 3.11 or newer: python3, or one that is installed on machines that are rented.
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
    _require_fitting(way, {"--machines": machines, "--python": python}, on_slurm, renting, ending)
    if gpus is not None and procs is not None:
        need, hint = "one of them", "--gpus for GPUs, --procs for CPU processes"
        raise UsageError("launch", got="both --gpus and --procs", need=need, hint=hint)
    managed, price_usd_h = renting.managed, training.price_usd_h
    kept = {"--keep": renting.keep, "--after-success": ending.after_success, "--after-failure": ending.after_failure}
    for flag in (flag for flag, value in kept.items() if value and managed):
        need = "--managed without it: SkyPilot gives the machines back as soon as a job has ended"
        raise UsageError("launch --managed", got=flag, need=need, hint=f"leave out {flag}")
    ranks = gpus if gpus is not None else procs
    if ranks is not None and ranks < 1:
        raise UsageError("--gpus", got=str(ranks), need="1 or more", hint="--gpus 8")
    if training.file is not None and not training.file.is_file():
        got, hint = "nothing there", "eighteen recipes"
        raise UsageError(f"launch with {training.recipe}", got=got, need="a recipe", hint=hint)
    of_recipe = {"epochs": training.epochs, "batch": training.batch, "changes": training.set_}
    if training.recipe != "auto":  # what is wrong in it is said here, and not by each machine
        recipes.load(training.recipe, model=training.model, **of_recipe, side=32)
    asked: dict[str, Any] = {"words": training.words, "recipe": training.file, "name": name}
    if slurm is not None:
        asked |= {"partition": slurm, "machines": 1 if machines is None else machines, "gpus": gpus, "procs": procs}
        asked |= {"hours": on_slurm.hours, "time_": training.time, "sbatch": on_slurm.sbatch}
        begun = _by_slurm(data, asked, runs_dir=runs_dir, new=new, is_shown=print_)
    else:
        asked |= {"machines": hosts or "", "python": python or ("python3" if hosts else sky.OWN_PYTHON)}
        asked |= {"ranks": ranks or 0, "power_off": ending.power_off or (cloud is not None and not managed)}
        if managed:
            managing.require_urls(data, training.words)
        rental = None
        if cloud is not None:
            wish = rentals.Asked(cloud, machines, renting, training, ending)
            rentals.check(wish)
            asked["rent"] = wish.words
            where = None if new else runs_dir
            recipe = {"recipe": training.recipe, **of_recipe}
            rental = rentals.agreed(wish, data, asked, recipe, runs_dir=where, is_shown=print_)
            if rental is None:
                return
            price_usd_h = rental.usd_h
        asked["limits"] = limits(
            max_hours=ending.max_hours,
            max_cost=ending.max_cost,
            price_usd_h=price_usd_h,
            after_success=ending.after_success,
            after_failure=ending.after_failure,
            power_off=asked["power_off"],
        )
        if managed:
            assert rental, "it was agreed to"
            _follow(_by_skypilot(data, asked, rental, runs_dir=runs_dir, new=new))
            return
        how = {"is_shown": print_, "is_kept": renting.keep, "has_preflight": preflight}
        begun = _on_machines(data, asked, rental, runs_dir=runs_dir, new=new, **how)
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
            there, renewal = wanted, None
            if rental is not None:
                there, renewal = stack.enter_context(rent.rented(run, wanted, is_kept=is_kept, say=say))
            how = {"on_event": on_event, "say": say, "has_preflight": has_preflight, "renewal": renewal}
            launcher.follow(run, there, local, **how)

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


def _require_fitting(way: str, own: Mapping[str, object], *groups: object) -> None:
    fitting = {Slurm: ("--slurm",), Renting: ("--cloud",), Ending: ("--hosts", "--cloud")}
    ways = {flag: fitting[type(group)] for group in groups for flag in given(group)}
    ways |= {flag: FITTING[flag] for flag in (*own, "--power-off") if own.get(flag) is not None or flag in ways}
    for flag, fits in ways.items():
        if way not in fits:
            need = f"it with {' or '.join(fits)} only"
            raise UsageError(f"launch {way}", got=flag, need=need, hint=f"leave out {flag}")
