"""How fast this machine is: each part, the loader, the training."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from eighteen.base.errors import UsageError, did_you_mean
from eighteen.base.world import from_environment
from eighteen.cli.app import Changes, app, console, numbers, tidily, to_stderr

bench = App(
    name="bench",
    help="Measure how fast this machine is: each part, the loader, or the training.",
    help_format="plaintext",
)
app.command(bench)


@bench.default
@tidily()
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

        resolved = resolve(recipe, dataset, say=to_stderr, model=model, batch=batch, changes=set_)
        with packing.progress(console(stderr=True), "measuring") as on_progress:
            world = from_environment()
            counts = ranks_here() if trials and world.size == 1 else ()
            how = {"runs_dir": runs_dir, "part_s": part_seconds, "trials": counts, "on_progress": on_progress}
            found = measure(resolved, dataset, world, **how)
    if world.is_first:
        console().print(parts.show(found))
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

    counts = numbers("--threads", threads) or thread_counts(num_cpus())
    for flag, value in {"threads": min(counts), "pictures": pictures, "batch": batch, "repeats": repeats}.items():
        if value < 1:
            raise UsageError(f"--{flag}", got=str(value), need="1 or more", hint=f"eighteen bench loader --{flag} 1")
    with TemporaryDirectory() as folder, packing.progress(console(stderr=True), "measuring") as on_progress:
        found = measure(
            dataset or pack_sheets(Path(folder)),
            threads=counts,
            num_pictures=pictures,
            batch=batch,
            num_repeats=repeats,
            with_bare=decode_only,
            on_progress=on_progress,
        )
    console().print(feeding.show(found))
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
    chosen = numbers("--sizes", sizes)
    if data is None:
        recipes.load(recipe, model=model, changes=set_, side=32)  # a mistyped name is said before pictures are drawn
    with TemporaryDirectory() as folder:
        dataset = datasets.open(data or pack_sheets(Path(folder)))
        from eighteen.advice.training import bench as measure
        from eighteen.results import packing, training
        from eighteen.training.resolve import resolve

        resolved = resolve(recipe, dataset, say=print, model=model, changes=set_)
        with packing.progress(console(stderr=True), "measuring") as on_progress:
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
    console().print(training.show(found))
    if json is not None:
        training.write(found, json)
        print(f"wrote {json}")
