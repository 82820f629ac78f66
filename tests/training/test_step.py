"""One step: against a bare PyTorch loop, and what it leaves alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from small_runs import differing, distance, make_job, model
from torch import Tensor

from eighteen.data.augment import augment
from eighteen.training import checkpoint, models, state, step, train
from eighteen.training.job import Job
from eighteen.training.state import State

MIXUP = "augment.mixup=0.4"


def steps(this: Job, count: int) -> tuple[State, list[Tensor]]:
    """Take the first ``count`` steps; returns the state and each step's outcome."""
    now, outcomes = state.start(this), []
    with train.train_loader(this, now) as loader:
        for _, (at, batch) in zip(range(count), loader, strict=False):
            outcomes.append(step.train_step(this, now, batch, at, count_hits=True, asks=(False, False, False)))
            now.step += 1
    return now, outcomes


def bare(this: Job, count: int) -> dict[str, Tensor]:
    """The weights after ``count`` steps of a loop as one writes it by hand: no groups, nothing fused, the mean loss."""
    recipe, optim = this.recipe, this.recipe.optim
    net = models.build(recipe.model, num_classes=this.num_classes, in_chans=3, seed=recipe.train.seed)
    groups = [
        {"params": [weight for weight in net.parameters() if weight.ndim > 1], "weight_decay": optim.weight_decay},
        {"params": [weight for weight in net.parameters() if weight.ndim == 1], "weight_decay": 0.0},
    ]
    if optim.name == "sgd":
        momentum = state.start(this).plan.at(0).momentum
        nesterov = optim.nesterov and momentum > 0
        optimizer = torch.optim.SGD(groups, lr=0.1, momentum=momentum, nesterov=nesterov, foreach=False)
    else:
        optimizer = torch.optim.AdamW(groups, lr=0.1, betas=optim.betas, eps=optim.eps, foreach=False)
    card = state.card_of(this)
    with train.train_loader(this, state.start(this)) as loader:
        for _, (at, batch) in zip(range(count), loader, strict=False):
            images, targets = augment(batch, recipe.augment, seed=0, num_classes=4, mean=card.mean, std=card.std)
            loss = F.cross_entropy(
                net(images), targets, this.class_weights, reduction="sum", label_smoothing=at.label_smoothing
            )
            optimizer.zero_grad()
            (loss / at.batch).backward()
            if optim.clip:
                torch.nn.utils.clip_grad_norm_(net.parameters(), optim.clip)
            for group in optimizer.param_groups:
                group["lr"] = at.lr
                if optim.name == "sgd":
                    group["momentum"] = at.momentum
            optimizer.step()
    return net.state_dict()


@pytest.mark.parametrize(
    "changes",
    [
        (),
        ("optim.nesterov=false", "optim.momentum=0.5"),
        ("optim.momentum=0",),
        ("optim.momentum=[[0, 0.95], [1, 0.8], [6, 0.95]]", "optim.label_smoothing=[[0, 0.2], [6, 0.0]]"),
        ("optim.name='adamw'", "optim.lr=[[0, 0.001], [6, 0.0]]", "optim.weight_decay=0.1"),
        ("optim.clip=0.05",),
        (MIXUP,),
        ("augment.cutmix=1.0", "augment.erase=0.5"),
        ("data.balance='weights'", MIXUP),
        ("train.micro_batch=5",),
        ("train.micro_batch=7", MIXUP, "optim.clip=0.05"),
    ],
    ids=" ".join,
)
def test_steps_are_those_of_a_bare_loop(data, tmp_path, changes):
    this = make_job(data, tmp_path, *changes)
    ours, _ = steps(this, 8)
    assert distance(ours.model.state_dict(), bare(this, 8)) < 1e-5


def test_bfloat16_learns_nearly_the_same(data, tmp_path):
    full, _ = steps(make_job(data, tmp_path), 8)
    half, _ = steps(make_job(data, tmp_path, "train.precision='bf16'"), 8)
    assert all(weight.dtype == torch.float32 for weight in half.model.state_dict().values())
    assert 0 < distance(half.model.state_dict(), full.model.state_dict()) < 0.2


