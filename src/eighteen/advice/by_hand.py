"""The training loop that a person would write by hand: what a trainer is compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eighteen.training import models, optim
from eighteen.training import state as states
from eighteen.training.job import Job

LR = 1e-4  # a rate at which nothing diverges


class ByHand:
    """Steps with a model and an optimiser like the trainer's, and nothing around them."""

    def __init__(self, this: Job) -> None:
        self.model = models.build(this.recipe.model, num_classes=this.num_classes, in_chans=this.channels)
        self.model.to(this.device).to(memory_format=torch.channels_last)
        freeze_to = this.recipe.model.freeze_to
        self._frozen = models.freeze_to(self.model, freeze_to) if freeze_to else []
        self.train_mode()
        lr_scale, dtype = this.recipe.model.lr_scale, this.dtype
        self.optimizer = optim.optimizer(self.model, this.recipe.optim, lr_scale=lr_scale, dtype=dtype)
        for group in self.optimizer.param_groups:
            group["lr"] = LR
        self._net: dict[bool, nn.Module] = {False: self.model}
        self._type, self._dtype, card = this.device.type, this.dtype, states.card_of(this)
        smoothing = this.recipe.optim.label_smoothing
        self._smoothing = smoothing[0][1] if isinstance(smoothing, list) else smoothing
        self._mean, self._std = (
            torch.tensor(values, device=this.device).mul_(255).view(1, -1, 1, 1) for values in (card.mean, card.std)
        )

    def train_mode(self) -> None:
        """But for what is frozen."""
        self.model.train()
        for module in self._frozen:
            module.eval()

    def forward(self, images: Tensor) -> Tensor:
        """[N, C, H, W] uint8 -> [N, K] logits."""
        with self._autocast():
            return self.model(self._normalised(images))

    def loss(self, net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Under autocast, if there is one."""
        return self._loss(net(self._normalised(images)), labels)

    def step(self, compiled: bool) -> Callable[[Tensor, Tensor], None]:
        if compiled and compiled not in self._net:
            self._net[compiled] = cast(nn.Module, torch.compile(self.model))
        net = self._net[compiled]

        def step(images: Tensor, labels: Tensor) -> None:
            with self._autocast():
                loss = self.loss(net, images, labels)
            loss.backward()
            self._update()

        return step

    def parts(self, images: Tensor, labels: Tensor) -> Iterator[Callable[[], object]]:
        """A step in three: forward, backward, optimiser, each to be called before the next is taken."""
        found = list[Tensor]()
        yield lambda: found.append(self._loss(self.forward(images), labels))
        yield found[0].backward
        yield self._update

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._type, self._dtype, enabled=self._dtype is not None)

    def _normalised(self, images: Tensor) -> Tensor:
        return images.float().sub_(self._mean).div_(self._std)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits.float(), labels, label_smoothing=self._smoothing)

    def _update(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
