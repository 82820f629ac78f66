"""A recipe: how to train, as data. TOML in, frozen models out, and back again without loss.

A recipe is complete and inherits nothing. It is resolved once, before anything is spent, and every part of the program
receives only its own section.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Sequence
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import tomli_w
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from eighteen.base.errors import RecipeError, did_you_mean

Share = Annotated[float, Field(ge=0, le=1)]
Size = Annotated[int, Field(ge=8, le=4096)]
Batch = Annotated[int, Field(gt=0, le=4_000_000)]
Range = tuple[float, float]
Tta = Literal["none", "flip", "crops"]
Rendition = Annotated[str, BeforeValidator(lambda name: str(name) if type(name) is int else name)]  # 160 is "160"
Points = list[tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]]]  # [epoch, value]

SIZE_STEP = 32  # pixels from one size of a ramp to the next
SIZE_MULTIPLE = 8  # of the ends of a ramp
RECT_MULTIPLE = 32  # of a rectangular evaluation's size


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Model(Section):
    name: str = Field(description="a timm name, or package.module:function that takes num_classes and in_chans")
    args: dict[str, Any] = Field(default={}, description="what else the model is built with")
    init: str | None = Field(
        default=None,
        description="the weights to start from: of a run or a safetensors file; 'timm': those timm publishes",
    )
    freeze_to: str | None = Field(
        default=None, description="this stage and all before it keep their weights, e.g. 'features.28'"
    )
    lr_scale: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default={}, description="stage -> multiplier of its learning rate; the longest matching name counts"
    )


class Drops(Section):
    """A learning rate that starts at ``start`` and is multiplied by ``factor`` every ``every`` epochs."""

    start: Annotated[float, Field(gt=0)] = Field(description="the rate of the first epochs")
    factor: Annotated[float, Field(gt=0, lt=1)] = Field(description="what each drop multiplies it by")
    every: Annotated[float, Field(gt=0)] = Field(description="epochs from one drop to the next")


class Optim(Section):
    name: Literal["sgd", "adamw", "lars", "muon"] = Field(
        default="sgd",
        description="which optimiser; lars: for batches above 8,192; muon: for convolutions and linear layers, and sgd"
        " for all else",
    )
    momentum: Share | Points = Field(default=0.9, description="of sgd, lars and muon; or points, as lr")
    nesterov: bool = Field(default=True, description="of sgd, lars and muon")
    trust: Annotated[float, Field(gt=0)] = Field(
        default=0.001, description="of lars: the share of a weight's norm that a step of rate 1 changes"
    )
    sgd_scale: Annotated[float, Field(ge=0)] = Field(
        default=1.0, description="of muon: multiplier of the rate of what it leaves to sgd"
    )
    sgd_momentum: Share | None = Field(default=None, description="of muon: of what it leaves to sgd; none: the same")
    betas: tuple[Share, Share] = Field(default=(0.9, 0.999), description="of adamw")
    eps: Annotated[float, Field(gt=0)] = Field(default=1e-8, description="of adamw")
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="never on norms and biases; of muon: of what it leaves to sgd"
    )
    batch: Batch = Field(description="the batch that the learning rates are written for; they scale with it")
    lr: Points | Drops = Field(
        description="points [epoch, value], the first at epoch 0, the last where the phases end; or drops"
    )
    curve: Literal["linear", "cosine", "step"] = Field(
        default="linear", description="how the rate, and what else has points, goes from one to the next"
    )
    label_smoothing: Share | Points = Field(
        default=0.0, description="share of the target that all classes have evenly; or points, as lr"
    )
    clip: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="largest norm of all gradients together; 0: any"
    )
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="decay of the weights' moving average a step; 0: none"
    )
    ema_from: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="the epoch from which on the moving average is taken"
    )
    recalibrate: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="train pictures over which batch norm's statistics are taken anew for the averaged weights;"
        " 0: averaged as the weights are",
    )

    @property
    def points(self) -> dict[str, Points]:
        """What goes through points: key -> them."""
        keys = ("lr", "momentum", "label_smoothing")
        return {key: value for key in keys if isinstance(value := getattr(self, key), list)}

    @model_validator(mode="after")
    def _averages_are_there(self) -> Self:
        for key in ("ema_from", "recalibrate"):
            if getattr(self, key) and not self.ema:
                raise ValueError(f"{key} needs averaged weights: ema above 0")
        return self

    @model_validator(mode="after")
    def _points_start_at_zero_and_rise_in_epochs(self) -> Self:
        for key, points in self.points.items():
            epochs = [epoch for epoch, _ in points]
            if not epochs or epochs[0] != 0 or any(a >= b for a, b in pairwise(epochs)):
                raise ValueError(f"{key} needs points [epoch, value] whose epochs start at 0 and rise")
            if key != "lr" and max(value for _, value in points) > 1:
                raise ValueError(f"{key} needs values from 0 to 1")
        return self


class Phase(Section):
    epochs: Annotated[float, Field(gt=0, le=1_000_000)] = Field(description="how long it lasts, fractions too")
    size: Size | tuple[Size, Size] = Field(
        description="side in pixels; [128, 192]: a ramp in steps of 32, each for as long; '70%' in a file: of the"
        " pictures' side, where all are of one tiny size"
    )
    batch: Batch = Field(description="pictures of one optimiser step, over all ranks")
    min_scale: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.25, description="smallest share of the picture's area in a random crop; 1: always the central square"
    )
    max_scale: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0, description="largest share of the picture's area in a random crop"
    )
    rendition: Rendition | None = Field(
        default=None, description="which rendition to read; none: what data.rendition says"
    )
    strength: Share = Field(default=1.0, description="of all in [augment] but flip and ratio; 0: none of it")
    micro_batch: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="most pictures in one forward pass of a rank; none: train.micro_batch"
    )
    eval_size: Size | None = Field(default=None, description="side of the evaluation's pictures; none: eval.size")
    eval_rect: bool | None = Field(default=None, description="whether they keep their ratio; none: eval.rect")

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes it passes through, each for the same share of its epochs."""
        if isinstance(self.size, int):
            return (self.size,)
        first, last = self.size
        way = SIZE_STEP if last > first else -SIZE_STEP
        return (*range(first, last, way), last)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not isinstance(self.size, int):
            if odd := [side for side in self.size if side % SIZE_MULTIPLE]:
                raise ValueError(f"a ramp of sizes that are multiples of {SIZE_MULTIPLE}, not {odd[0]}")
            if self.size[0] == self.size[1]:
                raise ValueError("two sizes that differ, for a ramp")
        if self.min_scale > self.max_scale:
            raise ValueError("a min_scale that is not above max_scale")
        return self


