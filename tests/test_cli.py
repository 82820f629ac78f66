"""The command line: exit codes, messages in four parts, and no traceback for what a person typed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from eighteen import cli
from eighteen.base import recipe as recipes
from eighteen.data import native
from eighteen.data.decoding import DECODER

STRANGE_NETS = """
import torch
def wide(num_classes, in_chans):
    head = torch.nn.Linear(in_chans, num_classes + 1)
    return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), head)
def nothing(num_classes, in_chans):
    return None
"""


@pytest.fixture(scope="module")
def dataset(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import eighteen

    return eighteen.pack(pictures, tmp_path_factory.mktemp("cli") / "pictures.e18", procs=1).path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "strange_nets.py").write_text(STRANGE_NETS)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("trian DATA", 2, r'got unknown command "trian".*\n  Try: did you mean "train"\?'),
        ("train DATA more", 2, "eighteen train: got more as well, need what its help shows"),
        ("eval", 2, "eighteen eval: got no RUN"),
        ("train DATA --epochs", 2, "got --epochs without its value"),
        ("train DATA --epochs two", 2, 'got invalid value for --epochs: unable to convert "two"'),
        ("train DATA --epoch 3", 2, "did you mean --epochs"),
        ("train", 2, "got nothing to train on, need data, or a run to resume"),
        ("train DATA --resume runs/x", 3, "got no recipe.toml there"),
        ("train nowhere.e18", 3, "open nowhere.e18: got nothing there"),
        ("train DATA --recipe smal", 2, "did you mean 'small'"),
        ("train DATA --set phases.0.sise=32", 2, "did you mean 'size'"),
        ("train DATA --set optim.lr=fast", 2, "optim.lr"),
        ("train DATA --epochs -1", 2, "--epochs: got -1"),
        ("train DATA --time soon", 2, "--time: got 'soon', need a time above 0"),
        ("train DATA --time 1m --epochs 3", 2, "got both --epochs and --time"),
        ("train DATA --cost 2", 2, "--cost 2: got no --price-usd-h"),
        ("train DATA --cost two --price-usd-h 3", 2, "--cost: got 'two', need dollars above 0"),
        ("train DATA --epochs 2 --cost 2", 2, "--cost 2: got no --price-usd-h"),
        ("train DATA --resume nowhere --cost 2", 3, "got no recipe.toml there"),
        ("train DATA --price-usd-h -3", 2, "--price-usd-h: got -3, need dollars an hour above 0"),
        ("train DATA --until 93", 2, "--until: got '93', need top1=SHARE"),
        ("train DATA --set budget.until.top9=0.5", 2, "budget.until"),
        ("train DATA --resume x --time 1m", 2, "got --time, need what the run was started with"),
        ("train DATA --model resnet5O", 2, "did you mean 'resnet50"),
        ("train DATA --model no_such_module:net", 2, "need package.module:function"),
        ("train DATA --model strange_nets:nothing", 2, "got NoneType, need a torch.nn.Module"),
        ("train DATA --model strange_nets:wide", 2, r"logits of shape \[\d+, 3\]"),
        ("train DATA --init nothing.safetensors", 3, "nothing.safetensors"),
        ("train DATA --freeze-to nowhere", 2, "model.freeze_to: got 'nowhere'"),
        ("train DATA --gpus 2 --procs 2", 2, "got both --gpus and --procs"),
        ("recipes small --gpus 3", 2, "got --gpus 3 alone"),
        ("train DATA --procs 0", 2, "--procs: got 0"),
        ("train DATA --procs 2 --min-ranks 3", 2, "--min-ranks 3: got 2 ranks to start"),
        ("train DATA --min-ranks 1", 2, "--min-ranks 1: got 0 ranks to start"),
        ("train DATA --batch 2 --procs 2", 2, "need at least 2 for each of the 2 ranks"),
        ("train DATA --name a/b", 2, "need letters, digits"),
        ("train --resume nowhere", 3, "got no recipe.toml there"),
        ("train DATA --resume x --new", 2, "got --new, need what the run was started with"),
        ("stop nowhere", 3, "open the run nowhere: got no recipe.toml there"),
        ("stop DATA --now --no-wait", 3, "got no recipe.toml there"),
        ("train DATA --set train.notices=azure", 2, "train.notices"),
        ("eval nowhere DATA", 3, "got no recipe.toml there"),
        ("predict nowhere cat.jpg", 2, "cat.jpg"),
        ("predict nowhere DATA --format xml", 2, "got the format 'xml'"),
        ("pack nowhere", 3, "read nowhere: got nothing there"),
        ("pack DATA x.e18 --renditions big", 2, "--renditions: got 'big'"),
        ("pack strange x.e18 --val 2", 2, "Try: --val 0.1"),
        ("preview DATA --count 0", 2, "got count=0"),
        ("preview DATA --out nowhere/x.png", 2, "need a .png file in a folder that exists"),
        ("preview DATA --out x.xyz", 2, "got 'x.xyz'"),
        ("train DATA --recipe demo --runs-dir strange_nets.py/runs", 4, r"write .*: got ENOTDIR \(not a directory\)"),
        ("train DATA --recipe demo --batch 0", 2, "--batch: got 0"),
        ("demo strange_nets.py/demo", 4, r"write .*: got ENOTDIR \(not a directory\)"),
        ("check nowhere.e18", 3, "nowhere.e18"),
        ("bench loader nowhere.e18", 3, "open nowhere.e18: got nothing there"),
        ("bench loader DATA --threads 1,0", 2, "--threads: got 0, need 1 or more"),
        ("bench loader DATA --threads many", 2, "--threads: got 'many'"),
        ("bench train nowhere.e18", 3, "open nowhere.e18: got nothing there"),
        ("bench train DATA --sizes big", 2, "--sizes: got 'big'"),
        ("bench train DATA --rounds 0", 2, "--rounds: got 0, need 1 or more"),
        ("bench train DATA --batch 1", 2, "--batch: got 1, need 2 or more"),
        ("bench train --recipe smal", 2, "did you mean 'small'"),
        ("bench loder", 2, "did you mean 'loader'"),
        ("plan", 2, "plan: got neither a dataset nor --samples"),
        ("plan DATA --samples 1e6", 2, "plan: got both a dataset and --samples"),
        ("plan nowhere.e18", 3, "open nowhere.e18: got nothing there"),
        ("plan --samples 1", 2, "--samples: got 1, need 8 or more"),
        ("plan --samples 1e6 --side 4", 2, "--side: got 4, need 8 or more"),
        ("plan DATA --machines 1,0", 2, "--machines: got '1,0', need numbers from 1 on"),
        ("plan DATA --machines many", 2, "--machines: got 'many'"),
        ("plan DATA --time soon", 2, "--time: got 'soon'"),
        ("plan DATA --cost nothing", 2, "--cost: got 'nothing'"),
        ("plan DATA --plot plans.png", 2, "--plot: got 'plans.png', need a .svg file in a folder that exists"),
        ("plan DATA --json none/plans.json", 2, "--json: got 'none/plans.json'"),
        ("plan DATA --target top1=2", 2, "--target: got 'top1=2'"),
        ("plan DATA --target top1=0.999", 2, r"got more than any recipe claims, need at most top1=0\.\d+, which"),
        ("plan DATA --recipe small --target top1=0.7", 2, "plan: got --recipe and --target"),
        ("plan DATA --recipe smal", 2, "did you mean 'small'"),
        ("plan DATA --prices none.csv", 3, "read none.csv: got .*No such file"),
        ("plan DATA --measured none.json", 3, "read none.json: got .*No such file"),
        ("preflight --hosts node1", 2, "preflight: got one machine, need two or more"),
        ("recipes smal", 2, "did you mean 'small'"),
        ("recipes small --from-phases []", 2, "got small and --from-phases"),
        ("recipes --from-phases [exit()]", 2, "--from-phases: got what is no plain data"),
    ],
)
def test_what_cannot_be_done_is_said_in_four_parts(here, dataset, capfd, words, code, message):
    arguments = [str(dataset) if word == "DATA" else word for word in words.split()]
    assert cli.main(arguments) == code
    said = capfd.readouterr().err
    assert re.search(message, said), said
    assert ": got " in said
    assert ", need " in said
    assert "\n  Try: " in said
    assert "Traceback" not in said
    assert not (here / "runs").exists(), "nothing was begun"


def test_gpus_that_are_not_there_are_refused(here, dataset, capfd, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert cli.main(["train", str(dataset), "--gpus", "2"]) == 4
    assert "got 0 GPUs, need as many GPUs as ranks" in capfd.readouterr().err


@pytest.mark.parametrize("name", list(recipes.bundled()))
def test_a_recipe_that_is_printed_is_a_recipe(capsys, name):
    assert cli.main(["recipes", name]) == 0
    assert tomllib.loads(capsys.readouterr().out)["name"] == name


def test_recipes_are_listed_with_what_they_are_for(capsys):
    assert cli.main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == list(recipes.bundled())
    assert "theirs: 76.6 % top-1, 92.7 % top-5 with flip TTA in 28.7 min on 8 A100" in "\n".join(lines)
    assert sum(line.strip().startswith("ours: ") for line in lines) == len(recipes.bundled())


def test_phases_of_the_program_of_2018_are_printed_as_a_recipe_that_loads(capsys, tmp_path):
    phases = "[{'ep': 0, 'sz': 128, 'bs': 64, 'trndir': '-sz/160'}, {'ep': (0, 5), 'lr': (1.0, 0.1)}]"
    assert cli.main(["recipes", "--from-phases", phases, "--gpus", "4"]) == 0
    (tmp_path / "mine.toml").write_text(capsys.readouterr().out)
    (phase,) = recipes.load(str(tmp_path / "mine.toml")).phases
    assert (phase.epochs, phase.size, phase.batch, phase.rendition) == (5, 128, 256, "160")


def test_help_and_import_need_neither_torch_nor_recipes():
    heavy = "any(name in sys.modules for name in ('torch', 'pydantic'))"  # pydantic's models take a quarter of a second
    code = f"import eighteen, eighteen.cli, sys; eighteen.cli.main(['--help']); sys.exit({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert "Train a classifier" in done.stdout


def test_version_says_which_decoder_is_in_use(capsys):
    assert cli.main(["--version"]) == 0
    assert f"decoder: {DECODER}" in capsys.readouterr().out
    assert DECODER.startswith("native (libjpeg-turbo" if native.library() else "reference (Pillow")
