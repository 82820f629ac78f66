"""Runs: begun, gone on with, stopped."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from eighteen.base.errors import UsageError
from eighteen.base.world import from_environment
from eighteen.cli.app import Changes, app, console


@app.command
def train(
    data: str | None = None,
    *,
    recipe: str = "auto",
    model: str | None = None,
    epochs: float | None = None,
    batch: int | Literal["auto"] | None = None,
    set_: Changes = (),
    tune: Literal["auto", "off"] = "off",
    init: str | None = None,
    freeze_to: str | None = None,
    import_pth: Annotated[bool, Parameter(negative="")] = False,
    gpus: int | None = None,
    procs: int | None = None,
    min_ranks: int | None = None,
    name: str | None = None,
    runs_dir: Path = Path("runs"),
    checkpoint_to: str | None = None,
    stage: Literal["stream", "first"] = "stream",
    warm: Annotated[bool, Parameter(negative="")] = False,
    disk_max: str | None = None,
    new: bool = False,
    into: Annotated[Path | None, Parameter(show=False)] = None,
    fix: Annotated[bool, Parameter(negative="")] = False,
    time: str | None = None,
    until: str | None = None,
    cost: str | None = None,
    price_usd_h: float | None = None,
    resume: str | None = None,
) -> None:
    """Train a classifier, evaluate it, and keep everything in a run folder.

    The same command again goes on with its run, if that was stopped or killed.

    Args:
        data: A packed dataset, also at a URL (s3://bucket/photos.e18); or a source, which is packed beside itself.
        recipe: A recipe by name, a TOML file, or auto, which picks one for the data and the machine.
        model: A timm name, or package.module:function.
        epochs: Stretch the recipe to this many.
        batch: The global batch of the first phase; the others and the learning rate follow. auto: --tune finds it.
        set_: Change the recipe: a.b=value. May be repeated.
        tune: auto: before the first step find how many threads decode, and in how large parts a batch is computed.
        init: Start from the weights of a run, or of a safetensors file.
        freeze_to: This stage and all before it keep their weights.
        import_pth: Let --init be a .pth file: it is converted to safetensors in a process that can do little else.
        gpus: Ranks to start, one a GPU.
        procs: Ranks to start as CPU processes.
        min_ranks: Go on with as few of them if one keeps dying; all if left out.
        name: Of the run; NAME-UTC is its folder.
        runs_dir: Where runs lie.
        checkpoint_to: Copy each checkpoint there as well: a path, or a URL of fsspec such as s3://bucket/folder.
        stage: Of a dataset at a URL. stream: train as soon as its first shards are here, where it is large; first: when
            all that the recipe reads are.
        warm: Also read the shards that are here already into memory (the page cache), while training starts.
        disk_max: The most that all datasets brought from URLs may take here, e.g. 50GB: the oldest shards of those not
            used for longest go.
        new: Start a new run, also where one of the same command could go on.
        into: A folder that a launch has made for it.
        fix: At the end of an epoch apply what the doctor finds meanwhile and is safe: threads, prefetch, smaller parts.
        time: How long all may take, e.g. 18m, 90s, 1h30m: as many epochs as fit.
        until: End with the first evaluation as good as this, e.g. top1=0.93.
        cost: What all may cost, e.g. '$2': the same as --time, by --price-usd-h; with --epochs a limit, at which it is
            saved and ends; with --resume in place of what it might cost.
        price_usd_h: Of the machines, in dollars an hour; also tells what a run without --cost cost.
        resume: Go on with this run, or with a copy of one (URL/RUN); data only if its dataset has moved.
    """
    from eighteen import api
    from eighteen.base.clock import process_began
    from eighteen.results.terminal import Display

    if resume is None and data is None:
        got, need = "nothing to train on", "data, or a run to resume"
        raise UsageError("train", got=got, need=need, hint="eighteen train photos.e18")
    named = {"freeze-to": freeze_to, "import-pth": import_pth, "name": name}
    fixed = {"recipe": recipe != "auto", "model": model, "epochs": epochs, "batch": batch, "set": set_, "init": init}
    fixed |= {"tune": tune == "auto"}
    named |= {"checkpoint-to": checkpoint_to, "new": new, "time": time, "until": until, "price-usd-h": price_usd_h}
    named |= {"into": into, "fix": fix}
    given = [f"--{flag}" for flag, value in {**fixed, **named}.items() if value]
    if resume is not None and given:
        need, hint = "what the run was started with", f"eighteen train --resume {resume}"
        raise UsageError(f"train --resume {resume}", got=" and ".join(given), need=need, hint=hint)
    screen = console(stderr=True)
    say = partial(screen.print, markup=False, highlight=False, soft_wrap=True)
    staging = {"stage": stage, "warm": warm, "disk_max": disk_max}
    with Display(screen) as display:
        if resume is not None:
            result = api.resume(
                resume,
                data=data,
                gpus=gpus,
                procs=procs,
                min_ranks=min_ranks,
                cost=cost,
                **staging,
                runs_dir=runs_dir,
                began=process_began(),
                on_event=display,
                say=say,
            )
        else:
            assert data is not None
            result = api.train(
                data,
                recipe=recipe,
                model=model,
                epochs=epochs,
                batch=batch,
                changes=set_,
                tune=tune,
                init=init,
                freeze_to=freeze_to,
                import_pth=import_pth,
                gpus=gpus,
                procs=procs,
                min_ranks=min_ranks,
                name=name,
                runs_dir=runs_dir,
                checkpoint_to=checkpoint_to,
                **staging,
                new=new,
                into=into,
                fix=fix,
                time=time,
                until=until,
                cost=cost,
                price_usd_h=price_usd_h,
                began=process_began(),
                on_event=display,
                say=say,
            )
    if from_environment().is_first:
        print(result.run)


@app.command
def stop(run: Path, *, now: bool = False, wait: bool = True) -> None:
    """Ask a run that trains, here or on another machine, to save and stop; wait until it has, and say where it stands.

    Args:
        run: A run folder.
        now: At its next step, instead of at the end of its epoch.
        wait: Until it has ended; Ctrl-C ends only the waiting.
    """
    from eighteen import api
    from eighteen.base.rundir import RunDir
    from eighteen.cloud import cluster, driver, managed
    from eighteen.results.terminal import Display

    if found := cluster.opened(run):
        print(cluster.stop(*found))
        return
    if job := managed.opened(run):
        print(managed.stop(job))
        return
    if launch := driver.known(RunDir(run)):
        for host, why in driver.on_all(launch, "end", gently=True).items():
            print(f"{host}: {why or 'asked to save and stop'}")
        return
    try:
        with Display(console(stderr=True), live=False) as display:
            end = api.stop(run, now=now, wait=wait, on_event=display, say=partial(print, flush=True))
    except KeyboardInterrupt:
        print(f"no longer waiting; what {run} was asked for stands")
        raise
    if wait and end is None:
        print(f"{run} is gone without a word; eighteen train --resume {run} goes on from its last checkpoint")
    elif end is not None:
        goes_on = f"; eighteen train --resume {run} goes on" if end["reason"] == "stopped" else ""
        print(f"{run} ended at step {end['step']:,}: {end['reason']}{goes_on}")