def _scaled(values: Range, by: float) -> Range:
    return values[0] * by, values[1] * by


class Augment(Section):
    flip: bool | Literal["alternate", "auto"] = Field(
        default=True,
        description="mirror half of the pictures, left to right; alternate: each in every other epoch; auto: alternate,"
        " unless a test finds that mirrored pictures mean something else, as digits do",
    )
    min_ratio: Annotated[float, Field(gt=0)] = Field(
        default=3 / 4, description="width / height of a random crop, least"
    )
    max_ratio: Annotated[float, Field(gt=0)] = Field(default=4 / 3, description="width / height of a random crop, most")
    translate: Annotated[int, Field(ge=0)] = Field(default=0, description="shift by up to this many pixels each way")
    translate_fill: Literal["zero", "reflect"] = Field(
        default="zero", description="what a shift or turn brings into view: black, or the picture's reflection"
    )
    erase: Share = Field(default=0.0, description="probability of random erasing")
    erase_scale: tuple[Share, Share] = Field(default=(0.02, 0.33), description="share of the area erased, [min, max]")
    cutout: Annotated[int, Field(ge=0)] = Field(default=0, description="side of the square cut out, in pixels; 0: off")
    mixup: Annotated[float, Field(ge=0)] = Field(default=0.0, description="alpha of mixup; 0: off")
    cutmix: Annotated[float, Field(ge=0)] = Field(default=0.0, description="alpha of cutmix; 0: off")
    brightness: Share = Field(default=0.0, description="largest change; 0.4: a factor from 0.6 to 1.4")
    contrast: Share = Field(default=0.0, description="largest change; 0.4: a factor from 0.6 to 1.4")
    rotate: Range = Field(default=(0.0, 0.0), description="degrees counter-clockwise, [min, max]")
    scale: Range = Field(default=(1.0, 1.0), description="factors, [min, max]")
    shear: Range = Field(default=(0.0, 0.0), description="degrees along the width, [min, max]")

    def at_strength(self, strength: float) -> Augment:
        """The same with this share of every magnitude and probability; flip and ratio stay."""
        if strength == 1.0:
            return self
        parts = {key: getattr(self, key) * strength for key in ("erase", "mixup", "cutmix", "brightness", "contrast")}
        whole = {key: round(getattr(self, key) * strength) for key in ("translate", "cutout")}
        turns = {key: _scaled(getattr(self, key), strength) for key in ("rotate", "shear")}
        scale = _scaled((self.scale[0] - 1, self.scale[1] - 1), strength)
        return self.model_copy(update={**parts, **whole, **turns, "scale": (1 + scale[0], 1 + scale[1])})

    @model_validator(mode="after")
    def _ranges_are_in_order(self) -> Self:
        for name in ("erase_scale", "rotate", "scale", "shear"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} needs [min, max]")
        if self.min_ratio > self.max_ratio:
            raise ValueError("min_ratio is above max_ratio")
        if self.scale[0] <= 0:
            raise ValueError("scale needs factors above 0")
        return self


