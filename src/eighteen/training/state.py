"""Everything a run changes while it trains, and how it comes out of a recipe or a checkpoint."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from eighteen.base.budget import Revision, in_force
from eighteen.base.clock import Clock
from eighteen.base.schedule import Schedule, schedule
from eighteen.base.world import World
from eighteen.data.augment import normalise
from eighteen.data.loader import eval_batches
from eighteen.training import checkpoint, dist, models, optim
from eighteen.training.buffers import flatten_buffers
from eighteen.training.card import Card
from eighteen.training.job import Job
from eighteen.training.parts import Slices, Workers
from eighteen.training.weights import weights_of


@dataclass
class State:
    """net is what the step calls (compiled, in DDP); model is the plain module with the weights.

    step counts finished steps. best_of: size and rect of the evaluations that best_top1 is the best of.
    recalibrated: the step after which batch norm's statistics were last taken anew, and all running statistics then
    plan: the one in force, the recipe's with all revisions      every: epochs between evaluations
    is_reached: whether an evaluation has come up to what the run is to end at
    """

    model: nn.Module
    net: nn.Module
    optimizer: torch.optim.Optimizer
    ema: optim.Ema | None
    buffers: Tensor
    parts: Slices | Workers
    frozen: list[nn.Module]
    communication: dist.Communication | None
    card: Card
    plan: Schedule
    every: int
    revisions: list[Revision] = field(default_factory=list)
    clock: Clock = field(default_factory=Clock)
    is_reached: bool = False
    step: int = 0
    seconds_before: float = 0.0
    recalibrated: tuple[int, Tensor] | None = None
    best_of: list[int] | None = None
    best_top1: float | None = None
    best_checkpoint: str | None = None
    evals_without_gain: int = 0
    began: float = field(default_factory=time.monotonic)

    @cached_property
    def weights(self) -> list[nn.Parameter]:
        """The weights that train."""
        return [weight for group in self.optimizer.param_groups for weight in group["params"]]

    @property
    def drops_gradients(self) -> bool:
        """Whether they are memory of their own, and not views of what travels between ranks."""
        return self.communication is None and isinstance(self.parts, Slices)

    @property
    def seconds_here(self) -> float:
        """Seconds since this process started or resumed the run."""
        return time.monotonic() - self.began

    @property
    def seconds(self) -> float:
        """Seconds of the run so far, over all resumes."""
        return self.seconds_before + self.seconds_here

    def revise(self, revision: Revision) -> None:
        self.revisions = [*self.revisions, revision]
        self.plan, self.every = revision.of(self.plan), revision.every

    def train_mode(self) -> None:
        self.net.train()
        for module in self.frozen:
            module.eval()


def start(this: Job, model: nn.Module | None = None, *, with_init: bool = True) -> State:
    """Step 0. ``model`` stands in for the recipe's, if given; without init where a checkpoint follows."""
    recipe, is_given = this.recipe, model is not None
    if model is None:
        model = models.build(recipe.model, num_classes=this.num_classes, in_chans=this.channels, seed=recipe.train.seed)
    if with_init and isinstance(model, models.Fitted):
        model.fit_to(_some_pictures(this, models.NUM_FITTED))
    if with_init and not is_given and (init := models.weights_asked_for(recipe.model)):
        models.start_from(model, weights_of(init), origin=init)
    frozen = models.freeze_to(model, recipe.model.freeze_to) if recipe.model.freeze_to else []
    model = model.to(this.device).to(memory_format=torch.channels_last)
    buffers, counters = flatten_buffers(model), flatten_buffers(model, torch.int64)
    optimizer = optim.optimizer(model, recipe.optim, lr_scale=recipe.model.lr_scale, dtype=this.dtype)
    communication = dist.Communication(this.device) if this.world.size > 1 else None
    if recipe.train.exact:
        dist.same_weights(model, this.world)
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        net = model
        parts = Workers(weights, buffers, counters, this.world, recipe.train.virtual_workers, communication)
    else:
        net = dist.parallel(model, this.world, this.device)
        if communication and isinstance(net, dist.DistributedDataParallel):
            communication.join(net)
        parts = Slices(net, buffers, counters, this.world)
    state = State(
        model=model,
        net=net,
        optimizer=optimizer,
        ema=optim.Ema(model, recipe.optim.ema) if recipe.optim.ema else None,
        buffers=buffers,
        parts=parts,
        frozen=frozen,
        communication=communication,
        card=card_of(this),
        plan=schedule(recipe, this.data.splits["train"].num_samples),
        every=recipe.eval.every,
    )
    state.train_mode()
    return state


