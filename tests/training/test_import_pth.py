"""Foreign weights: refused unless asked for, then converted by a process that can do little else."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import small_runs
import torch
from safetensors.torch import load_file
from small_nets import grouped

import eighteen
from eighteen.base.errors import DataError, UsageError
from eighteen.cli import main
from eighteen.training.import_pth import import_pth, weights_in
from eighteen.training.import_pth import main as program


@pytest.fixture(scope="module")
def weights():
    return grouped(4, 3).state_dict()


class Exploit:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt", ".bin"])
def test_without_the_flag_a_pickle_is_refused_and_the_flag_named(data, weights, tmp_path, suffix, capfd):
    torch.save(weights, tmp_path / f"w{suffix}")
    with pytest.raises(DataError, match=rf"w{suffix}: got a {suffix} file: a pickle, which can run code.*") as caught:
        small_runs.train(data, tmp_path, init=tmp_path / f"w{suffix}")
    assert "--import-pth" in caught.value.hint
    assert not (tmp_path / "runs").exists()


def test_with_it_they_are_converted(weights, tmp_path):
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": one for name, one in weights.items()}}, tmp_path / "w.pth")
    assert converted(tmp_path / "w.pth") == ""
    assert small_runs.differing(load_file(tmp_path / "w.safetensors"), weights) == []


@pytest.mark.soak
def test_with_it_training_starts_from_the_weights(data, weights, tmp_path):
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": one for name, one in weights.items()}}, tmp_path / "w.pth")
    said: list[str] = []
    changes = ["optim.lr=[[0, 0.0], [6, 0.0]]", "optim.weight_decay=0.0"]
    how = {"init": tmp_path / "w.pth", "import_pth": True, "say": said.append}
    run = small_runs.train(data, tmp_path, *changes, **how).run
    (converted,) = (tmp_path / "runs" / ".imported").iterdir()
    assert f"imported {tmp_path / 'w.pth'} as {converted}" in said
    assert small_runs.differing(load_file(converted), weights) == []
    trained = {name for name, _ in grouped(4, 3).named_parameters()}
    assert trained.isdisjoint(small_runs.differing(small_runs.saved(run), weights))
    assert import_pth(tmp_path / "w.pth", converted.parent) == converted  # without another process


def converted(source: Path) -> str:
    """What the process says that converts a file; forked, since torch takes seconds to import."""
    said = source.with_suffix(".said")
    if child := os.fork():
        os.waitpid(child, 0)
        return said.read_text() if said.exists() else ""
    try:
        program(str(source), str(source.with_suffix(".safetensors")))
    except SystemExit as ending:
        said.write_text(str(ending))
    finally:
        os._exit(0)


def test_code_in_it_does_not_run(tmp_path):
    pickled = pickle.dumps({"state_dict": Exploit(tmp_path / "made")}, protocol=2)
    (tmp_path / "raw.pth").write_bytes(pickled)
    torch.save({"w": torch.ones(2), "x": Exploit(tmp_path / "made")}, tmp_path / "saved.pth")
    for name in ("raw.pth", "saved.pth"):
        assert converted(tmp_path / name).startswith("what is no plain tensor: ")
        assert not (tmp_path / name).with_suffix(".safetensors").exists()
    assert not (tmp_path / "made").exists()


@pytest.mark.soak
def test_nor_is_anything_left_of_it(tmp_path):
    pickled = pickle.dumps({"state_dict": Exploit(tmp_path / "made")}, protocol=2)
    (tmp_path / "raw.pth").write_bytes(pickled)
    torch.save({"w": torch.ones(2), "x": Exploit(tmp_path / "made")}, tmp_path / "saved.pth")
    for name in ("raw.pth", "saved.pth"):
        with pytest.raises(DataError, match=r"import .*\.pth: got .*what is no plain tensor: "):
            import_pth(tmp_path / name, tmp_path / "imported")
    assert not (tmp_path / "made").exists()
    assert not [*(tmp_path / "imported").iterdir()]


def test_more_than_its_size_justifies_is_refused(tmp_path):
    huge = torch.empty(1).expand(2**40)
    torch.save({"w": huge}, tmp_path / "w.pth")
    assert (tmp_path / "w.pth").stat().st_size < 1600
    assert converted(tmp_path / "w.pth") == "'w', which claims 4,398,046,511,104 bytes of 4"


def test_memory_and_time_are_limited(tmp_path):
    """A file of zeros, deflated to a thousandth."""
    torch.save({"w": torch.zeros(3 * 2**27, dtype=torch.uint8)}, tmp_path / "w.pth")
    deflated = zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED, compresslevel=1)
    with zipfile.ZipFile(tmp_path / "w.pth") as whole, deflated as bomb:
        for name in whole.namelist():
            bomb.writestr(name, whole.read(name))
    (tmp_path / "w.pth").unlink()
    assert (tmp_path / "bomb.pth").stat().st_size < 2**22
    assert converted(tmp_path / "bomb.pth")
    assert not (tmp_path / "bomb.safetensors").exists()


def test_what_it_cannot_be(tmp_path, data, capfd):
    (tmp_path / "w.safetensors").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"need a file that torch\.save wrote"):
        import_pth(tmp_path / "w.safetensors", tmp_path)
    with pytest.raises(DataError, match="No such file or directory"):
        import_pth(tmp_path / "none.pth", tmp_path)
    assert main(["train", str(data.path), "--import-pth", "--runs-dir", str(tmp_path)]) == 2
    assert "--import-pth: got no --init" in capfd.readouterr().err
    assert "import_pth" in eighteen.train.__annotations__


@pytest.mark.parametrize(
    ("wrap", "is_right"),
    [
        (lambda w: w, True),
        (lambda w: OrderedDict(w), True),
        (lambda w: {"model": w, "epoch": 1}, True),
        (lambda w: {"model": {"state_dict": w}}, True),
        (lambda w: {"_orig_mod." + name: one for name, one in w.items()}, True),
        (lambda w: {"module._orig_mod." + name: one for name, one in w.items()}, True),
        (lambda w: [*w.values()], False),
        (lambda w: {"epoch": 1}, False),
        (lambda w: {"w": torch.eye(3).to_sparse()}, False),
    ],
)
def test_weights_are_found_where_people_keep_them(weights, wrap, is_right):
    if is_right:
        assert small_runs.differing(weights_in(wrap(weights)), weights) == []
    else:
        with pytest.raises(ValueError, match=r"expected|no tensors"):
            weights_in(wrap(weights))