class Eval(Section):
    size: Size = Field(description="side in pixels; in a file also '100%', as in phases")
    crop: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.875, description="share of the short side that the centre crop keeps"
    )
    rect: bool = Field(default=False, description="batches of like aspect ratio keep it, sides multiples of 32")
    batch: Batch = Field(default=256, description="pictures in a batch; ranks take whole batches in turn")
    every: PositiveInt = Field(default=1, description="epochs between evaluations; the last epoch always has one")
    tta: Tta = Field(
        default="none",
        description="test-time augmentation: the mean over a picture and its mirror image, or over six views; done at"
        " the end of a run, and told beside the plain numbers",
    )

    @model_validator(mode="after")
    def _rectangles_have_multiples(self) -> Self:
        if self.rect and self.size % RECT_MULTIPLE:
            raise ValueError(f"a size that is a multiple of {RECT_MULTIPLE} for rect, not {self.size}")
        return self


class Data(Section):
    rendition: Rendition = Field(
        default="auto", description="which rendition to read; auto: the smallest that suffices for the phase's size"
    )
    keep: Literal["auto", "never", "host", "device"] = Field(
        default="auto",
        description="in which memory decoded pictures are kept; auto: the device's, else the host's, where they fit and"
        " a phase sees each at least twice",
    )
    threads: Annotated[int, Field(ge=0, le=1024)] = Field(
        default=0, description="that decode train pictures on each rank; 0: its share of the processors"
    )
    prefetch: Annotated[int, Field(ge=1, le=64)] = Field(default=3, description="batches that are made ahead")
    balance: Literal["none", "weights", "sampling"] = Field(
        default="none", description="against class imbalance: weigh the loss, or draw classes evenly"
    )
    order: Literal["shuffled", "by-shards"] = Field(
        default="shuffled",
        description="of the first epoch: all samples shuffled, or the shards, and samples within two shards at a time;"
        " chosen where training starts before all shards are there",
    )
    tolerate: Share = Field(
        default=0.0001, description="share of a split's samples that may be bad; with one more the run ends"
    )
    bad: Literal["skip", "stop"] = Field(
        default="skip",
        description="a sample that cannot be read or decoded is left out of its batch, or ends the run; never replaced",
    )
    gray: bool = Field(default=True, description="train with one channel where all pictures are gray")
    mean: tuple[float, ...] | None = Field(
        default=None, description="per channel, of pixels in [0, 1]; none: the dataset's own"
    )
    std: tuple[float, ...] | None = Field(default=None, description="as mean")

    @model_validator(mode="after")
    def _balanced_samples_have_no_shards(self) -> Self:
        if self.order == "by-shards" and self.balance == "sampling":
            raise ValueError('order "shuffled", or another balance than sampling')
        return self


