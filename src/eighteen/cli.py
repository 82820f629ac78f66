"""The command line: parse, call one function, print.

What a command does stands in ``api``; here stands only how it is asked for and shown.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

from cyclopts import App, CycloptsError, Parameter

from eighteen import __version__
from eighteen.base.errors import DataError, EighteenError, UsageError, did_you_mean
from eighteen.base.files import unwritable_is_said
from eighteen.base.hardware import let_threads_sleep
from eighteen.base.world import from_environment, leave

if TYPE_CHECKING:
    from rich.console import Console

INTERRUPTED = 128 + signal.SIGINT

Changes = Annotated[tuple[str, ...], Parameter(name="--set", negative="", consume_multiple=False)]

app = App(
    name="eighteen",
    help="Train image classifiers as fast and as cheaply as the hardware allows.",
    version=lambda: _version(),
    help_format="plaintext",
)
bench = App(
    name="bench",
    help="Measure how fast this machine is: each part, the loader, or the training.",
    help_format="plaintext",
)
app.command(bench)


def entry() -> NoReturn:
    """The program ``eighteen``."""
    signal.signal(
        signal.SIGUSR1, signal.SIG_IGN
    )  # it asks a run to save: one that has not begun yet does not die of it
    exit_code = main()
    # tearing Python down takes 0.7 s with torch, and 2 to 3 s on busy cores, which a run's time would have to leave
    if from_environment().size > 1 or "torch" in sys.modules:
        leave(exit_code)
    sys.exit(exit_code)


def main(arguments: Iterable[str] | None = None) -> int:
    """Run one command; returns its exit code. An error is shown in its four parts, a bug with its traceback."""
    let_threads_sleep()
    try:
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        got, need = str(error).rstrip("."), "a command as --help shows it"
        hint = " ".join(["eighteen", *(error.command_chain or ()), "--help"])
        return _show(UsageError("read the command line", got=got, need=need, hint=hint))
    except EighteenError as error:
        return _show(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has gone, e.g. head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return 0


@app.command
def pack(
    source: Path,
    dest: Path | None = None,
    *,
    val: float = 0.1,
    test: float = 0.0,
    seed: int = 0,
    group: str | None = None,
    max_side: int | None = None,
    quality: int = 90,
    renditions: str = "",
    procs: int | None = None,
    force: bool = False,
) -> None:
    """Turn pictures into a checked, packed dataset.

    Args:
        source: A folder with a sub-folder a class (in train/ and val/, or not), a CSV or Parquet manifest, IDX, .npz.
        dest: The dataset; beside the source as NAME.e18 if left out.
        val: Share of the samples that become the validation split, where the source has none.
        test: Share that becomes the test split, where the source has none.
        seed: Of the split and the order.
        group: What must stay together: a regular expression on the path (its first group), or a manifest's column.
        max_side: Longest side in pixels; larger pictures are made smaller.
        quality: JPEG quality of what is re-encoded.
        renditions: Short sides of smaller copies, e.g. 352,160.
        procs: Processes; one for each processor if left out.
        force: Overwrite another dataset.
    """
    from eighteen.api import beside
    from eighteen.data.pack import pack as pack_source
    from eighteen.results import packing

    dest = dest or beside(source)
    with packing.progress(_console(stderr=True), f"packing {source}") as on_progress:
        report = pack_source(
            source,
            dest,
            val=val,
            test=test,
            seed=seed,
            group=group,
            max_side=max_side,
            quality=quality,
            renditions=_numbers("--renditions", renditions),
            procs=procs,
            force=force,
            on_progress=on_progress,
        )
    packing.show(_console(), report.rows(), report.lines())
    print(f"wrote {dest}")


@app.command
def check(dataset: Path) -> None:
    """Verify every byte of a dataset.

    Args:
        dataset: A packed dataset, NAME.e18.
    """
    from eighteen.data.check import check as verify
    from eighteen.results import packing

    with packing.progress(_console(stderr=True), f"checking {dataset}") as on_progress:
        report = verify(dataset, on_progress=on_progress)
    packing.show(_console(), report.rows(), report.lines())
    if report.problems:
        got, hint = f"{len(report.problems):,} problems, listed above", "restore the files, or pack again with --force"
        raise DataError(f"check {dataset}", got=got, need="every byte as it was packed", hint=hint)


@app.command
def preview(
    dataset: Path,
    *,
    recipe: str = "auto",
    set_: Changes = (),
    out: Path = Path("preview.png"),
    count: int = 32,
    seed: int = 0,
) -> None:
    """Draw a contact sheet of augmented training pictures with their labels.

    Args:
        dataset: A packed dataset.
        recipe: Whose augmentation is shown.
        set_: Change the recipe: a.b=value.
        out: The PNG to write.
        count: How many pictures.
        seed: Of the random choices.
    """
    from eighteen import api

    if out.suffix.lower() != ".png" or not out.parent.is_dir():
        need = "a .png file in a folder that exists"
        raise UsageError(f"write the contact sheet {out}", got=repr(str(out)), need=need, hint="--out preview.png")
    sheet = api.preview(dataset, recipe=recipe, changes=set_, count=count, seed=seed)
    with unwritable_is_said(out, hint=f"ls -ld {out.parent}; --out another"):
        sheet.save(out)
    print(f"wrote {out}")


@app.command
def train(
    data: Path | None = None,
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
    new: bool = False,
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
        data: A packed dataset, or a source, which is packed beside itself first.
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
        new: Start a new run, also where one of the same command could go on.
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
    named["fix"] = fix
    given = [f"--{flag}" for flag, value in {**fixed, **named}.items() if value]
    if resume is not None and given:
        need, hint = "what the run was started with", f"eighteen train --resume {resume}"
        raise UsageError(f"train --resume {resume}", got=" and ".join(given), need=need, hint=hint)
    console = _console(stderr=True)
    say = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    with Display(console) as display:
        if resume is not None:
            result = api.resume(
                resume,
                data=data,
                gpus=gpus,
                procs=procs,
                min_ranks=min_ranks,
                cost=cost,
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
                new=new,
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
    from eighteen.results.terminal import Display

    try:
        with Display(_console(stderr=True), live=False) as display:
            end = api.stop(run, now=now, wait=wait, on_event=display, say=partial(print, flush=True))
    except KeyboardInterrupt:
        print(f"no longer waiting; what {run} was asked for stands")
        raise
    if wait and end is None:
        print(f"{run} is gone without a word; eighteen train --resume {run} goes on from its last checkpoint")
    elif end is not None:
        goes_on = f"; eighteen train --resume {run} goes on" if end["reason"] == "stopped" else ""
        print(f"{run} ended at step {end['step']:,}: {end['reason']}{goes_on}")


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
    found = api.evaluate(run, data, split=split, checkpoint=checkpoint, **changed, say=_warn)
    if from_environment().is_first:
        _console().print(tables.show(found))
        print(f"\nwrote {api.eval_folder(rundir.open(run), data, found.split)}")


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


@app.command
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
        say=_to_stderr,
    )
    _console().print(findings.show(found))
    if json is not None:
        write_json(json, {"v": 1, "findings": [findings.facts(one) for one in found]})
        print(f"wrote {json}")


@app.command
def recipes(name: str | None = None, *, from_phases: str | None = None, gpus: int = 8) -> None:
    """List the recipes with what was measured, or print one as TOML.

    Args:
        name: A recipe, or a TOML file.
        from_phases: Phases as the ImageNet program of 2018 printed them, to be translated: "[{'ep': 0, 'sz': 128, ...".
        gpus: How many GPUs their batch, which is that of one, is for.
    """
    from eighteen.base import old_phases, recipe

    if name is not None and from_phases is not None:
        need, hint = "a recipe or phases", "eighteen recipes --from-phases PHASES > mine.toml"
        raise UsageError("recipes", got=f"{name} and --from-phases", need=need, hint=hint)
    if from_phases is not None:
        print(old_phases.translated(from_phases, num_gpus=gpus), end="")
        return
    if name is not None:
        print(recipe.text(name), end="")
        return
    for known in recipe.bundled():
        found = recipe.load(known, side=32)
        print(f"{known:17} {found.about}")
        for whose, key in (("theirs", "published"), ("ours", "measured")):
            if key in found.claim:
                print(f"{'':17}   {whose}: {found.claim[key]}")


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


@bench.default
def bench_machine(
    data: Path | None = None,
    *,
    recipe: str = "auto",
    model: str | None = None,
    batch: int | None = None,
    set_: Changes = (),
    runs_dir: Path = Path(),
    part_seconds: float = 2.0,
    trials: bool = True,
    json: Path | None = None,
) -> None:
    """Measure each part of a training alone, whole runs of a few steps, and the machine: two minutes or three.

    Under torchrun, on several machines too, it also measures the all-reduce between all its ranks, but no whole runs.

    Args:
        data: A packed dataset, whose train split is read; drawn pictures if left out.
        recipe: A recipe by name, a TOML file, or auto, which picks one for the data and the machine.
        model: A timm name, or package.module:function.
        batch: The global batch of the first phase; the others follow.
        set_: Change the recipe: a.b=value. May be repeated.
        runs_dir: Where checkpoints would lie.
        part_seconds: How long a part is repeated.
        trials: Also run a few steps as train does, on 1, 2, 4 ... ranks: eighteen plan goes by them.
        json: A file to write the figures to.
    """
    from tempfile import TemporaryDirectory

    from eighteen.data import dataset as datasets
    from eighteen.demo.sheets import pack_sheets

    if data is not None and not data.exists():
        need, hint = "a packed dataset, or loader or train", did_you_mean(str(data), ("loader", "train"))
        raise UsageError(f"bench {data}", got="nothing of that name", need=need, hint=hint)
    if part_seconds <= 0:
        got, need = f"{part_seconds:g}", "seconds above 0"
        raise UsageError("--part-seconds", got=got, need=need, hint="eighteen bench --part-seconds 2")
    with TemporaryDirectory() as folder:
        dataset = datasets.open(data or pack_sheets(Path(folder)))
        from eighteen.advice.measure import measure, ranks_here
        from eighteen.results import packing, parts
        from eighteen.training.resolve import resolve

        resolved = resolve(recipe, dataset, say=_to_stderr, model=model, batch=batch, changes=set_)
        with packing.progress(_console(stderr=True), "measuring") as on_progress:
            world = from_environment()
            counts = ranks_here() if trials and world.size == 1 else ()
            how = {"runs_dir": runs_dir, "part_s": part_seconds, "trials": counts, "on_progress": on_progress}
            found = measure(resolved, dataset, world, **how)
    if world.is_first:
        _console().print(parts.show(found))
        if json is not None:
            parts.write(found, json)
            print(f"wrote {json}")


@bench.command
def loader(
    dataset: Path | None = None,
    *,
    threads: str = "",
    pictures: int = 1024,
    batch: int = 256,
    repeats: int = 5,
    decode_only: bool = False,
    json: Path | None = None,
) -> None:
    """Measure the loader: CPU time a picture, images a second, scaling over threads, bytes, stages, memory.

    Args:
        dataset: A packed dataset, whose train split is read; drawn pictures if left out.
        threads: How many decode, e.g. 1,2,8; if left out 1, 2, 4 ... up to all processors.
        pictures: Of a pass; a smaller dataset is repeated.
        batch: Pictures of a batch.
        repeats: Passes a setting, all settings in turns.
        decode_only: Also decode the same pictures from memory without the loader, to see what that costs.
        json: A file to write the figures to.
    """
    from tempfile import TemporaryDirectory

    from eighteen.advice.feeding import thread_counts
    from eighteen.advice.passes import bench as measure
    from eighteen.base.hardware import num_cpus
    from eighteen.demo.sheets import pack_sheets
    from eighteen.results import feeding, packing

    counts = _numbers("--threads", threads) or thread_counts(num_cpus())
    for flag, value in {"threads": min(counts), "pictures": pictures, "batch": batch, "repeats": repeats}.items():
        if value < 1:
            raise UsageError(f"--{flag}", got=str(value), need="1 or more", hint=f"eighteen bench loader --{flag} 1")
    with TemporaryDirectory() as folder, packing.progress(_console(stderr=True), "measuring") as on_progress:
        found = measure(
            dataset or pack_sheets(Path(folder)),
            threads=counts,
            num_pictures=pictures,
            batch=batch,
            num_repeats=repeats,
            with_bare=decode_only,
            on_progress=on_progress,
        )
    _console().print(feeding.show(found))
    if json is not None:
        feeding.write(found, json)
        print(f"wrote {json}")


@bench.command(name="train")
def bench_train(
    data: Path | None = None,
    *,
    recipe: str = "small",
    model: str | None = None,
    sizes: str = "",
    batch: int | None = None,
    set_: Changes = (),
    steps: int = 20,
    rounds: int = 5,
    seconds: float = 300.0,
    compile: bool = True,
    real: bool = True,
    json: Path | None = None,
) -> None:
    """Measure training: images/s at each size, eager and compiled, against a bare loop and this machine's ceilings.

    Args:
        data: A packed dataset, whose train split is read; drawn pictures if left out.
        recipe: A recipe by name, or a TOML file.
        model: A timm name, or package.module:function.
        sizes: In pixels, e.g. 96,128; those of the recipe's phases if left out.
        batch: Instead of the phases' own.
        set_: Change the recipe: a.b=value. May be repeated.
        steps: Of a turn.
        rounds: Turns of everything that is measured, in an order drawn anew.
        seconds: After which no round begins, nor anything its first turn.
        compile: Also measure the model compiled.
        real: Also measure with pictures that the loader decodes.
        json: A file to write the figures to.
    """
    from tempfile import TemporaryDirectory

    from eighteen.base import recipe as recipes
    from eighteen.data import dataset as datasets
    from eighteen.demo.sheets import pack_sheets

    for flag, value in {"steps": steps, "rounds": rounds, "batch": batch or 2}.items():
        if value < 1 + (flag == "batch"):
            need = f"{1 + (flag == 'batch')} or more"
            raise UsageError(f"--{flag}", got=str(value), need=need, hint=f"eighteen bench train --{flag} 16")
    chosen = _numbers("--sizes", sizes)
    if data is None:
        recipes.load(recipe, model=model, changes=set_, side=32)  # a mistyped name is said before pictures are drawn
    with TemporaryDirectory() as folder:
        dataset = datasets.open(data or pack_sheets(Path(folder)))
        from eighteen.advice.training import bench as measure
        from eighteen.results import packing, training
        from eighteen.training.resolve import resolve

        resolved = resolve(recipe, dataset, say=print, model=model, changes=set_)
        with packing.progress(_console(stderr=True), "measuring") as on_progress:
            found = measure(
                resolved,
                dataset,
                sizes=chosen,
                batch=batch,
                pictures=("synthetic", "real") if real else ("synthetic",),
                compiled=(False, True) if compile else (False,),
                num_steps=steps,
                num_rounds=rounds,
                most_s=seconds,
                on_progress=on_progress,
            )
    _console().print(training.show(found))
    if json is not None:
        training.write(found, json)
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
    counts = _numbers("--machines", machines)
    if not counts or min(counts) < 1:
        raise UsageError("--machines", got=repr(machines), need="numbers from 1 on", hint="--machines 1,2,4")
    limits = {
        "seconds": None if time is None else budgets.seconds(time),
        "usd": None if cost is None else budgets.dollars(cost),
    }
    with TemporaryDirectory() as folder:
        from eighteen.advice import planning
        from eighteen.advice.rankings import fastest_first, within
        from eighteen.results import packing, plans

        if data is not None:
            dataset = datasets.open(data)
        elif (side or planning.SIDE) <= TINY_SIDE:
            dataset = planning.noise(Path(folder), side or planning.SIDE)
        else:
            dataset = datasets.open(pack_sheets(Path(folder)))
        with packing.progress(_console(stderr=True), "measuring") as on_progress:
            made = planning.make(
                dataset,
                samples=samples,
                side=side,
                recipe=recipe,
                epochs=epochs,
                batch=batch,
                changes=set_,
                files=measured,
                prices=prices,
                counts=counts,
                target=target,
                today=date.today(),
                runs_dir=runs_dir,
                say=_to_stderr,
                on_progress=on_progress,
            )
    kept = within(made.plans, **limits)
    if not kept and made.plans:
        nearest = fastest_first(made.plans)[0]
        _warn(f"none of {len(made.plans)} plans keeps to that; the fastest is {plans.told(nearest)}")
    _console().print(plans.show(made.task, kept, made.refused, made.remarks))
    facts = (made.task, kept, made.refused, made.remarks)
    for path, written in ((json, plans.write), (plot, plans.draw)):
        if path is not None:
            with unwritable_is_said(path, hint=f"ls -ld {path.parent}"):
                written(path, *facts)
            print(f"wrote {path}")


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


def _warn(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr)


def _show(error: EighteenError) -> int:
    print(error, file=sys.stderr)
    return error.exit_code


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr)


def _numbers(flag: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part)
    except ValueError:
        raise UsageError(flag, got=repr(text), need="numbers with commas between", hint=f"{flag} 352,160") from None


def _version() -> str:
    from eighteen.data.decoding import DECODER

    return f"eighteen {__version__}, decoder: {DECODER}"
