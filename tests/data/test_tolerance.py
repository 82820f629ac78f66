"""Bad samples: left out and listed up to the tolerated share, never replaced, the same for whoever meets them."""

from __future__ import annotations

import csv
import shutil

import numpy as np
import pytest
import torch

from eighteen.base.errors import DataError
from eighteen.base.order import Order
from eighteen.base.recipe import Augment, Data, Eval, parse
from eighteen.base.schedule import schedule
from eighteen.base.world import World
from eighteen.data import dataset as datasets
from eighteen.data import decoding, reference
from eighteen.data.augment import augment
from eighteen.data.loader import TrainLoader, eval_batches
from eighteen.data.pack import pack
from eighteen.data.tolerance import COLUMNS, Bad, Tolerance

CPU, ALONE = torch.device("cpu"), World()
BAD = [3, 40, 77]


def flip(rendition, sample):
    """Damage a sample in its shard."""
    row = rendition.index[sample]
    with (rendition.root / rendition.shards[row["shard"]]).open("r+b") as file:
        file.seek(int(row["offset"]) + 30)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 4]))


@pytest.fixture(scope="module")
def sound(pictures, tmp_path_factory):
    """108 train and 12 val JPEGs."""
    path = tmp_path_factory.mktemp("packed") / "jpegs.e18"
    pack(pictures, path, procs=1)
    return datasets.open(path)


@pytest.fixture(scope="module")
def damaged(sound, tmp_path_factory):
    """The same with bad samples in train."""
    copy = datasets.open(shutil.copytree(sound.path, tmp_path_factory.mktemp("damaged") / "jpegs.e18"))
    for sample in BAD:
        flip(copy.splits["train"].renditions["full"], sample)
    return copy


@pytest.fixture(scope="module")
def raws(tmp_path_factory):
    """A sound and a damaged dataset of 90 raw gray pictures of 16 x 16."""
    folder = tmp_path_factory.mktemp("raws")
    pack((np.random.default_rng(0).integers(0, 256, (100, 16, 16), np.uint8), np.arange(100) % 2), folder / "a.e18")
    shutil.copytree(folder / "a.e18", folder / "b.e18")
    sound, damaged = datasets.open(folder / "a.e18"), datasets.open(folder / "b.e18")
    for sample in BAD:
        flip(damaged.splits["train"].renditions["full"], sample)
    return sound, datasets.open(folder / "b.e18")


def batches(
    dataset, met, *, kept="never", size=32, min_scale=0.5, world=ALONE, start=0, channels=3, batch=20, **options
):
    split = dataset.splits["train"]
    phase = {"epochs": 2, "size": size, "batch": batch, "min_scale": min_scale}
    tree = {"name": "t", "model": {"name": "none"}, "optim": {"batch": 1, "lr": [[0, 0.1], [2, 0]]}}
    plan = schedule(parse({**tree, "phases": [phase], "eval": {"size": 32}}), split.num_samples)
    how = {"augment": Augment(flip=False), "device": CPU, "channels": channels, "kept": kept, "start": start, **options}
    with TrainLoader(split, plan, Order(5, split.num_samples), world, **how) as loader:
        loader.on_bad = met.append
        return [batch for _, batch in loader]


def check_left_out(whole, found, bad=BAD):
    """The batches are the same but for the bad samples."""
    for one, less in zip(whole, found, strict=True):
        rows = ~np.isin(one.ids.numpy(), bad)
        assert (less.places is None) == rows.all()
        if less.places is not None:
            assert less.places.tolist() == np.flatnonzero(rows).tolist()
        for name in ("images", "labels", "ids", "visits"):
            assert torch.equal(getattr(less, name), getattr(one, name)[rows])