class Train(Section):
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        default=0, description="of the first weights, the order and every random choice about a sample"
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        default="auto", description="auto: bf16 where the device computes in it"
    )
    compile: bool | Literal["auto"] = Field(
        default="auto", description="torch.compile the model for each size before the first step; auto: where it pays"
    )
    deterministic: bool = Field(default=False, description="repeatable algorithms only, and float32 without shortcuts")
    exact: bool = Field(default=False, description="the same bits on 1, 2, 4 ... ranks: see docs/reliability.md")
    virtual_workers: PositiveInt = Field(
        default=8, description="if exact: in how many parts a batch is computed; a power of two, the most ranks"
    )
    micro_batch: Annotated[int, Field(ge=0)] = Field(
        default=0, description="most pictures in one forward pass of a rank; 0: its whole share"
    )
    ghost_batch: Annotated[int, Field(ge=0)] = Field(
        default=0, description="pictures over which batch norm takes its statistics; 0: those of a forward pass"
    )
    checkpoint: Literal["epoch", "phase"] = Field(default="epoch", description="after which of them to save")
    checkpoint_minutes: Annotated[float, Field(gt=0)] = Field(default=5.0, description="most minutes without saving")
    checkpoint_to: str = Field(
        default="", description="where each checkpoint is copied to as well: a path, or a URL of fsspec (s3://...)"
    )
    patience: Annotated[int, Field(ge=0)] = Field(
        default=0, description="stop after this many evaluations without a better top-1; 0: never"
    )
    log_every: PositiveInt = Field(default=10, description="steps between step events")
    notices: Literal["auto", "off", "aws", "gcp"] = Field(
        default="auto",
        description="the cloud that is asked whether it will take this machine back; auto: its own, where it has one",
    )
    fix: bool = Field(
        default=False,
        description="at the end of an epoch apply what the doctor has found safe: threads, prefetch, smaller parts",
    )
    hang_s: Annotated[float, Field(gt=0)] = Field(
        default=10.0, description="seconds without a sign of life, or 5 usual steps if longer, that make a rank hang"
    )

    @field_validator("virtual_workers")
    @classmethod
    def _a_power_of_two(cls, count: int) -> int:
        if count & (count - 1):
            raise ValueError(f"{count} is not a power of two")
        return count


class Budget(Section):
    seconds: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="from the start of the command to its end: so many epochs as fit; none: the phases'"
    )
    until: dict[Literal["top1", "top5"], Annotated[float, Field(gt=0, le=1)]] = Field(
        default={}, description="shares at which the run ends, e.g. {top1 = 0.93}"
    )
    price_usd_h: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="of the machines, to tell what the run cost"
    )
    cost_usd: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="the most that it may cost by that price: before it costs more it saves and ends"
    )

    def cost(self, seconds: float) -> float | None:
        """Dollars; None where the price is not known."""
        return None if self.price_usd_h is None else seconds / 3600 * self.price_usd_h

    @property
    def most_s(self) -> float:
        """Seconds that ``cost_usd`` pays for; infinite where there is no such limit."""
        return self.cost_usd / self.price_usd_h * 3600 if self.cost_usd and self.price_usd_h else math.inf

    @model_validator(mode="after")
    def _a_cost_has_a_price(self) -> Self:
        if self.cost_usd and not self.price_usd_h:
            raise ValueError("price_usd_h beside cost_usd")
        return self


class Recipe(Section):
    name: str = Field(description="what the recipe is called")
    about: str = Field(default="", description="one line for people")
    model: Model
    optim: Optim
    phases: Annotated[tuple[Phase, ...], Field(min_length=1)]
    augment: Augment = Augment()
    eval: Eval
    data: Data = Data()
    train: Train = Train()
    budget: Budget = Budget()
    claim: dict[str, Any] = Field(
        default={}, description="what was measured, with what, how often, and where the log lies"
    )

    @property
    def epochs(self) -> float:
        return sum(phase.epochs for phase in self.phases)

    @property
    def flat_phases(self) -> tuple[Phase, ...]:
        """The phases with each ramp of sizes as several of one size, and with the micro-batch that they have."""
        return tuple(
            phase.model_copy(update={"size": size, "epochs": phase.epochs / len(phase.sizes), "micro_batch": most})
            for phase, most in zip(self.phases, self.micro_batches, strict=True)
            for size in phase.sizes
        )

    @property
    def micro_batches(self) -> tuple[int, ...]:
        """Most pictures in a forward pass, by phase; 0: a rank's whole share."""
        shared = (self.train.micro_batch if phase.micro_batch is None else phase.micro_batch for phase in self.phases)
        return tuple(self.train.ghost_batch or most for most in shared)

    def eval_in(self, phase: Phase) -> Eval:
        """How it is evaluated while this phase lasts."""
        own = {"size": phase.eval_size, "rect": phase.eval_rect}
        return self.eval.model_copy(update={key: value for key, value in own.items() if value is not None})

    @property
    def final_eval(self) -> Eval:
        """How the last phase is evaluated: what a run's scores are told for, and how its weights are used."""
        return self.eval_in(self.phases[-1])

    @model_validator(mode="after")
    def _rectangles_have_multiples(self) -> Self:
        for number, phase in enumerate(self.phases):
            settings = self.eval_in(phase)
            if settings.rect and settings.size % RECT_MULTIPLE:
                raise ValueError(
                    f"phases[{number}] evaluated at a multiple of {RECT_MULTIPLE} for rect, not {settings.size}"
                )
        return self

    @model_validator(mode="after")
    def _points_end_with_the_phases(self) -> Self:
        if self.optim.ema_from >= self.epochs:
            raise ValueError(f"optim.ema_from is {self.optim.ema_from:g} but the phases end at {self.epochs:g}")
        for key, points in self.optim.points.items():
            end = points[-1][0]
            if self.optim.curve != "step" and abs(end - self.epochs) > 1e-6 * self.epochs:
                raise ValueError(f"optim.{key} ends at epoch {end:g} but the phases end at {self.epochs:g}")
        return self


