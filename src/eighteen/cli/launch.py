"""Training on several machines that one has already: begun, looked at, ended."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from eighteen.base.errors import UsageError
from eighteen.cli.app import Changes, app, console


@app.command
def launch(
    data: str,
    *,
    hosts: str,
    python: str = "python3",
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
    name: str | None = None,
    runs_dir: Path = Path("runs"),
    new: Annotated[bool, Parameter(negative="")] = False,
    print_: Annotated[bool, Parameter(name="--print", negative="")] = False,
) -> None:
    """Train on several machines that one reaches by ssh: the program and the dataset are sent, and the run comes back.

    The same command again goes on with its launch, if this program was stopped or killed meanwhile; training goes on
    without it.

    Args:
        data: A packed dataset, which is sent to each machine; or its URL, from where each gets it.
        hosts: Machines, e.g. node1,user@node2:2222, or a file with one a line. Ranks meet at the first.
        python: Of the machines, 3.11 or newer.
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
        stage: Of a dataset at a URL: stream, train as soon as its first shards are there, or first, when all are.
        warm: Also read the shards that are on the machines already into their memory.
        disk_max: The most that all datasets from URLs may take on each machine, e.g. 50GB.
        name: Of the run; NAME-UTC is its folder.
        runs_dir: Where runs lie.
        new: Begin a new launch, also where one of the same command could go on.
        print_: Show what would be sent and done, and do nothing.
    """
    from eighteen.base import recipe as recipes
    from eighteen.cloud import launcher
    from eighteen.results.terminal import Display

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
    given |= {"--stage": stage, "--disk-max": disk_max}
    given |= {} if file else {"--recipe": recipe}
    words = [word for flag, value in given.items() if value is not None for word in (flag, str(value))]
    words += [word for change in set_ for word in ("--set", change)] + ["--warm"] * warm
    asked = {"machines": hosts, "python": python, "ranks": ranks or 0, "words": words, "recipe": file, "name": name}
    if print_:
        print("\n".join(launcher.shown(launcher.wanted(data, **asked)[0])))
        return
    run, wanted, local = launcher.prepared(data, **asked, runs_dir=runs_dir, new=new)
    screen = console(stderr=True)
    say = partial(screen.print, markup=False, highlight=False, soft_wrap=True)
    say(f"launch {run.path}")
    try:
        with Display(screen) as display:
            launcher.follow(run, wanted, local, on_event=display, say=say)
    except KeyboardInterrupt:
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
def down(run: Path) -> None:
    """End what a launch has begun and delete its folder on each machine; program, packages and datasets stay there.

    Args:
        run: A run that eighteen launch began.
    """
    from eighteen.cloud import driver, launcher

    folder, wanted = launcher.opened(run)
    for host, why in driver.on_all(wanted, "forget").items():
        print(f"{host}: {why or 'nothing is left'}")
    (folder.path / "launch" / "ended.json").write_text('{"v": 1, "reason": "down"}\n')
