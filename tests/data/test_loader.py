"""The loader: which samples, in which order, on which rank, and what becomes of its threads."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest
import torch

from eighteen.base.errors import DataError, RecipeError
from eighteen.base.order import Order
from eighteen.base.recipe import Augment, Eval, parse
from eighteen.base.schedule import schedule
from eighteen.base.world import World
from eighteen.data import dataset as datasets
from eighteen.data.loader import TrainLoader, _sound_in_all, choose_rendition, eval_batches
from eighteen.data.maker import Batch
from eighteen.data.pack import pack
from eighteen.data.prefetch import Ahead

CPU, ALONE = torch.device("cpu"), World()
PHASES = [{"epochs": 0.5, "size": 32, "batch": 22}, {"epochs": 1.0, "size": 48, "batch": 27, "min_scale": 0.5}]


@pytest.fixture(scope="module")
def jpegs(pictures, tmp_path_factory):
    """108 train and 12 val JPEGs of 72 to 128 pixels, also as a rendition of 48."""
    path = tmp_path_factory.mktemp("packed") / "jpegs.e18"
    pack(pictures, path, renditions=[48], procs=1)
    return datasets.open(path)


@pytest.fixture(scope="module")
def raws(tmp_path_factory):
    """90 train and 10 val raw gray pictures of 16 x 16."""
    path = tmp_path_factory.mktemp("packed") / "raws.e18"
    rng = np.random.default_rng(0)
    pack((rng.integers(0, 256, (100, 16, 16), np.uint8), np.arange(100) % 2), path, procs=1)
    return datasets.open(path)


def plan_of(phases, num_samples):
    lr = [[0, 0.1], [sum(phase["epochs"] for phase in phases), 0]]
    tree = {"name": "test", "model": {"name": "none"}, "optim": {"batch": 1, "lr": lr}, "eval": {"size": 32}}
    return schedule(parse({**tree, "phases": phases}), num_samples)


def train_loader(dataset, *, phases=PHASES, world=ALONE, flip=True, channels=3, device=CPU, **options):
    split, augment = dataset.splits["train"], Augment.model_validate({"flip": flip})
    plan, order = plan_of(phases, split.num_samples), Order(5, split.num_samples)
    return TrainLoader(split, plan, order, world, augment=augment, device=device, channels=channels, **options)


def evaluation(split, world=ALONE, **settings):
    return eval_batches(split, Eval.model_validate(settings), world, device=CPU, channels=3, num_threads=1)


def all_of(loader):
    with loader:
        return list(loader)


def our_threads():
    return {thread for thread in threading.enumerate() if thread.name.startswith("eighteen")}


@pytest.mark.parametrize("size", [2, 3, 5, 20])
def test_the_ranks_together_have_the_batch_of_one_rank_bit_for_bit(jpegs, size):
    alone = all_of(train_loader(jpegs))
    ranks = [all_of(train_loader(jpegs, world=World(rank, size), num_threads=1)) for rank in range(size)]
    for number, (step, whole) in enumerate(alone):
        assert all(rank[number][0] == step for rank in ranks)
        assert len(whole.ids) == step.batch
        for part in ("images", "labels", "ids", "visits"):
            together = torch.cat([getattr(rank[number][1], part) for rank in ranks])
            assert torch.equal(together, getattr(whole, part))


def test_batches_follow_the_order_and_carry_the_labels(jpegs):
    split = jpegs.splits["train"]
    batches = all_of(train_loader(jpegs))
    samples, visits = Order(5, split.num_samples).at(0, sum(step.batch for step, _ in batches))
    assert torch.cat([batch.ids for _, batch in batches]).tolist() == samples.tolist()
    assert torch.cat([batch.visits for _, batch in batches]).tolist() == visits.tolist()
    assert torch.cat([batch.labels for _, batch in batches]).tolist() == split.labels[samples].tolist()
    assert visits.max() == 1  # a second epoch had begun


@pytest.mark.parametrize("start", [1, 3])
def test_a_later_start_repeats_the_tail(jpegs, start):
    whole, tail = all_of(train_loader(jpegs)), all_of(train_loader(jpegs, start=start))
    assert len(tail) == len(whole) - start
    for (step, batch), (again_step, again) in zip(whole[start:], tail, strict=True):
        assert step == again_step
        assert torch.equal(batch.images, again.images)


def test_a_sample_is_cropped_anew_each_visit(raws):
    batches = all_of(train_loader(raws, phases=[{"epochs": 2, "size": 16, "batch": 90}], channels=1))
    first, second = (dict(zip(b.ids.tolist(), b.images, strict=True)) for _, b in batches)
    assert sum(torch.equal(first[sample], second[sample]) for sample in first) < 5


def test_phases_may_differ_in_size(jpegs):
    shapes = [tuple(batch.images.shape) for _, batch in all_of(train_loader(jpegs))]
    assert shapes == [(22, 3, 32, 32)] * 2 + [(27, 3, 48, 48)] * 4
    for _, batch in all_of(train_loader(jpegs)):
        assert batch.images.dtype == torch.uint8
        assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_threads_live_through_phases(jpegs):
    seen = set()
    with train_loader(jpegs, num_threads=2, prefetch=1) as loader:
        for _ in loader:
            seen |= our_threads()
    assert len(seen) <= 3  # two that decode, one that feeds


def test_a_change_of_batch_size_rendition_or_strength_restarts_no_thread(jpegs):
    """The very threads of the first phase make the last one's batches."""
    phases = [
        {"epochs": 1, "size": 32, "batch": 8, "rendition": "48"},
        {"epochs": 1, "size": 48, "batch": 8, "rendition": "full"},
        {"epochs": 1, "size": 48, "batch": 20, "rendition": "full", "strength": 0.5},
        {"epochs": 1, "size": 32, "batch": 20, "rendition": "48", "max_scale": 0.8},
    ]
    seen = {phase: set() for phase in range(4)}
    with train_loader(jpegs, phases=phases, num_threads=2, prefetch=1) as loader:
        for step, _ in loader:
            seen[step.phase] |= {thread.ident for thread in our_threads()}
    assert len(seen[0]) == len(set.union(*seen.values())) <= 3  # two that decode, one that feeds


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_leaving_in_the_middle_leaves_no_thread(jpegs, taken):
    before = our_threads()
    with train_loader(jpegs, prefetch=1) as loader:
        for _ in itertools.islice(loader, taken):
            pass
    assert our_threads() == before
    assert list(loader) == []