def bundled() -> dict[str, str]:
    """The recipes that come with the program: name -> TOML text."""
    files = resources.files("eighteen.recipes").iterdir()
    texts = {file.name.removesuffix(".toml"): file.read_text("utf-8") for file in files if file.name.endswith(".toml")}
    return {name: texts[name] for name in sorted(texts, key=_counting)}


def _counting(name: str) -> list[str | int]:
    """For sorting: x-2 before x-16."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def text(name: str) -> str:
    """The TOML of a bundled recipe or a file; RecipeError if there is none."""
    texts = bundled()
    if name in texts:
        return texts[name]
    path = Path(name)
    if path.suffix != ".toml" and not path.is_file():
        got, need = repr(name), "a bundled recipe or a .toml file"
        raise RecipeError("find the recipe", got=got, need=need, hint=f"--recipe: {did_you_mean(name, texts)}")
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        hint = "eighteen recipes small > mine.toml, then change it"
        got = (isinstance(error, OSError) and error.strerror) or str(error)
        raise RecipeError(f"read the recipe {name}", got=got, need="a TOML file", hint=hint) from None


def load(
    recipe: str | Recipe,
    *,
    model: str | Model | None = None,
    init: str | None = None,
    freeze_to: str | None = None,
    epochs: float | None = None,
    batch: int | None = None,
    changes: Sequence[str] = (),
    side: int | None = None,
) -> Recipe:
    """A bundled recipe, a TOML file or a Recipe, with what the command line changes: the only way one comes into a run.

    model, init, freeze_to replace those of ``[model]``; a model of another name has no args, unless it brings them
    epochs stretches all phases and learning-rate points in proportion
    batch is the first phase's; the others keep their ratio to it
    changes are ``a.b=value`` with values as TOML writes them; side is what a size of "100%" becomes, in pixels
    Raises RecipeError for whatever does not fit.
    """
    tree = _read(recipe) if isinstance(recipe, str) else recipe.model_dump(mode="json", exclude_none=True)
    section = tree.setdefault("model", {})
    if isinstance(model, Model):
        section.update(name=model.name, args=dict(model.args))
    elif model is not None and model != section.get("name"):
        section.update(name=model, args={})
    section.update({key: value for key, value in (("init", init), ("freeze_to", freeze_to)) if value is not None})
    for change in changes:
        _set(tree, change)
    changed = parse(_with_side(tree, side))
    if batch is not None:
        if batch < 1:
            raise RecipeError("--batch", got=str(batch), need="at least 1", hint="--batch 64")
        changed = parse(_with_batch(changed, batch))
    return changed if epochs is None else stretched(changed, epochs)


def evaluated(recipe: Recipe, **changes: Any) -> Eval:
    """The recipe's final evaluation with those keys changed that are not None; RecipeError if one is not valid."""
    tree, settings = recipe.model_dump(mode="json", exclude_none=True), recipe.final_eval.model_dump()
    tree["eval"] = settings | {key: value for key, value in changes.items() if value is not None}
    tree["phases"] = [{key: value for key, value in row.items() if "eval" not in key} for row in tree["phases"]]
    try:
        return parse(tree).eval
    except RecipeError as error:
        hint = "eighteen eval --help shows what can be changed"
        raise RecipeError(error.tried, got=error.got, need=error.need, hint=hint) from None


def parse(tree: dict[str, Any]) -> Recipe:
    """A tree as tomllib gives it -> Recipe; RecipeError names the first key that does not fit, and what would."""
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise _explain(error) from None


def dump(recipe: Recipe) -> str:
    """The whole recipe as TOML, every default written out: ``parse(tomllib.loads(dump(r))) == r``."""
    return tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True))


