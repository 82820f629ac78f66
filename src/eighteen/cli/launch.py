"""Training on several machines: that one has already, that Slurm gives, or that are rented."""

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
    """Train on several machines: by ssh, to which the program and the dataset are sent, and from where the run comes
    back; or by Slurm, whose machines share a disk with this one. With --cloud SkyPilot rents machines, after what they
    cost was agreed to, and they are given back at the end, however that comes.

    The same command again goes on with its launch, if this program was stopped or killed meanwhile; training goes on
    without it.

    Args:
        data: A packed dataset, which is sent to each machine, or which all of Slurm's see; or its URL, from where each
            gets it.
        hosts: Machines, e.g. node1,user@node2:2222, or a file with one a line. Ranks meet at the first.
        slurm: A partition of the cluster, or "default" for the one that it takes by itself.
        cloud: Rent machines there: aws, gcp, azure, or another that SkyPilot knows.
        machines: How many of Slurm's machines, 1 if left out; or how many to rent, if left out as eighteen plan would
            choose by --time or --cost.
        hours: Slurm's time limit, after which the job is saved and goes back into the queue; if left out a quarter of
            an hour more than --time, or else the partition's.
        sbatch: An option of sbatch, e.g. account=vision or cpus-per-task=8. May be repeated.
        gpu: Of each machine to rent, e.g. H100:8; left out, as --machines.
        spot: Rent cheaper ones, which may be taken back.
        region: Rent only there, e.g. us-east-1.
        cheapest: Ask for the cheapest place by name, and for the next if it has none.
        prices: A CSV table of offers, instead of the one that comes with the program.
        measured: What eighteen bench --json wrote, to tell what the run will take. May be several.
        yes: Rent without being asked whether the price is right.
        keep: Leave the machines rented at the end, or after Ctrl-C.
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
        max_hours: After so many hours all is saved and ended, by the machines themselves; those that are rented end
            then, too, after 24 hours if left out.
        max_cost: The same in dollars, e.g. '$40', by --price-usd-h.
        after_success: When the machines end what is left, e.g. stop:10m; keep: not at all.
        after_failure: The same after a failure, or where this program is gone before training began: stop:60m.
        power_off: Then the machines power off; 10 minutes after success and 60 after a failure, if left out.
        name: Of the run; NAME-UTC is its folder.
        runs_dir: Where runs lie.
        new: Begin a new launch, also where one of the same command could go on.
        preflight: Measure first whether the machines can train together: names, ports, links, an all-reduce.
        print_: Show what would be sent and done, and do nothing.
    """
    from eighteen.base import recipe as recipes
    from eighteen.cli import rental as rentals
    from eighteen.cloud import cluster, launcher, rent, sky
    from eighteen.cloud.limits import described, limits
    from eighteen.results.terminal import Display

    _require_one_way({"--hosts": hosts, "--slurm": slurm, "--cloud": cloud})
    slurms = {"--hours": hours, "--sbatch": sbatch or None}
    clouds = {"--gpu": gpu, "--region": region, "--prices": prices, "--measured": measured or None}
    clouds |= {"--spot": spot or None, "--cheapest": cheapest or None, "--yes": yes or None, "--keep": keep or None}
    others = ("--slurm or --cloud", slurm or cloud, {"--machines": machines})
    for way, is_used, theirs in (("--slurm", slurm, slurms), ("--cloud", cloud, clouds), others):
        for flag in [flag for flag, value in theirs.items() if not is_used and value is not None]:
            raise UsageError("launch", got=flag, need=f"it with {way} only", hint=f"leave out {flag}")
    if slurm and python is not None:
        got, need = "--python", "this program's own Python, which the machines see"
        raise UsageError("launch --slurm", got=got, need=need, hint="leave out --python")
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
    rental = None
    if slurm is not None:
        job = cluster.wanted(
            data,
            partition=slurm,
            machines=1 if machines is None else machines,
            gpus=gpus,
            procs=procs,
            words=words,
            recipe=file,
            name=name,
            hours=hours,
            time_=time,
            sbatch=sbatch,
        )
        if print_:
            print("\n".join(cluster.shown(job, runs_dir)))
            return
        run, job = cluster.prepared(job, recipe=file, runs_dir=runs_dir, new=new)
        follow, ends = partial(cluster.follow, run, job), None
    else:
        python = python or (sky.OWN_PYTHON if cloud else "python3")
        asked = {"machines": hosts, "python": python, "ranks": ranks or 0, "words": words, "recipe": file, "name": name}
        asked["power_off"] = power_off
        asked["limits"] = limits(
            max_hours=max_hours,
            max_cost=max_cost,
            price_usd_h=price_usd_h,
            after_success=after_success,
            after_failure=after_failure,
            power_off=power_off,
        )
        if cloud is not None:
            most = {"time": time, "cost": cost, "price_usd_h": price_usd_h, "max_hours": max_hours}
            place = {"spot": spot, "region": region, "cheapest": cheapest}
            to_rent = rentals.Asked(cloud, gpu, machines, **place, **most, prices=prices, measured=measured)
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

        def follow(**told):
            with ExitStack() as stack:
                machines = wanted
                if rental is not None:
                    machines = stack.enter_context(rent.rented(run, wanted, is_kept=keep, say=told["say"]))
                launcher.follow(run, machines, local, has_preflight=preflight, **told)

        ends = wanted.limits and described(wanted.limits, began=wanted.began, power_off=wanted.power_off)
    screen = console(stderr=True)
    say = partial(screen.print, markup=False, highlight=False, soft_wrap=True)
    say(f"launch {run.path}")
    if ends:
        say(ends)
    try:
        with Display(screen) as display:
            follow(on_event=display, say=say)
    except KeyboardInterrupt:
        if rental is None or keep:
            say(f"training goes on; the same command follows it again, eighteen stop {run.path} ends it")
        raise
    print(run.path)