def test_an_error_of_the_consumer_leaves_no_thread(jpegs):
    before = our_threads()
    with pytest.raises(ZeroDivisionError), train_loader(jpegs):
        _ = 1 / 0
    assert our_threads() == before


def test_a_damaged_sample_reaches_the_consumer_as_itself(jpegs, tmp_path):
    copy = tmp_path / "damaged.e18"
    for path in sorted(jpegs.path.rglob("*")):
        if path.is_file():
            (copy / path.relative_to(jpegs.path)).parent.mkdir(parents=True, exist_ok=True)
            (copy / path.relative_to(jpegs.path)).write_bytes(path.read_bytes())
    damaged = datasets.open(copy)
    rendition = damaged.splits["train"].renditions["full"]
    shard = copy / rendition.shards[0]
    content = bytearray(shard.read_bytes())
    content[int(rendition.index["offset"][40]) + 30] ^= 1
    shard.write_bytes(content)
    before = our_threads()
    with train_loader(damaged, rendition="full", prefetch=1) as loader:
        message = rf"read sample 40 of {rendition.shards[0]} in .*got bytes that do not match their checksum"
        with pytest.raises(DataError, match=message):
            list(loader)
        with pytest.raises(DataError, match="read sample 40"):  # and again, for whoever asks again
            next(loader)
    assert our_threads() == before


def test_a_full_queue_does_not_keep_a_thread_from_ending():
    third_is_made = threading.Event()

    def numbers():
        for number in itertools.count():
            if number == 2:
                third_is_made.set()  # one is taken, one queued, and this one will wait for room
            yield number

    ahead = Ahead(numbers(), depth=1)
    assert next(ahead) == 0
    assert third_is_made.wait(10)
    ahead.close()
    assert list(ahead) == []


def test_waits_are_told_by_stage_since_they_were_last_asked_for(jpegs):
    with train_loader(jpegs, num_threads=1) as loader:
        list(loader)
        waits = loader.waits()
        assert set(waits) == {"read_s", "verify_s", "decode_s", "resize_s", "copy_s", "arrive_s", "wait_s"}
        assert waits["decode_s"] > waits["read_s"] > 0
        assert waits["wait_s"] > 0
        assert loader.waits() == dict.fromkeys(waits, 0.0)