def stretched(recipe: Recipe, epochs: float) -> Recipe:
    """The recipe over another number of epochs: all phases and points in proportion."""
    if not epochs > 0:
        raise RecipeError("--epochs", got=f"{epochs:g}", need="a number above 0", hint="--epochs 18")
    tree, factor = recipe.model_dump(mode="json"), epochs / recipe.epochs
    for phase in tree["phases"]:
        phase["epochs"] *= factor
    if isinstance(recipe.optim.lr, Drops):
        tree["optim"]["lr"]["every"] *= factor
    for key, points in recipe.optim.points.items():
        tree["optim"][key] = [[epoch * factor, value] for epoch, value in points]
    tree["optim"]["ema_from"] *= factor
    return parse(tree)


def _read(name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text(name))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        hint = "eighteen recipes small > mine.toml, then change it"
        raise RecipeError(f"read the recipe {name}", got=str(error), need="TOML", hint=hint) from None


def _set(tree: dict[str, Any], change: str) -> None:
    """Apply one ``a.b.0.c=value``; a value that is no TOML is taken as a string."""
    key, equals, text = change.partition("=")
    if not equals or not key:
        raise RecipeError(f"--set {change}", got="no key=value", need="a.b=value", hint="--set phases.1.size=192")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *path, last = [int(part) if part.isdigit() else part for part in key.split(".")]
    node: Any = tree
    for part in path:
        if isinstance(node, dict) and isinstance(part, str):
            node = node.setdefault(part, {})
        else:
            node = _row(node, part, change)
    if isinstance(node, dict):
        node[str(last)] = value
    else:
        _row(node, last, change)
        node[last] = value


def _row(node: Any, part: int | str, change: str) -> Any:
    if isinstance(node, list) and isinstance(part, int) and part < len(node):
        return node[part]
    valid = f"a row from 0 to {len(node) - 1}" if isinstance(node, list) else f"a value, not a table, at {part!r}"
    raise RecipeError(f"--set {change}", got=repr(part), need=valid, hint="eighteen recipes NAME shows the keys")


def _with_side(tree: dict[str, Any], side: int | None) -> dict[str, Any]:
    """Sizes in percent become pixels; without a side to take them of, they stay and are refused."""
    phases = tree.get("phases")
    for section in [*(phases if isinstance(phases, list) else []), tree.get("eval")]:
        size = section.get("size") if isinstance(section, dict) else None
        if side and isinstance(size, str) and re.fullmatch(r"\d+%", size):
            section["size"] = round(side * int(size[:-1]) / 100)
    return tree


def _with_batch(recipe: Recipe, batch: int) -> dict[str, Any]:
    tree = recipe.model_dump(mode="json")
    first = recipe.phases[0].batch
    for phase in tree["phases"]:
        phase["batch"] = max(1, round(phase["batch"] * batch / first))
    return tree


_MEMBER = re.compile(r"Drops$|bool$|(list|tuple|literal|constrained|function)[-\[]")  # of a union


def _explain(error: ValidationError) -> RecipeError:
    """The first fault that pydantic found, in our four parts; unknown keys first, since they cause the others."""
    faults = sorted(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")
    fault = faults[0]
    # pydantic also names the member of a union, which is no key
    location = [part for part in fault["loc"] if not _MEMBER.match(str(part))]
    where = re.sub(r"\.(\d+)", r"[\1]", ".".join(str(part) for part in location)) or "recipe"
    dotted = ".".join(str(part) for part in location)
    if fault["type"] == "extra_forbidden":
        valid = _fields_at(location[:-1])
        need, hint = f"one of {', '.join(sorted(valid))}", did_you_mean(str(location[-1]), valid)
        return RecipeError(where, got="an unknown key", need=need, hint=hint)
    if fault["type"] == "missing":
        return RecipeError(where, got="nothing", need="a value", hint=f"--set {dotted}=...")
    message = fault["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    got = repr(fault["input"]) if not isinstance(fault["input"], dict) else "values that contradict each other"
    hint = f"--set {dotted}=..." if dotted else "eighteen recipes shows valid ones"
    return RecipeError(where, got=got, need=message, hint=hint)


def _fields_at(location: list[Any]) -> list[str]:
    section: type[BaseModel] = Recipe
    for part in location:
        if isinstance(part, str) and part in section.model_fields:
            annotation = section.model_fields[part].annotation
            options = [annotation, *get_args(annotation)]
            section = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), section)
    return list(section.model_fields)