def _require_one_way(ways: dict[str, str | None]) -> None:
    given = [flag for flag, value in ways.items() if value is not None]
    if len(given) != 1:
        need, hint = f"one of {', '.join(ways)}", "--hosts node1,node2, or --slurm default --machines 2"
        raise UsageError("launch", got=" and ".join(given) or "no machines", need=need, hint=hint)


@app.command
def preflight(*, hosts: str, python: str = "python3", gpus: int | None = None, json: Path | None = None) -> None:
    """Find out in half a minute whether machines can train together; if not, which is at fault, and what to do there.

    Names, clocks, disks, drivers, ports, links and an all-reduce; the program is sent to machines that lack it.

    Args:
        hosts: Machines, e.g. node1,user@node2:2222, or a file with one a line. Ranks meet at the first.
        python: Of the machines, 3.11 or newer.
        gpus: Ranks on each machine, one a GPU; all its GPUs if left out.
        json: A file to write all that was measured to.
    """
    from eighteen.base.files import write_json
    from eighteen.cloud import launcher
    from eighteen.cloud import preflight as verdicts
    from eighteen.results.feeding import table

    if gpus is not None and gpus < 1:
        raise UsageError("--gpus", got=str(gpus), need="1 or more", hint="--gpus 8")
    report = launcher.preflight_of(hosts, python=python, ranks=gpus or 0, say=to_stderr)
    console().print(table(verdicts.COLUMNS, [verdicts.row(report, host) for host in report.looks]))
    if json is not None:
        write_json(json, verdicts.facts(report))
        print(f"wrote {json}")
    for line in verdicts.warnings(report):
        to_stderr(line)
    verdicts.require_fit(report)
    print(f"fit: {verdicts.summary(report)}")


@app.command
def status(run: Path) -> None:
    """Say what the machines of a launch do at this moment.

    Args:
        run: A run that eighteen launch began.
    """
    from eighteen.cloud import cluster, driver, launcher
    from eighteen.cloud.limits import described, strike

    if found := cluster.opened(run):
        print(cluster.state(*found))
        return
    folder, wanted = launcher.opened(run)
    for host, seen in driver.look(wanted).items():
        if seen is None:
            print(f"{host}: silent")
            continue
        state = "training" if seen.is_running else "not begun" if not seen.has_begun else f"ended with {seen.exit}"
        free = f"{seen.free_bytes / 1e9:,.0f} GB free"
        ends = f", {'powers off' if wanted.power_off else 'ends it'} at {strike(*seen.strikes)}" if seen.strikes else ""
        print(f"{host}: {state}, Python {seen.python}, {seen.gpus} GPUs, {free}{ends}")
    if wanted.limits:
        print(described(wanted.limits, began=wanted.began, power_off=wanted.power_off))
    print(f"attempt {wanted.attempt}, on {', '.join(wanted.at_work)}; {folder.path}")


@app.command
def logs(run: Path, *, host: str | None = None) -> None:
    """Print the end of what training printed on the machines of a launch.

    Args:
        run: A run that eighteen launch began.
        host: Of this machine only.
    """
    from eighteen.cloud import cluster, driver, launcher

    if found := cluster.opened(run):
        if host is not None:
            need, hint = "nothing: a job of Slurm has one log for all", f"eighteen logs {run}"
            raise UsageError("--host", got=repr(host), need=need, hint=hint)
        print(cluster.log(found[0]))
        return
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
    from eighteen.cloud import cluster, driver, launcher, rent

    if (run is None) != all_:
        raise UsageError("down", got="a run and --all" if all_ else "no run", need="one of them", hint="ls runs")
    if run is None:
        print("\n".join(rent.sweep(to_stderr)) or "nothing is rented")
        return
    if found := cluster.opened(run):
        print(cluster.down(*found))
        return
    folder, wanted = launcher.opened(run)
    driver.keep_end(folder, "down")  # first, as whoever follows it would begin again
    if rent.known(folder) is not None:
        rent.give_back(folder, print)
        return
    for host, why in driver.on_all(wanted, "forget").items():
        print(f"{host}: {why or 'nothing is left'}")