def test_gray_pictures_have_one_channel_or_three_alike(raws):
    phases = [{"epochs": 1, "size": 16, "batch": 90, "min_scale": 1.0}]
    pixels = raws.splits["train"].renditions["full"].pixels
    (_, gray), (_, rgb) = (all_of(train_loader(raws, phases=phases, channels=channels))[0] for channels in (1, 3))
    assert gray.images.shape == (90, 1, 16, 16)
    assert torch.equal(gray.images.expand(-1, 3, -1, -1), rgb.images)
    plain = all_of(train_loader(raws, phases=phases, channels=1, flip=False))[0][1]
    assert np.array_equal(plain.images.numpy()[:, 0], pixels[plain.ids.numpy(), :, :, 0])


@pytest.mark.parametrize(
    ("size", "share", "square", "chosen"),
    [
        (32, 1.0, True, "48"),
        (48, 1.0, True, "48"),
        (49, 1.0, True, "full"),
        (40, 0.625, False, "48"),  # random crops of pictures about 4:3, 0.79 of the geometric mean of their sides
        (48, 0.25, False, "full"),
        (4096, 1.0, True, "full"),
    ],
)
def test_the_smallest_rendition_that_suffices_is_read(jpegs, size, share, square, chosen):
    split = jpegs.splits["train"]
    assert choose_rendition(split, "auto", size=size, share=share, square=square) is split.renditions[chosen]


def test_a_rendition_may_be_named(jpegs):
    split = jpegs.splits["train"]
    assert choose_rendition(split, "48", size=4096, share=1.0, square=True) is split.renditions["48"]
    with pytest.raises(RecipeError, match=r"data.rendition: got '84', need one of auto, (48, full|full, 48)"):
        choose_rendition(split, "84", size=32, share=1.0, square=True)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 40])
@pytest.mark.parametrize("settings", [{"size": 32}, {"size": 32, "rect": True}, {"size": 96, "tta": "crops"}])
def test_evaluation_has_each_sample_once_in_the_same_batches_on_any_world(jpegs, size, settings):
    split, settings = jpegs.splits["train"], {**settings, "batch": 10}
    alone = list(evaluation(split, **settings))
    assert sorted(torch.cat([batch.ids for batch in alone]).tolist()) == list(range(split.num_samples))
    ranks = [list(evaluation(split, World(rank, size), **settings)) for rank in range(size)]
    in_turn = [batch for row in itertools.zip_longest(*ranks) for batch in row if batch is not None]
    for batch, again in zip(alone, in_turn, strict=True):
        assert torch.equal(batch.ids, again.ids)
        assert torch.equal(batch.images, again.images)
        assert all(map(torch.equal, batch.moved, again.moved))
        assert batch.labels.tolist() == split.labels[batch.ids.numpy()].tolist()


def test_square_evaluation_has_squares_of_the_right_size(jpegs):
    batches = evaluation(jpegs.splits["val"], size=40, batch=5)
    assert [tuple(batch.images.shape) for batch in batches] == [(5, 3, 40, 40), (5, 3, 40, 40), (2, 3, 40, 40)]


def test_rectangular_evaluation_keeps_like_ratios_together(tmp_path, pictures):
    from PIL import Image

    picture = Image.open(next(pictures.rglob("*.jpg")))
    for name, (width, height) in {"flat": (300, 100), "square": (100, 100), "tall": (100, 160)}.items():
        for number in range(4):
            path = tmp_path / "source" / "train" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.resize((width, height)).rotate(number).save(path)
    pack(tmp_path / "source", tmp_path / "rect.e18", val=0.0, procs=1)
    split = datasets.open(tmp_path / "rect.e18").splits["train"]
    batches = evaluation(split, size=64, rect=True, batch=4)
    assert [tuple(batch.images.shape[2:]) for batch in batches] == [(96, 64), (64, 64), (64, 128)]
    some = np.array([11, 3, 7, 10])
    settings = Eval.model_validate({"size": 64, "rect": True, "batch": 2})
    few = [*eval_batches(split, settings, ALONE, device=CPU, channels=3, num_threads=1, samples=some)]
    assert sorted(torch.cat([batch.ids for batch in few]).tolist()) == sorted(some.tolist())
    sides = np.array(split.renditions["full"].index["width"]) / np.array(split.renditions["full"].index["height"])
    assert sides[torch.cat([batch.ids for batch in few])].tolist() == sorted(sides[some].tolist())