def test_the_outcome_counts_loss_and_hits(data, tmp_path):
    this = make_job(data, tmp_path, "optim.lr=[[0, 0.0], [6, 0.0]]", "optim.label_smoothing=0.0")
    now, outcomes = steps(this, 1)
    with train.train_loader(this, state.start(this)) as loader:
        _, batch = next(loader)
    images, labels = augment(batch, this.recipe.augment, seed=0, num_classes=4, mean=now.card.mean, std=now.card.std)
    with torch.no_grad():
        logits = now.model(images)
    best = logits.argsort(1, descending=True)
    assert outcomes[0][0].item() == pytest.approx(F.cross_entropy(logits, labels, reduction="sum").item(), rel=1e-6)
    assert outcomes[0][1:].tolist() == [(best[:, 0] == labels).sum(), len(labels), 0, 0, 0, 0, 0, 0]


def test_the_clip_bounds_what_a_step_moves(data, tmp_path):
    plain = ("optim.momentum=0", "optim.weight_decay=0.0", "optim.lr=[[0, 1.0], [6, 1.0]]")
    this = make_job(data, tmp_path, *plain, "optim.clip=0.01")
    before = state.start(this).model.state_dict()
    after = steps(this, 1)[0].model.state_dict()
    moved = torch.cat([(after[name] - before[name]).flatten() for name in before])
    assert moved.norm().item() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("decay", [0.2, 0.9])
def test_the_moving_average_is_its_formula(data, tmp_path, decay):
    this = make_job(data, tmp_path, model("normed"), f"optim.ema={decay}")
    expected = {name: value.clone() for name, value in state.start(this).model.state_dict().items()}
    runs = [steps(this, count + 1)[0] for count in range(5)]
    for count, own in enumerate(runs):
        share = min(decay, (1 + count) / (10 + count))
        for name, value in own.model.state_dict().items():
            expected[name] = share * expected[name] + (1 - share) * value if value.is_floating_point() else value
    ema = runs[-1].ema
    assert ema is not None
    assert {"body.1.running_mean", "head.bias"} < ema.tensors.keys()
    assert distance(ema.tensors, {name: expected[name] for name in ema.tensors}) < 1e-6


@pytest.mark.parametrize("optim", ["sgd", "adamw", "lars", "muon"])
@pytest.mark.parametrize("nan_at", [0, 3])
def test_a_step_with_a_loss_that_is_not_finite_changes_nothing(data, tmp_path, optim, nan_at):
    second_of_three = f"model.args.nan_at=[{3 * nan_at + 1}]"  # forward passes of that step
    this = make_job(data, tmp_path, model("faulty"), second_of_three, f"optim.name='{optim}'", "train.micro_batch=10")
    (before, _), (after, outcomes) = steps(this, nan_at), steps(this, nan_at + 1)
    assert outcomes[nan_at][3] == 1
    assert not any(outcome[3] for outcome in outcomes[:nan_at])
    counted = "num_batches_tracked"  # how many forward passes there were
    floats = [{n: v for n, v in own.model.state_dict().items() if counted not in n} for own in (before, after)]
    assert differing(*floats) == []
    momenta = [checkpoint.optimizer_tensors(own.model, own.optimizer) for own in (before, after)]
    if nan_at or optim != "adamw":
        assert differing(*momenta) == []
    else:
        assert not any(value.any() for value in momenta[1].values())  # Adam's begin with their first step, as zeros


def test_learning_goes_on_after_a_skipped_step(data, tmp_path):
    this = make_job(data, tmp_path, model("faulty"), "model.args.nan_at=[1]")
    (before, _), (after, _) = steps(this, 2), steps(this, 3)
    assert all(weight.isfinite().all() for weight in after.model.state_dict().values())
    assert "net.head.weight" in differing(before.model.state_dict(), after.model.state_dict())


def test_gradients_that_are_not_finite_count_too(data, tmp_path):
    this = make_job(data, tmp_path, "optim.lr=[[0, 1e30], [6, 1e30]]", "optim.momentum=0")
    own, outcomes = steps(this, 4)
    assert sum(outcome[3].item() for outcome in outcomes) > 0
    assert all(weight.isfinite().all() for weight in own.model.state_dict().values())
