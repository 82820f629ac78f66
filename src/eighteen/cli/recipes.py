"""Recipes: listed, printed, translated."""

from __future__ import annotations

from eighteen.base.errors import UsageError
from eighteen.cli.app import app


@app.command
def recipes(name: str | None = None, *, from_phases: str | None = None, gpus: int | None = None) -> None:
    """List the recipes with what was measured, or print one as TOML.

    Args:
        name: A recipe, or a TOML file.
        from_phases: Phases as the ImageNet program of 2018 printed them, to be translated: "[{'ep': 0, 'sz': 128, ...".
        gpus: How many GPUs their batch, which is that of one, is for; 8 if left out.
    """
    from eighteen.base import old_phases, recipe

    if name is not None and from_phases is not None:
        need, hint = "a recipe or phases", "eighteen recipes --from-phases PHASES > mine.toml"
        raise UsageError("recipes", got=f"{name} and --from-phases", need=need, hint=hint)
    if gpus is not None and from_phases is None:
        need, hint = "phases, whose batch is that of one GPU", "eighteen recipes --from-phases PHASES --gpus 8"
        raise UsageError("recipes", got=f"--gpus {gpus} alone", need=need, hint=hint)
    if from_phases is not None:
        print(old_phases.translated(from_phases, num_gpus=8 if gpus is None else gpus), end="")
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