@pytest.mark.parametrize("rect", [False, True])
def test_crops_for_tta_are_others_of_the_same_pictures_and_the_plain_ones_stay(jpegs, rect):
    split, settings = jpegs.splits["train"], {"size": 96, "rect": rect, "batch": 30}
    for plain, batch in zip(evaluation(split, **settings), evaluation(split, **settings, tta="crops"), strict=True):
        assert torch.equal(plain.images, batch.images)
        assert plain.moved == ()
        assert len(batch.moved) == 2
        up, middle, down = (images.float() for images in (batch.moved[0], batch.images, batch.moved[1]))
        assert up.shape == middle.shape == down.shape
        by = 96 // 16  # pixels; at half of them two moved crops are alike
        error = (up[:, :, by:, by:] - middle[:, :, :-by, :-by]).abs().mean()
        assert error < 0.5 * (up - middle).abs().mean()
        error = (down[:, :, :-by, :-by] - middle[:, :, by:, by:]).abs().mean()
        assert error < 0.5 * (down - middle).abs().mean()


def test_a_sample_that_is_bad_in_one_crop_is_left_out_of_all():
    def crop(ids, shade):
        ids, places = torch.tensor(ids), None if len(ids) == 4 else torch.tensor(ids)
        images = (10 * ids + shade).to(torch.uint8)[:, None, None, None].expand(-1, 3, 8, 8)
        return Batch(images, ids % 2, ids, torch.zeros_like(ids), places)

    batch = _sound_in_all(crop([0, 1, 2, 3], 0), crop([0, 1, 3], 1), crop([1, 2, 3], 2))
    assert batch.ids.tolist() == [1, 3]
    assert batch.labels.tolist() == [1, 1]
    shades = [images[:, 0, 0, 0].tolist() for images in (batch.images, *batch.moved)]
    assert shades == [[10, 30], [11, 31], [12, 32]]


def test_an_evaluation_left_early_leaves_no_thread(jpegs):
    before = our_threads()
    batches = evaluation(jpegs.splits["train"], size=32, batch=5)
    next(batches)
    assert our_threads() != before
    batches.close()
    assert our_threads() == before


@pytest.mark.gpu
def test_batches_on_a_gpu_are_those_on_the_cpu(jpegs):
    device, phases = torch.device("cuda", torch.cuda.current_device()), [{"epochs": 8, "size": 64, "batch": 16}]
    expected = all_of(train_loader(jpegs, phases=phases))
    with train_loader(jpegs, phases=phases, device=device) as loader:
        for (_, batch), (_, on_cpu) in zip(loader, expected, strict=True):
            torch.cuda._sleep(1_000_000)  # so that copies run ahead of the consumer
            assert batch.images.device == device
            assert torch.equal(batch.images.cpu(), on_cpu.images)
            assert torch.equal(batch.labels.cpu(), on_cpu.labels)


REPLANNED = [
    {"epochs": 1, "size": 24, "batch": 10, "min_scale": 0.5},
    {"epochs": 1, "size": 32, "batch": 12, "min_scale": 0.5},
]


@pytest.mark.parametrize("kept", ["never", "host"])
@pytest.mark.parametrize(("at", "factor"), [(0, 2.0), (3, 0.5), (3, 3.0), (8, 0.2), (10, 0.0), (13, 2.0), (19, 4.0)])
def test_a_loader_that_is_replanned_gives_the_batches_of_the_new_plan(jpegs, at, factor, kept):
    plan = plan_of(REPLANNED, 108).revised(at, factor)
    loader = train_loader(jpegs, phases=REPLANNED, kept=kept, num_threads=1)
    got = []
    with loader:
        if at == 0:
            loader.replan(plan)
        for step, batch in loader:
            got.append((step, batch))
            if step.number + 1 == at:
                loader.replan(plan)
    assert [step for step, _ in got[at:]] == [plan.at(number) for number in range(at, plan.num_steps)]
    split = jpegs.splits["train"]
    whole = TrainLoader(split, plan, Order(5, 108), ALONE, augment=Augment(), device=CPU, channels=3, kept=kept)
    for (step, batch), (other, wanted) in zip(got[at:], all_of(whole)[at:], strict=True):
        assert step == other
        assert torch.equal(batch.images, wanted.images)
        assert torch.equal(batch.ids, wanted.ids)


def test_a_loader_can_be_replanned_at_every_step(jpegs):
    plan, got = plan_of(REPLANNED, 108), []
    loader = train_loader(jpegs, phases=REPLANNED, num_threads=1)
    with loader:
        for step, batch in loader:
            got.append((step.first, step.size, step.batch, *batch.images.shape[-2:]))
            if step.number + 1 < plan.num_steps and step.number < 30:
                plan = plan.revised(step.number + 1, (0.3, 2.5)[step.number % 2])
                loader.replan(plan)
    wanted = [plan.at(number) for number in range(plan.num_steps)]
    assert got == [(step.first, step.size, step.batch, step.size, step.size) for step in wanted]
