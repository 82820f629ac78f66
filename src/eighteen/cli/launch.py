"""Training on several machines, that one has already or rents: begun, looked at, ended."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from eighteen.base.errors import UsageError
from eighteen.cli.app import Changes, app, console, to_stderr


@app.command
def launch(
    data: str,
    *,
    hosts: str | None = None,
    cloud: str | None = None,
    machines: int | None = None,
    gpu: str | None = None,
    spot: Annotated[bool, Parameter(negative="")] = False,
    region: str | None = None,
    cheapest: Annotated[bool, Parameter(negative="")] = False,
    max_hours: float | None = None,
    prices: Path | None = None,
    measured: Annotated[tuple[Path, ...], Parameter(negative="")] = (),
    yes: Annotated[bool, Parameter(negative="")] = False,
    keep: Annotated[bool, Parameter(negative="")] = False,
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
    name: str | None = None,
    runs_dir: Path = Path("runs"),
    new: Annotated[bool, Parameter(negative="")] = False,
    print_: Annotated[bool, Parameter(name="--print", negative="")] = False,
) -> None:
    """Train on several machines: the program and the dataset are sent, and the run comes back.

    The machines are some that one reaches by ssh (--hosts), or are rented by SkyPilot (--cloud), after what they cost
    was agreed to, and given back at the end, however that comes.

    The same command again goes on with its launch, if this program was stopped or killed meanwhile; training goes on
    without it.

    Args:
        data: A packed dataset, which is sent to each machine; or its URL, from where each gets it.
        hosts: Machines, e.g. node1,user@node2:2222, or a file with one a line. Ranks meet at the first.
        cloud: Rent machines there: aws, gcp, azure, or another that SkyPilot knows.
        machines: How many to rent; left out, as eighteen plan would choose by --time or --cost.
        gpu: Of each, e.g. H100:8; left out, as --machines.
        spot: Cheaper ones, which may be taken back.
        region: Only there, e.g. us-east-1.
        cheapest: Ask for the cheapest place by name, and for the next if it has none.
        max_hours: After so many hours rented machines end by themselves; 24 if left out.
        prices: A CSV table of offers, instead of the one that comes with the program.
        measured: What eighteen bench --json wrote, to tell what the run will take. May be several.
        yes: Rent without being asked whether the price is right.
        keep: Leave the machines rented at the end, or after Ctrl-C.
        python: Of the machines, 3.11 or newer: python3, or one that is installed on machines that are rented.
        gpus: Ranks on each machine, one a GPU; all its GPUs if left out.
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
        name: Of the run; NAME-UTC is its folder.
        runs_dir: Where runs lie.
        new: Begin a new launch, also where one of the same command could go on.
        print_: Show what would be sent and done, and do nothing.
    """
    from eighteen.base import recipe as recipes
    from eighteen.cli import rental as rentals
    from eighteen.cloud import launcher, rent, sky
    from eighteen.results.terminal import Display

    if (hosts is None) == (cloud is None):
        got = "neither --hosts nor --cloud" if hosts is None else "both --hosts and --cloud"
        raise UsageError("launch", got=got, need="one of them", hint="--hosts node1,node2")

    if gpus is not None and procs is not None:
        need, hint = "one of them", "--gpus for GPUs, --procs for CPU processes"
        raise UsageError("launch", got="both --gpus and --procs", need=need, hint=hint)
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
    given |= {} if file else {"--recipe": recipe}
    words = [word for flag, value in given.items() if value is not None for word in (flag, str(value))]
    words += [word for change in set_ for word in ("--set", change)]
    rental, python = None, python or ("python3" if hosts else sky.OWN_PYTHON)
    asked = {"machines": hosts, "python": python, "ranks": ranks or 0, "words": words, "recipe": file, "name": name}
    if cloud is not None:
        limits = {"time": time, "cost": cost, "price_usd_h": price_usd_h, "max_hours": max_hours}
        place = {"spot": spot, "region": region, "cheapest": cheapest}
        to_rent = rentals.Asked(cloud, gpu, machines, **place, **limits, prices=prices, measured=measured)
        rentals.check(to_rent)
        asked["rent"] = to_rent.words
        training = {"recipe": recipe, "epochs": epochs, "batch": batch, "changes": set_}
        folder = None if new else runs_dir
        rental = rentals.agreed(to_rent, data, asked, training, runs_dir=folder, is_agreed=yes, is_shown=print_)
        if rental is None:
            return
    if print_:
        print("\n".join(launcher.shown(launcher.wanted(data, **asked)[0])))
        return
    run, wanted, local = launcher.prepared(data, **asked, runs_dir=runs_dir, new=new)
    if rental is not None:
        rent.keep(run, replace(rental, name=wanted.name))
    screen = console(stderr=True)
    say = partial(screen.print, markup=False, highlight=False, soft_wrap=True)
    say(f"launch {run.path}")
    try:
        with Display(screen) as display, ExitStack() as stack:
            if rental is not None:
                wanted = stack.enter_context(rent.rented(run, wanted, is_kept=keep, say=say))
            launcher.follow(run, wanted, local, on_event=display, say=say)
    except KeyboardInterrupt:
        if rental is None or keep:
            say(f"training goes on; the same command follows it again, eighteen stop {run.path} ends it")
        raise
    print(run.path)


@app.command
def status(run: Path) -> None:
    """Say what the machines of a launch do at this moment.

    Args:
        run: A run that eighteen launch began.
    """
    from eighteen.cloud import driver, launcher

    folder, wanted = launcher.opened(run)
    for host, seen in driver.look(wanted).items():
        if seen is None:
            print(f"{host}: silent")
            continue
        state = "training" if seen.is_running else "not begun" if not seen.has_begun else f"ended with {seen.exit}"
        free = f"{seen.free_bytes / 1e9:,.0f} GB free"
        print(f"{host}: {state}, Python {seen.python}, {seen.gpus} GPUs, {free}")
    print(f"attempt {wanted.attempt}; {folder.path}")


@app.command
def logs(run: Path, *, host: str | None = None) -> None:
    """Print the end of what training printed on the machines of a launch.

    Args:
        run: A run that eighteen launch began.
        host: Of this machine only.
    """
    from eighteen.cloud import driver, launcher

    _, wanted = launcher.opened(run)
    there = driver.remotes(wanted)
    if host is not None and host not in there:
        raise UsageError(
            "--host", got=repr(host), need=f"one of {', '.join(there)}", hint=f"--host {next(iter(there))}"
        )
    for name in [host] if host else there:
        print(f"== {name}")
        print(there[name].ask("log", driver.asked(wanted))["said"])


@app.command
def down(run: Path | None = None, *, all_: Annotated[bool, Parameter(name="--all", negative="")] = False) -> None:
    """End what a launch has begun and delete its folder on each machine; program, packages and datasets stay there.
    Machines that were rented are given back.

    Args:
        run: A run that eighteen launch began.
        all_: Give back all machines that any launch has rented, instead.
    """
    from eighteen.cloud import driver, launcher, rent

    if (run is None) != all_:
        raise UsageError("down", got="a run and --all" if all_ else "no run", need="one of them", hint="ls runs")
    if run is None:
        print("\n".join(rent.sweep(to_stderr)) or "nothing is rented")
        return
    folder, wanted = launcher.opened(run)
    if rent.known(folder) is not None:
        rent.give_back(folder, print)
        (folder.path / "launch" / "ended.json").write_text('{"v": 1, "reason": "down"}\n')
        return
    for host, why in driver.on_all(wanted, "forget").items():
        print(f"{host}: {why or 'nothing is left'}")
    (folder.path / "launch" / "ended.json").write_text('{"v": 1, "reason": "down"}\n')