@pytest.mark.parametrize("kept", ["never", "host", "device"])
def test_bad_samples_are_left_out_of_their_batches_and_all_else_is_as_it_was(sound, damaged, kept):
    met: list[Bad] = []
    check_left_out(batches(sound, [], kept=kept), batches(damaged, met, kept=kept))
    assert {bad.sample for bad in met} == set(BAD)
    (bad,) = {(bad.split, bad.rendition, bad.shard) for bad in met}
    assert bad == ("train", "full", "train/full-00000.tar")
    assert "bytes that do not match their checksum" in met[0].error.got
    assert met[0].source == sound.splits["train"].source(met[0].sample)


@pytest.mark.parametrize(("kept", "size", "min_scale"), [("never", 12, 0.5), ("host", 12, 0.5), ("never", 16, 1.0)])
def test_raw_pictures_too_in_parts_and_whole(raws, kept, size, min_scale):
    sound, damaged = raws
    met, how = [], {"kept": kept, "size": size, "min_scale": min_scale, "channels": 1}
    check_left_out(batches(sound, [], **how), batches(damaged, met, **how))
    assert {bad.sample for bad in met} == set(BAD)


def test_the_reference_decoder_leaves_the_same_out(sound, damaged, monkeypatch):
    monkeypatch.setattr("eighteen.data.maker.decoder", reference.ReferenceDecoder)
    met: list[Bad] = []
    check_left_out(batches(sound, []), batches(damaged, met))
    assert {bad.sample for bad in met} == set(BAD)


def test_what_does_not_decode_is_bad_as_well_and_says_why(sound, tmp_path):
    """Two in one batch: sound by their checksum, but no JPEGs."""
    from eighteen.data.shards import crc32c

    rendition = datasets.open(shutil.copytree(sound.path, tmp_path / "p.e18")).splits["val"].renditions["full"]
    index = np.array(rendition.index)
    content = bytearray((rendition.root / rendition.shards[0]).read_bytes())
    for sample in (4, 7):
        first, end = int(index["offset"][sample]), int(index["offset"][sample] + index["length"][sample])
        content[first + 2 : end] = bytes(end - first - 2)
        index["crc32c"][sample] = crc32c(bytes(content[first:end]))
    (rendition.root / rendition.shards[0]).write_bytes(content)
    object.__setattr__(rendition, "index", index)
    object.__setattr__(rendition, "rows", None)
    samples, out = np.arange(12), np.zeros((12, 32, 32, 3), np.uint8)
    boxes, flips = np.tile(np.array([0, 0, 64, 64], np.float32), (12, 1)), np.zeros(12, bool)
    for made in (decoding.decoder(2), reference.ReferenceDecoder(2)):
        bad = made.start(rendition, samples, boxes, flips, out).result().bad
        assert sorted(bad) == [4, 7]
        for place, error in bad.items():
            assert error.tried.startswith(f"decode sample {place} of val/full-00000.tar in")
            assert error.got
        made.close()


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_together_leave_out_what_one_rank_does(damaged, size):
    alone = batches(damaged, [])
    ranks = [batches(damaged, [], world=World(rank, size)) for rank in range(size)]
    for number, whole in enumerate(alone):
        assert torch.equal(torch.cat([rank[number].ids for rank in ranks]), whole.ids)
        assert torch.equal(torch.cat([rank[number].images for rank in ranks]), whole.images)


def test_a_run_that_goes_on_leaves_out_the_same(damaged):
    whole, tail = batches(damaged, [], kept="host"), batches(damaged, [], kept="host", start=4)
    for batch, again in zip(whole[4:], tail, strict=True):
        assert torch.equal(batch.ids, again.ids)
        assert torch.equal(batch.images, again.images)


