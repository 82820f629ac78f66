"""Datasets: packed, checked, looked at."""

from __future__ import annotations

from pathlib import Path

from eighteen.base.errors import DataError, UsageError
from eighteen.base.files import unwritable_is_said
from eighteen.cli.app import Changes, app, console, numbers


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
    with packing.progress(console(stderr=True), f"packing {source}") as on_progress:
        report = pack_source(
            source,
            dest,
            val=val,
            test=test,
            seed=seed,
            group=group,
            max_side=max_side,
            quality=quality,
            renditions=numbers("--renditions", renditions),
            procs=procs,
            force=force,
            on_progress=on_progress,
        )
    packing.show(console(), report.rows(), report.lines())
    print(f"wrote {dest}")


@app.command
def check(dataset: Path) -> None:
    """Verify every byte of a dataset.

    Args:
        dataset: A packed dataset, NAME.e18.
    """
    from eighteen.data.check import check as verify
    from eighteen.results import packing

    with packing.progress(console(stderr=True), f"checking {dataset}") as on_progress:
        report = verify(dataset, on_progress=on_progress)
    packing.show(console(), report.rows(), report.lines())
    if report.problems:
        got, hint = f"{len(report.problems):,} problems, listed above", "restore the files, or pack again with --force"
        raise DataError(f"check {dataset}", got=got, need="every byte as it was packed", hint=hint)


@app.command
def push(dataset: Path, url: str) -> None:
    """Send a dataset to where other machines can get it from: eighteen train URL/NAME.e18.

    Args:
        dataset: A packed dataset, NAME.e18.
        url: A folder: s3://bucket/datasets, or whatever fsspec reaches; or a mounted path.
    """
    from eighteen.data import places, staging
    from eighteen.results import packing

    url = places.absolute(url, flag="push")
    with packing.progress(console(stderr=True), f"sending {dataset}") as on_progress:
        print(f"sent to {staging.push(dataset, url, on_progress=on_progress)}")


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
