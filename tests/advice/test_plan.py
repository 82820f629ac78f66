"""What a training would take, on machines whose rates are round numbers."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from itertools import pairwise

import pytest

from eighteen.advice import planning
from eighteen.advice.devices import devices
from eighteen.advice.offers import Offer, offers
from eighteen.advice.plan import (
    BOOT_S,
    FEWEST,
    Known,
    Machine,
    Task,
    cannot,
    plan,
    plans,
    rented,
)
from eighteen.advice.rankings import cheapest_first, fastest_first, front, within
from eighteen.advice.rates import Work, measured, published
from eighteen.base import recipe as recipes
from eighteen.base.errors import UsageError
from eighteen.base.schedule import schedule

TODAY = date(2026, 3, 1)
CHANGES = ["phases.0.size=64", "phases.1.size=64", "phases.2.size=64", "eval.size=64", "data.keep=never"]


def task(num_samples=6400, *, num_val=1000, epochs=10.0, changes=(), name="small"):
    recipe = recipes.load(name, epochs=epochs, changes=[*CHANGES, *changes])
    return Task(recipe, schedule(recipe, num_samples), num_val, 1e9, 128)


def here(ranks=1, cpus=2.0):
    return Machine("this machine", ranks, cpus, 8e9)


def offer(**changes):
    facts = {"cloud": "aws", "instance": "p5", "region": "here", "gpus": 8, "gpu": "H100", "cpus": 192, "usd_h": 36.0}
    more = {"memory_gib": 2048, "network_gbit_s": 3200, "spot_usd_h": 9.0, "source": "https://", "date": "2026-01-02"}
    return Offer.model_validate({**facts, **more, **changes})


def known(parts, **works):
    rates, table = measured(parts, basis="measured here"), devices()
    work = works.get("work", {64: Work(24.3e9, 355e6), 128: Work(4 * 24.3e9, 4 * 355e6)})
    return Known(rates, {name: published(rates, one, work) for name, one in table.items()}, table)


def test_a_run_here_takes_its_start_steps_evaluations_checkpoints_and_end(machine_parts):
    rates, one = measured(machine_parts, basis="measured here"), task()
    made = plan(one, rates, here(), 1, today=TODAY)
    assert one.schedule.num_steps == 1000
    step = 0.002 + 0.01 * 64
    assert made.times.steps == pytest.approx(1000 * step * 0.9)
    assert made.times.waiting == pytest.approx(1000 * step * 0.1)
    assert made.times.start == pytest.approx(5.0 + 0.25 + 2 * 0.5)
    assert made.times.evaluation == pytest.approx(3 * 3.0), "after epochs 4, 8 and 10"
    assert made.times.checkpoints == pytest.approx(10 * 0.1)
    assert made.seconds.expected == pytest.approx(made.times.total)
    assert made.seconds.low < made.seconds.expected < made.seconds.high
    assert (made.usd, made.kwh) == (None, None)
    assert made.disk_bytes == pytest.approx(1e9 + 3 * 5e6)
    assert made.memory_bytes == pytest.approx(1e9)


def test_ranks_that_were_tried_go_by_what_they_took(machine_parts):
    rates = measured(machine_parts, basis="measured here")
    made = plan(task(), rates, here(ranks=2), 1, today=TODAY)
    assert made.times.steps + made.times.waiting == pytest.approx(1000 * (0.002 + 0.01 * 32))
    assert made.times.start == pytest.approx(10.0 + 0.25 + 2 * 0.5)


def test_test_time_augmentation_is_paid_once_at_the_end(machine_parts):
    rates = measured(machine_parts, basis="measured here")
    plain, crops = (
        plan(task(changes=[f"eval.tta={tta}"]), rates, here(), 1, today=TODAY).times.evaluation
        for tta in ("none", "crops")
    )
    assert crops - plain == pytest.approx(5 * 3.0)


def test_pictures_that_are_kept_are_decoded_once(machine_parts):
    rates = measured(machine_parts, basis="measured here")
    never, kept = (
        plan(task(changes=[f"data.keep={keep}"]), rates, here(), 1, today=TODAY).times.steps
        for keep in ("never", "auto")
    )
    again = sum(row.epochs - 1 for row in task().recipe.flat_phases if row.epochs >= 2) * 6400
    assert never - kept == pytest.approx(again * (0.002 - 0.0005) / 2)


def test_on_a_gpu_processors_that_decode_too_slowly_hold_it_up(machine_parts):
    one, rates = task(), known(machine_parts).gpus["H100"]
    fast, slow = (
        plan(one, rates, rented(offer(gpus=1, cpus=cpus), devices()["H100"]), 1, today=TODAY).times for cpus in (192, 1)
    )
    assert fast.waiting == 0
    assert slow.steps + slow.waiting == pytest.approx(1000 * 64 * 0.002)


def test_what_gradients_take_beyond_the_backward_pass_is_paid(machine_parts):
    one, device = task(num_samples=640_000, changes=["phases.0.batch=2048"]), devices()["H100"]
    rates = known(machine_parts).gpus["H100"]
    hidden = plan(one, rates, rented(offer(), device), 1, today=TODAY)
    shown = plan(one, replace(rates, num_weights=10**9), rented(offer(), device), 1, today=TODAY)
    assert hidden.times.communication == pytest.approx(0.0)
    assert shown.times.communication > 0
    slow = plan(one, replace(rates, num_weights=10**9), rented(offer(network_gbit_s=10), device), 4, today=TODAY)
    quick = plan(one, replace(rates, num_weights=10**9), rented(offer(), device), 4, today=TODAY)
    assert slow.times.communication > 10 * quick.times.communication


def test_a_rented_machine_boots_and_fetches_the_dataset(machine_parts):
    rates, device = known(machine_parts).gpus["H100"], devices()["H100"]
    made = plan(task(), rates, rented(offer(), device), 1, today=TODAY)
    slow = plan(task(), rates, rented(offer(network_gbit_s=10), device), 1, today=TODAY)
    assert made.times.start == pytest.approx(BOOT_S.expected + 5.0 + 0.25 + 2 * 0.5)
    assert made.times.staging == pytest.approx(1e9 / 5e9)  # what the store sends, as it is less than the network takes
    assert slow.times.staging == pytest.approx(1e9 / (0.8 * 10e9 / 8))
    assert made.usd is not None
    assert made.usd.expected == pytest.approx(made.seconds.expected * 36 / 3600)
    assert made.kwh is not None
    assert made.kwh.expected == pytest.approx(made.seconds.expected * 8 * 700 / 3.6e6)


def test_spot_is_cheaper_and_loses_what_lies_between_checkpoints(machine_parts):
    rates, device = known(machine_parts).gpus["H100"], devices()["H100"]
    machine = rented(offer(spot_losses_a_day=24.0), device)
    firm, spot = (plan(task(epochs=5000.0), rates, machine, 1, is_spot=each, today=TODAY) for each in (False, True))
    assert firm.times.interruptions == 0
    busy = firm.times.total
    between = min(300.0, busy / 5000)
    assert spot.times.interruptions == pytest.approx(busy / 3600 * (firm.times.start + between / 2))
    assert spot.usd.expected < firm.usd.expected  # pyright: ignore[reportOptionalMemberAccess]
    (unknown,) = [
        note
        for note in plan(task(), rates, rented(offer(), device), 1, is_spot=True, today=TODAY).notes
        if "not published" in note
    ]
    assert "1 a day assumed" in unknown


def test_a_plan_says_how_sure_it_is(machine_parts):
    every, one = known(machine_parts), task(epochs=200.0)
    at_home = plan(one, every.here, here(), 1, today=TODAY)
    away = plan(one, every.gpus["V100"], rented(offer(gpu="V100"), devices()["V100"]), 1, today=TODAY)
    spans = [(each.seconds.high - each.seconds.low) / each.seconds.expected for each in (at_home, away)]
    assert spans[0] == pytest.approx(0.2, abs=0.02)
    assert spans[1] > 0.5
    assert (at_home.basis, away.basis) == ("measured here", "published figures alone")
    assert "price of 2026-01-02" not in away.notes
    late = plan(one, every.gpus["V100"], rented(offer(gpu="V100"), devices()["V100"]), 1, today=date(2026, 6, 1))
    assert "price of 2026-01-02" in late.notes


def test_what_cannot_be_planned_is_refused_with_the_reason(machine_parts):
    rows = [offer(), offer(instance="slow", network_gbit_s=None), offer(instance="new", gpu="B200")]
    made, refused = plans(task(), known(machine_parts), [here()], rows, counts=(1, 2, 8), today=TODAY)
    said = {one.where: one.why for one in refused}
    assert said["aws p5 here x 8"] == "a batch of 64 cannot be shared by 64 ranks: at least 2 pictures for each"
    assert "not published" in said["aws slow here x 2"]
    assert said["aws new here"] == "nothing is known of B200: neither measured nor published"
    assert {(one.where, one.machines, one.is_spot) for one in made} == {
        ("this machine", 1, False),
        *(("aws p5 here", count, spot) for count in (1, 2) for spot in (False, True)),
        *(("aws slow here", 1, spot) for spot in (False, True)),
    }
    assert cannot(task(), here(), 1) is None


def test_more_ranks_than_pictures_to_share_are_no_faster(machine_parts):
    rates, device = known(machine_parts).gpus["H100"], devices()["H100"]
    few, many = (plan(task(), rates, rented(offer(gpus=gpus), device), 1, today=TODAY) for gpus in (64 // FEWEST, 16))
    assert many.times.steps == pytest.approx(few.times.steps)
    assert any("no faster" in note for note in many.notes)


def test_rankings_are_by_price_and_by_time_and_the_front_has_no_plan_that_another_beats(machine_parts):
    made, _ = plans(task(epochs=300.0), known(machine_parts), [here()], offers(), counts=(1, 2), today=TODAY)
    cheap, fast, best = cheapest_first(made), fastest_first(made), front(made)
    assert all(a.usd.expected <= b.usd.expected for a, b in pairwise(cheap) if a.usd and b.usd)
    assert all(a.seconds.expected <= b.seconds.expected for a, b in pairwise(fast))
    assert cheap[0] in best
    for one in best:
        assert one.usd
        for other in cheap:
            assert other.usd
            is_faster = other.seconds.expected < 0.98 * one.seconds.expected
            assert not (is_faster and other.usd.expected < one.usd.expected)
    limit = fast[3].seconds.expected
    assert set(map(id, within(made, seconds=limit))) == {id(one) for one in fast if one.seconds.expected <= limit}
    assert within(made, usd=1e-9) == [one for one in made if one.usd is None]


@pytest.mark.parametrize("num_samples", [10**6, 10**9])
def test_on_paper_from_eight_to_a_thousand_gpus(machine_parts, num_samples):
    recipe = recipes.load("imagenet18-16", epochs=1.0)
    one = planning.on_paper(recipe, num_samples, 375)
    sizes = {row.sizes[0] for row in recipe.flat_phases}
    work = {size: Work(24.3e9 * (size / 224) ** 2, 355e6 * (size / 224) ** 2) for size in sizes}
    made, refused = plans(one, known(machine_parts, work=work), [], [offer()], counts=(1, 4, 16, 128), today=TODAY)
    firm = {each.ranks: each for each in made if not each.is_spot}
    assert (sorted(firm), refused) == ([8, 32, 128, 1024], [])
    steps = [firm[ranks].times.steps for ranks in sorted(firm)]
    assert all(a > 2 * b for a, b in pairwise(steps))
    assert one.num_bytes == pytest.approx(1.04 * num_samples * 110_000, rel=0.1)


@pytest.mark.parametrize(
    ("target", "num_classes", "is_tiny", "chosen"),
    [
        ("top1=0.76", 1000, False, "ffcv-32"),
        ("top5=93%", 1000, False, None),
        ("top1=0.76", 5, False, "small"),
        ("top1=0.9", 10, True, "tiny"),
    ],
)
def test_a_target_picks_the_recipe_with_the_fewest_pixels_that_claims_it(target, num_classes, is_tiny, chosen):
    said = []
    found = planning.reaching(target, num_classes=num_classes, is_tiny=is_tiny, say=said.append)
    assert chosen in (found, None)
    assert said[0].startswith(f"recipe {found}: claims {target} on ")
    assert recipes.load(found, side=32).claim["classes"] >= num_classes


def test_a_target_beyond_every_claim_is_told_the_best():
    with pytest.raises(UsageError, match=r"need at most top1=0\.784, which ffcv-88 claims on ImageNet"):
        planning.reaching("top1=0.99", num_classes=1000, is_tiny=False)
    with pytest.raises(UsageError, match="need a recipe that claims anything for 100 classes of such pictures"):
        planning.reaching("top1=0.5", num_classes=100, is_tiny=True)
    with pytest.raises(UsageError, match="--target: got 'top3=1'"):
        planning.reaching("top3=1", num_classes=1000, is_tiny=False)
