"""Models by name: built, given the weights to start from, frozen up to a stage."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from eighteen.base.errors import DataError, MachineError, RecipeError, did_you_mean
from eighteen.base.recipe import Model
from eighteen.training.card import Card

NUM_FITTED = 5_000  # train pictures that a model sees before its first step, if it wants to

PRETRAINED = "timm"  # model.init = "timm" asks for the weights that timm publishes: the one network call here

# Arguments of timm that load files of its own choice, pickles too.
LOADING = {"checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"}


@runtime_checkable
class Fitted(Protocol):
    """A model that looks at some train pictures before its first step."""

    def fit_to(self, pictures: Tensor) -> None:
        """pictures: [N, C, H, W] float, normalised"""


def build(model: Model, *, num_classes: int, in_chans: int, seed: int = 0) -> nn.Module:
    """A new model with seeded weights: takes [N, in_chans, H, W] float, returns logits [N, num_classes].

    Raises RecipeError if there is no such model, or if it refuses its args; MachineError if pretrained weights cannot
    be fetched.
    """
    if loading := LOADING & {*model.args}:
        got, need = f"model.args.{min(loading)}", "weights from model.init, which are checked"
        raise RecipeError(f"build {model.name}", got=got, need=need, hint="--init FILE.safetensors")
    make = _by_path(model.name) if ":" in model.name else _by_timm_name(model.name, pretrained=model.init == PRETRAINED)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            built = make(num_classes=num_classes, in_chans=in_chans, **model.args)
        except OSError as error:
            tried, hint = f"fetch the weights of {model.name}", "--init FILE.safetensors"
            raise MachineError(tried, got=str(error), need="a network that reaches them", hint=hint) from error
        except (TypeError, ValueError, AssertionError) as error:
            need, hint = "arguments that it takes", "change model.args"
            raise RecipeError(f"build {model.name}", got=str(error), need=need, hint=hint) from error
    if not isinstance(built, nn.Module):
        got, hint = type(built).__name__, "return the model from the function"
        raise RecipeError(f"build {model.name}", got=got, need="a torch.nn.Module", hint=hint)
    return built


def _by_path(name: str) -> Callable[..., Any]:
    module_name, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module_name), function)
    except (ImportError, AttributeError, SyntaxError, ValueError) as error:
        got, need = f"{name!r} ({error})", "package.module:function, importable from here"
        raise RecipeError("model.name", got=got, need=need, hint="PYTHONPATH=. eighteen train ...") from None


def _by_timm_name(name: str, *, pretrained: bool) -> Callable[..., Any]:
    import timm  # 2-4 s: only when a timm model is asked for

    if not timm.is_model(name):
        need = "a timm model, or package.module:function"
        hint = did_you_mean(name, timm.list_models()) if len(name) > 2 else "resnet50"
        raise RecipeError("model.name", got=repr(name), need=need, hint=hint[:200])
    return lambda **args: timm.create_model(name, pretrained=pretrained, **args)


def try_out(model: nn.Module, name: str, *, num_classes: int, in_chans: int, sizes: Iterable[int]) -> None:
    """Show the model a batch of each size, in evaluation mode; RecipeError if it fails, or returns no logits."""
    weight, was_training = next(model.parameters(), torch.zeros(0)), model.training
    model.eval()
    for size in sizes:
        try:
            with torch.inference_mode():
                logits = model(torch.zeros(2, in_chans, size, size, device=weight.device))
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            got, hint = str(error) or type(error).__name__, "another size or model"
            need = f"a model that takes [N, {in_chans}, {size}, {size}]"
            raise RecipeError(f"try {name} on pictures of {size} px", got=got, need=need, hint=hint) from error
        check_logits(logits, name, num_samples=2, num_classes=num_classes)
    model.train(was_training)


def check_logits(logits: Any, name: str, *, num_samples: int, num_classes: int) -> None:
    """RecipeError unless what the model called ``name`` returned is [num_samples, num_classes]."""
    shape = list(logits.shape) if isinstance(logits, Tensor) else None
    if shape != [num_samples, num_classes]:
        got = f"an output of shape {shape}" if shape is not None else f"a {type(logits).__name__}"
        need, hint = (
            f"logits of shape [{num_samples}, {num_classes}]",
            "end it in a linear layer of num_classes outputs",
        )
        raise RecipeError(f"use {name}", got=got, need=need, hint=hint)


def weights_asked_for(model: Model) -> str | None:
    """The run or file to start from; timm's own weights come with the model."""
    return None if model.init == PRETRAINED else model.init