def _some_pictures(this: Job, count: int) -> Tensor:
    """The first train pictures of the run's order, as evaluation sees them: [N, C, H, W] float."""
    split, settings, card = this.data.splits["train"], this.recipe.final_eval, card_of(this)
    samples, _ = this.order.at(0, min(count, split.num_samples))
    square = settings.model_copy(update={"rect": False})
    how = {"device": torch.device("cpu"), "channels": this.channels, "samples": samples}
    batches = eval_batches(split, square, World(), **how)
    return torch.cat([normalise(batch.images, card.mean, card.std) for batch in batches])


def resume(this: Job, state: State, saved: checkpoint.Checkpoint) -> State:
    """Put a checkpoint into a fresh state."""
    state.model.load_state_dict(saved.tensors("model"))
    if state.ema:
        state.ema.load(saved.tensors("ema"))
    checkpoint.load_optimizer(state.model, state.optimizer, saved.tensors("optimizer"))
    if (saved.path / "ranks.safetensors").exists():
        each = saved.tensors("ranks")["statistics"]
        if len(each) == this.world.size:  # as many ranks as wrote it: each goes on with its own
            _put(_statistics(state), each[this.world.rank].to(this.device))
    kept = {name: saved.state[name] for name in ("step", "best_top1", "best_checkpoint", "evals_without_gain")}
    if revisions := [Revision(**one) for one in saved.state.get("revisions", [])]:
        kept |= {"revisions": revisions, "plan": in_force(state.plan, revisions), "every": revisions[-1].every}
    spent_s = saved.state.get("clock_s", saved.state["seconds"])
    if state.clock.seconds < spent_s:  # its folder has lost what it had taken
        kept["clock"] = dataclasses.replace(state.clock, before_s=spent_s, before_j=saved.state.get("energy_j"))
    kept["is_reached"] = saved.state.get("is_reached", False)
    evaluation = this.recipe.final_eval
    kept["best_of"] = saved.state.get("best_of", [evaluation.size, evaluation.rect])  # older versions had one only
    return dataclasses.replace(state, **kept, seconds_before=saved.state["seconds"], began=time.monotonic())


@contextmanager
def averaged_statistics(this: Job, state: State) -> Iterator[Tensor | None]:
    """For as long as the block lasts all ranks have the mean of their running statistics, and of the averages of these.

    Each rank sees another slice of every batch, and goes on with its own. Yields those of all ranks, [ranks, count], or
    None where they do not differ.
    """
    own = _statistics(state)
    flat = torch.cat([one.flatten() for one in own])
    if this.world.size == 1 or this.recipe.train.exact or not flat.numel():
        yield None
        return
    each = dist.gather(flat, this.world)
    _put(own, each.mean(0))
    try:
        yield each
    finally:
        _put(own, flat)


def _statistics(state: State) -> list[Tensor]:
    """The running statistics, and the moving averages of these."""
    averages = state.ema.tensors if state.ema else {}
    return [state.buffers, *(averages[name] for name, _ in state.model.named_buffers() if name in averages)]


def _put(tensors: list[Tensor], flat: Tensor) -> None:
    for tensor, part in zip(tensors, flat.split([one.numel() for one in tensors]), strict=True):
        tensor.copy_(part.view(tensor.shape))


@contextmanager
def averaged_weights(state: State) -> Iterator[None]:
    """For as long as the block lasts the model has the weights that prediction would use, in evaluation mode."""
    own = state.model.state_dict()
    kept = {name: own[name].clone() for name in state.ema.tensors} if state.ema else {}
    if state.ema:
        state.model.load_state_dict(state.ema.tensors, strict=False)
    try:
        yield
    finally:
        state.model.load_state_dict(kept, strict=False)
        state.train_mode()


def card_of(this: Job) -> Card:
    recipe, data, evaluation = this.recipe, this.data, this.recipe.final_eval
    mean, std = tuple(recipe.data.mean or data.mean), tuple(recipe.data.std or data.std)
    if len(mean) == 1 and this.channels == 3:
        mean, std = mean * 3, std * 3
    return Card(
        classes=data.classes,
        channels=this.channels,
        size=evaluation.size,
        crop=evaluation.crop,
        rect=evaluation.rect,
        mean=mean,
        std=std,
        kind=data.splits["train"].renditions["full"].kind,
        model={"name": recipe.model.name, "args": recipe.model.args},
    )
