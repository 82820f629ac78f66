"""Plans against runs that others published: ImageNet on 8 to 128 GPUs, from published figures alone.

No GPU is needed and nothing is timed: what a recipe's authors say it took (its claim) is compared with what
``advice.plan`` makes of that recipe, the data sheet of those GPUs and an offer of such machines. Starting, decoding and
evaluating are not in most published times; here only what decoding does to the steps is.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import date

from record import record

from eighteen.advice import planning
from eighteen.advice.devices import devices
from eighteen.advice.offers import offers
from eighteen.advice.plan import plan, rented
from eighteen.advice.rates import PUBLISHED, Line, Rates, published
from eighteen.base import recipe as recipes

IMAGENET = 1_281_167, 50_000, 375  # train and val pictures, short side
DECODE = {128: 0.0025, 224: 0.004}  # processor seconds of a picture of ImageNet, about
RUNS = {  # recipe: offer, machines, minutes that its claim tells
    "ffcv-16": ("lambda gpu_8x_a100_80gb_sxm4 us-east-1", 1, 14.9),
    "ffcv-40": ("lambda gpu_8x_a100_80gb_sxm4 us-east-1", 1, 35.6),
    "ffcv-88": ("lambda gpu_8x_a100_80gb_sxm4 us-east-1", 1, 77.2),
    "aiacc-21": ("aws p3.16xlarge us-east-1", 1, 21.6),
    "imagenet18-2": ("aws p3.16xlarge us-east-1", 2, 54.0),
    "imagenet18-4": ("aws p3.16xlarge us-east-1", 4, 29.73),
    "imagenet18-8": ("aws p3.16xlarge us-east-1", 8, 19.07),
    "imagenet18-16": ("aws p3.16xlarge us-east-1", 16, 16.13),
}


def bare(num_weights: int) -> Rates:
    """What does not depend on GPUs: nothing but decoding."""
    nothing = {1: {224: Line(0.0, 0.0)}}
    none = {1: 0.0}
    return Rates("cpu", "", PUBLISHED, 1.0, num_weights, 0.0, nothing, nothing, {}, none, none, none, none, DECODE, {})


def main() -> None:
    known, gpus, found = {one.name: one for one in offers()}, devices(), {}
    for name, (where, count, minutes) in RUNS.items():
        recipe, offer = recipes.load(name), known[where]
        task = replace(planning.on_paper(recipe, IMAGENET[0], IMAGENET[2]), num_val=IMAGENET[1])
        work = planning.work_by_size(recipe, num_classes=planning.CLASSES, channels=3)
        rates = published(bare(25_557_032), gpus[offer.gpu], work)
        times = plan(task, rates, rented(offer, gpus[offer.gpu]), count, today=date.today()).times
        planned = (times.steps + times.waiting + times.communication + times.evaluation) / 60
        found[name] = {"planned_min": planned, "published_min": minutes, "ratio": planned / minutes}
        print(f"{name}: {planned:.1f} of {minutes:g} min ({planned / minutes:.2f})")
    record("published-runs", runs=found)


if __name__ == "__main__":
    main()
