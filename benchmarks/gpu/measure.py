"""The parts that run.sh measures, each in a process of its own that ends in time, whatever happens in it.

    python measure.py --out FOLDER [--small] [PART ...]

Prints one JSON: what each part found, or why it did not. A part writes what it has found so far again and again, so
that one that is cut off, or fails, leaves what it had. ``--small`` is the same with small numbers, for no GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
WHOLE_S = 520.0  # of nine minutes: the rest is for starting and installing

Tell = Callable[[dict[str, Any]], None]  # replaces what the part has found so far


@dataclass(frozen=True)
class Scale:
    """How large everything is. seconds: a part may take, by name"""

    model: str
    sizes: tuple[int, ...]
    batch: int
    num_steps: int
    num_rounds: int
    ceilings: float
    num_tiny: int
    num_runs: int
    epochs: float | None
    seconds: dict[str, float]


FULL = Scale(
    model="resnet50",
    sizes=(224, 128, 96, 176, 288),  # the most important first
    batch=256,
    num_steps=20,
    num_rounds=5,
    ceilings=1.0,
    num_tiny=50_000,
    num_runs=25,
    epochs=None,
    seconds={
        "environment": 25,
        "tests": 60,
        "agreement": 30,
        "eager": 85,
        "compiled": 120,
        "loader": 50,
        "tiny": 100,
        "lightning": 50,
    },
)
SMALL = Scale(
    model="eighteen.training.compact:CompactNet",
    sizes=(32, 48),
    batch=8,
    num_steps=2,
    num_rounds=1,
    ceilings=0.05,
    num_tiny=200,
    num_runs=2,
    epochs=1.0,
    seconds=dict.fromkeys(FULL.seconds, 200.0),
)


def environment(scale: Scale, tell: Tell) -> None:
    """The machine, versions and ceilings."""
    import torch

    from eighteen.advice.ceilings import Measure
    from eighteen.base.hardware import environment
    from eighteen.base.world import World
    from eighteen.data.decoding import DECODER
    from eighteen.training.dist import device_of
    from eighteen.training.precision import autocast_dtype

    device = device_of(World())
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu"
    found = {**environment(), "device": name, "decoder": DECODER, "cuda": torch.version.cuda}
    tell(found)
    measure = Measure(device, autocast_dtype("auto", device), scale=scale.ceilings)
    tell({**found, "ceilings": [vars(measure.once()) for _ in range(5)]})


def tests(scale: Scale, tell: Tell) -> None:
    """What the tests marked ``gpu`` say; without a GPU they skip."""
    where = [ROOT / "tests" / name for name in ("data/test_loader.py", "data/test_augment.py", "base/test_energy.py")]
    words = [
        "-q",
        "-m",
        "gpu",
        "-p",
        "no:cacheprovider",
        "-c",
        os.devnull,
        "--import-mode=importlib",
        "-o",
        "markers=gpu",
    ]
    done = subprocess.run([sys.executable, "-m", "pytest", *words, *where], capture_output=True, text=True, cwd=ROOT)
    print(done.stdout, done.stderr)
    tell({"exit_code": done.returncode, "said": done.stdout.strip().splitlines()[-1:]})


def agreement(scale: Scale, tell: Tell) -> None:
    """Losses of the same float32 run on the GPU and on the CPU, in two processes; their largest difference."""
    code = "import sys; import measure; measure.losses(sys.argv[1])"
    each = []
    for hidden in ({}, {"CUDA_VISIBLE_DEVICES": ""}):
        with tempfile.TemporaryDirectory() as folder:
            path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
            command = [sys.executable, "-c", code, folder]
            subprocess.run(command, env=os.environ | hidden | {"PYTHONPATH": path}, check=True)
            each.append(json.loads((Path(folder) / "losses.json").read_text()))
    difference = max(abs(a - b) / abs(b) for a, b in zip(each[0]["losses"], each[1]["losses"], strict=True))
    tell({"devices": [one["device"] for one in each], "largest_difference": difference, "agrees": difference < 0.02})


def losses(folder: str) -> None:
    """Of a short run, into a file there."""
    import eighteen

    found: dict[str, Any] = {"losses": []}

    def note(event: dict[str, Any]) -> None:
        if event["event"] == "step":
            found["losses"].append(event["loss"])
        found.setdefault("device", event.get("device"))

    data = eighteen.pack(textures(320, side=32, seed=1), Path(folder) / "textures.e18", val=0.0)
    changes = ["train.precision='fp32'", "train.log_every=1", "train.deterministic=true", "train.compile=false"]
    changes += ["model.name='eighteen.training.compact:CompactNet'", "model.args={widths=[16,32]}"]
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    eighteen.train(data, recipe="small", epochs=2, batch=64, changes=changes, runs_dir=folder, on_event=note)
    (Path(folder) / "losses.json").write_text(json.dumps(found))


def eager(scale: Scale, tell: Tell) -> None:
    """Images/s, share of the roofline and of the bare loop, size by size, on synthetic pictures."""
    _sizes(scale, tell, compiled=(False,))


def compiled(scale: Scale, tell: Tell) -> None:
    """The same compiled; the bare loop at the first size alone, for each compiles once more."""
    _sizes(scale, tell, compiled=(True,))


def loader(scale: Scale, tell: Tell) -> None:
    """Pictures from the loader against synthetic ones, in turns, and how long the trainer waits for them."""
    found = _bench(scale, sizes=scale.sizes[:1], compiled=(False,), rivals=(), pictures=("synthetic", "real"))
    speed = {row["variant"]["pictures"]: row["images_per_s"]["median"] for row in found["rows"]}
    tell({**found, "real_over_synthetic": speed["real"] / speed["synthetic"]})


def tiny(scale: Scale, tell: Tell) -> None:
    """Runs of ``tiny``, a seed each, on as many pictures as CIFAR-10 has, or on the dataset that $CIFAR10 names. On a
    GPU the net is compiled before the first step; compile_s of whole_s and of seconds go there.
    """
    import torch

    import eighteen
    from eighteen.base import events

    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        given = os.environ.get("CIFAR10")
        made = (
            None
            if given
            else eighteen.pack(textures(scale.num_tiny * 6 // 5, side=32), Path(folder) / "t.e18", val=1 / 6)
        )
        data = made or eighteen.open(str(given))
        for seed in range(scale.num_runs):
            began = time.monotonic()
            changes = [f"train.seed={seed}", *(["train.compile=true"] if torch.cuda.is_available() else [])]
            result = eighteen.train(data, recipe="tiny", epochs=scale.epochs, changes=changes, runs_dir=folder)
            whole_s, told = time.monotonic() - began, events.read(result.run / "events.jsonl")
            compile_s = sum(one["seconds"] for one in told if one["event"] == "compile")
            runs.append({"top1": result.top1, "seconds": result.seconds, "whole_s": whole_s, "compile_s": compile_s})
            tell(
                {
                    "data": given or "textures",
                    "num_train": data.splits["train"].num_samples,
                    "n": len(runs),
                    "runs": runs,
                }
            )


def lightning(scale: Scale, tell: Tell) -> None:
    """Lightning's Trainer over ours, in turns, where it is installed."""
    import trainers

    times = trainers.measure(rounds=scale.num_rounds, threads=max(1, (os.cpu_count() or 2) // 2))
    ratios = {task: trainers.ratios(of_task, "wall_s") for task, of_task in times.items()}
    tell({"ratios": ratios, "steps": times})


PARTS = (environment, tests, agreement, eager, compiled, loader, tiny, lightning)


def textures(count: int, *, side: int, seed: int = 0) -> tuple[Any, Any]:
    """Ten kinds of waves in noise: [count, side, side, 3] uint8, [count] int64."""
    import numpy as np

    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 10
    y, x = np.mgrid[0:side, 0:side] / side
    waves = np.stack([np.sin(2 * np.pi * ((1 + k % 4) * x + (k // 4) * 2 * y)) for k in range(10)])[..., None]
    images = rng.integers(0, 160, (count, side, side, 3), np.uint8)
    images += (48 * (1 + waves)).astype(np.uint8)[labels]
    return images, labels


def _sizes(scale: Scale, tell: Tell, *, compiled: tuple[bool, ...]) -> None:
    from eighteen.advice.turns import RIVALS

    found: dict[str, Any] = {}
    for number, size in enumerate(scale.sizes):
        rivals = RIVALS if not compiled[0] or number == 0 else ()
        found[str(size)] = _bench(scale, (size,), compiled=compiled, rivals=rivals, pictures=("synthetic",))
        tell(found)


def _bench(scale: Scale, sizes: tuple[int, ...], **settings: Any) -> dict[str, Any]:
    """``eighteen bench train`` on drawn pictures."""
    from eighteen.advice.training import bench
    from eighteen.base import recipe as recipes
    from eighteen.data import dataset as datasets
    from eighteen.demo.sheets import pack_sheets
    from eighteen.results.training import figures

    recipe = recipes.load("small", model=scale.model, batch=scale.batch, changes=["optim.ema=0.0"])
    with tempfile.TemporaryDirectory() as folder:
        data = datasets.open(pack_sheets(Path(folder), num_sheets=40))
        more = {"num_steps": scale.num_steps, "num_rounds": scale.num_rounds, "scale": scale.ceilings}
        return figures(bench(recipe, data, sizes=sizes, batch=scale.batch, **more, **settings))


def run(names: list[str], out: Path, *, small: bool) -> dict[str, Any]:
    """Every part in a process of its own, one after the other, until the time is up."""
    scale, began = SMALL if small else FULL, time.monotonic()
    whole: dict[str, Any] = {}
    for name in names:
        part_began, left_s = time.monotonic(), WHOLE_S - (time.monotonic() - began)
        limit_s = min(scale.seconds[name], left_s)
        result, log = out / f"{name}.json", out / f"{name}.log"
        result.unlink(missing_ok=True)
        words = ["--out", str(out), "--only", name, *(["--small"] if small else [])]
        problem = None
        if left_s < 5:
            whole[name] = {"failed": "no time was left"}
            continue
        with log.open("w") as file:
            command = [sys.executable, __file__, *words]
            done = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
            try:
                code = done.wait(limit_s)
                problem = f"exit code {code}" if code else None
            except subprocess.TimeoutExpired:
                os.killpg(done.pid, 9)
                done.wait()
                problem = f"cut off after {limit_s:.0f} s"
        found = json.loads(result.read_text()) if result.exists() else {}
        if problem:
            found["failed"] = f"{problem}: {' | '.join(log.read_text().strip().splitlines()[-3:])}"
        whole[name] = {**found, "part_s": time.monotonic() - part_began}
        print(f"{name}: {problem or 'done'} in {whole[name]['part_s']:.0f} s", file=sys.stderr, flush=True)
    return {"seconds": time.monotonic() - began, "small": small, **whole}


def only(name: str, out: Path, *, small: bool) -> None:
    """One part, in this process."""
    from eighteen.base.hardware import let_threads_sleep

    let_threads_sleep()
    path = out / f"{name}.json"

    def tell(found: dict[str, Any]) -> None:
        path.with_suffix(".new").write_text(json.dumps(found))
        path.with_suffix(".new").replace(path)

    {part.__name__: part for part in PARTS}[name](SMALL if small else FULL, tell)


def main() -> None:
    known = [part.__name__ for part in PARTS]
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(known)}; all if none is named")
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--small", action="store_true")
    arguments.add_argument("--only", choices=known, help=argparse.SUPPRESS)
    asked = arguments.parse_args()
    if unknown := set(asked.parts) - {*known}:
        arguments.error(f"no part is called {min(unknown)}; there are {', '.join(known)}")
    asked.out.mkdir(parents=True, exist_ok=True)
    if asked.only:
        only(asked.only, asked.out, small=asked.small)
    else:
        print(json.dumps(run(asked.parts or known, asked.out, small=asked.small), indent=1))


if __name__ == "__main__":
    main()