def start_from(model: nn.Module, weights: Mapping[str, Tensor], *, origin: str) -> None:
    """Copy the weights of another model of the same kind; a head of another shape keeps its new weights.

    Raises DataError if anything but the head differs.
    """
    fresh = fresh_names(model, weights, origin=origin)
    model.load_state_dict({name: tensor for name, tensor in weights.items() if name not in fresh}, strict=False)


def fresh_names(model: nn.Module, weights: Mapping[str, Tensor], *, origin: str) -> list[str]:
    """The weights of the head that ``weights`` cannot fill; DataError if anything but the head differs."""
    own = model.state_dict()
    replaceable = _head_names(model)
    fresh = [name for name in own if name not in weights or weights[name].shape != own[name].shape]
    if strangers := [name for name in fresh if name not in replaceable] + [name for name in weights if name not in own]:
        got = f"{len(strangers)} weights that do not fit, the first {strangers[0]!r}"
        need = "weights of the same model (only the last layer may differ)"
        hint = "--model with the name that made these weights"
        raise DataError(f"start from {origin}", got=got, need=need, hint=hint)
    return fresh


def head(model: nn.Module) -> nn.Module:
    """The last layer: what timm calls the classifier, or else the last module that has weights."""
    classifier = getattr(model, "get_classifier", lambda: None)()
    if isinstance(classifier, nn.Module):
        return classifier
    return [module for module in model.modules() if any(True for _ in module.parameters(recurse=False))][-1]


def _head_names(model: nn.Module) -> set[str]:
    inside = {id(tensor) for tensor in head(model).parameters()}
    return {name for name, tensor in model.state_dict(keep_vars=True).items() if id(tensor) in inside}


def freeze_to(model: nn.Module, stage: str) -> list[nn.Module]:
    """Freeze ``stage`` and all before it: no gradients, and batch statistics as they are.

    Returns the modules that must stay in eval mode. Raises RecipeError if there is no such stage, or nothing would be
    left to train.
    """
    modules = dict(model.named_modules())
    if stage not in modules or not stage:
        hint = did_you_mean(stage, [name for name, _ in model.named_children()])
        raise RecipeError("model.freeze_to", got=repr(stage), need="the name of a stage", hint=hint)
    names = [name for name in modules if name]
    last = max(i for i, name in enumerate(names) if name == stage or name.startswith(stage + "."))
    ancestors = {".".join(stage.split(".")[:depth]) for depth in range(1, stage.count(".") + 1)}
    frozen = [modules[name] for name in names[: last + 1] if name not in ancestors]
    for module in frozen:
        module.requires_grad_(False)
    if not any(weight.requires_grad for weight in model.parameters()):
        need = "a stage before the last, so that something is left to train"
        raise RecipeError("model.freeze_to", got=repr(stage), need=need, hint="an earlier stage")
    return frozen


def restore(card: Card, weights: Mapping[str, Tensor], *, model: nn.Module | None = None) -> nn.Module:
    """The model of a card, with its weights, ready to use; ``model`` stands in where the card's cannot be built."""
    if model is None:
        model = build(Model(**card.model), num_classes=len(card.classes), in_chans=card.channels)
    try:
        model.load_state_dict(dict(weights))
    except RuntimeError as error:
        got, need = str(error).splitlines()[-1].strip(), "the model that the weights were trained with"
        raise DataError(f"restore {card.model['name']}", got=got, need=need, hint="the versions in env.json") from None
    return model.to(memory_format=torch.channels_last).eval()


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file; DataError if it is none."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.exists() and not path.is_file():
            raise OSError("no regular file")
        return load_file(path)
    except (OSError, SafetensorError, LookupError, ValueError, RuntimeError) as error:
        need = "a run or a .safetensors file"
        raise DataError(f"read weights from {path}", got=str(error), need=need, hint="--init runs/NAME") from None