@pytest.mark.parametrize("mix", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_the_partner_of_a_bad_sample_stays_as_it_is_and_all_others_keep_theirs(sound, damaged, mix):
    section, plain = Augment(flip=False, **mix), Augment(flip=False)
    facts = {"seed": 5, "num_classes": 3, "mean": (0.5,) * 3, "std": (0.2,) * 3}
    for one, less in zip(batches(sound, []), batches(damaged, []), strict=True):
        expected, targets = augment(one, section, **facts)
        bad = np.flatnonzero(np.isin(one.ids.numpy(), BAD))
        orphans = [place for place in bad ^ 1 if place not in bad and place < len(one.ids)]
        expected[orphans] = augment(one, plain, **facts)[0][orphans]
        targets[orphans] = torch.eye(3)[one.labels[orphans]]
        rows = slice(None) if less.places is None else less.places
        images, found = augment(less, section, **facts)
        assert torch.equal(images, expected[rows])
        assert torch.equal(found, targets[rows])


def test_a_batch_of_bad_samples_only_is_an_error(sound, tmp_path):
    copy = datasets.open(shutil.copytree(sound.path, tmp_path / "p.e18"))
    for sample in Order(5, 108).at(0, 2)[0].tolist():
        flip(copy.splits["train"].renditions["full"], sample)
    with pytest.raises(DataError, match="make this rank's batch of step 0: got samples that are all bad"):
        batches(copy, [], batch=2)


@pytest.mark.parametrize("batch", [1, 5, 12])
def test_evaluation_leaves_them_out(sound, tmp_path, batch):
    copy = datasets.open(shutil.copytree(sound.path, tmp_path / "p.e18"))
    for sample in (0, 9):
        flip(copy.splits["val"].renditions["full"], sample)
    met: list[Bad] = []
    settings = Eval(size=32, batch=batch)
    found = list(eval_batches(copy.splits["val"], settings, ALONE, device=CPU, channels=3, on_bad=met.append))
    assert sorted(torch.cat([one.ids for one in found]).tolist()) == [n for n in range(12) if n not in (0, 9)]
    assert {bad.sample for bad in met} == {0, 9}
    with pytest.raises(DataError, match="read sample 0 of val"):
        list(eval_batches(copy.splits["val"], settings, ALONE, device=CPU, channels=3))


def bad_sample(sample, split="train", rendition="full"):
    error = DataError(f"read sample {sample} of x.tar in p.e18", got="other bytes", need="those", hint="check")
    return Bad(split, rendition, "x.tar", sample, "a, b.jpg", error)


def rows(table):
    with table.open(newline="") as file:
        return list(csv.reader(file))


def test_each_is_listed_once_and_one_too_many_is_raised(tmp_path):
    said: list[str] = []
    table, sizes = tmp_path / "bad.csv", {"train": 299, "val": 100}
    tolerance = Tolerance(table, sizes, Data(tolerate=0.01), said.append)
    for sample in (7, 8, 7, 8):
        tolerance(bad_sample(sample))
    tolerance(bad_sample(7, rendition="160"))  # the same sample, elsewhere
    tolerance(bad_sample(7, split="val"))
    assert rows(table)[0] == list(COLUMNS)
    assert rows(table)[1] == ["train", "full", "x.tar", "7", "a, b.jpg", "other bytes"]
    assert len(rows(table)) == 1 + 4
    assert len(said) == 4
    assert said[0] == "read sample 7 of x.tar in p.e18: other bytes; left out, and listed in bad.csv"
    again = Tolerance(table, sizes, Data(tolerate=0.01), said.append)  # another rank, or after --resume
    again(bad_sample(8))
    message = r"read sample 9 of x\.tar.*other bytes: bad sample 3 of train, where data\.tolerate lets 2 be so"
    with pytest.raises(DataError, match=message):
        again(bad_sample(9))
    assert len(said) == 4
    assert len(rows(table)) == 1 + 5


def test_stop_tolerates_none(tmp_path):
    tolerance = Tolerance(tmp_path / "bad.csv", {"train": 299}, Data(tolerate=1, bad="stop"), print)
    with pytest.raises(DataError, match=r"read sample 7 of x\.tar in p\.e18: got other bytes, need those"):
        tolerance(bad_sample(7))
    assert not (tmp_path / "bad.csv").exists()
