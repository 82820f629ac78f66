"""Which validation pictures are also in the train split, or nearly: the same photo once more, cut or compressed anew.

Thumbnails are compared by how they correlate, as all of them with all: such pairs make a test easier than it seems
(Barz and Denzler 2020, arXiv 1902.00423, found 3.3 % of CIFAR-10's test pictures in its train split).
"""

from __future__ import annotations

import time
from typing import NamedTuple

import torch
from torch import Tensor

from eighteen.base.recipe import Eval
from eighteen.base.world import World
from eighteen.data.dataset import Dataset, Split
from eighteen.data.loader import eval_batches
from eighteen.data.tolerance import Bad

SIDE = 16  # of a thumbnail, in pixels
ALIKE = 0.985  # correlation: of pairs that a person takes for the same photo; see docs/doctor/leakage.md
FLAT = 8.0  # of 255: pictures whose pixels deviate by less are all alike
LIMIT_S = 20.0  # of decoding thumbnails
ROWS = 1024  # compared at a time
CPU = torch.device("cpu")


class Likeness(NamedTuple):
    """alike: (validation picture, train picture), as their sources name them      copies: of these, byte for byte
    looked_at: validation pictures that were compared, with as many train pictures as there was time for
    """

    copies: int
    alike: list[tuple[str, str]]
    looked_at: int


def between(data: Dataset, *, limit_s: float = LIMIT_S) -> Likeness:
    """The validation split and the train split of a dataset; nothing where there is no validation split."""
    if "val" not in data.splits:
        return Likeness(0, [], 0)
    train, val = data.splits["train"], data.splits["val"]
    (theirs, their_ids), (ours, our_ids) = (_thumbnails(split, data, limit_s / 2) for split in (val, train))
    pairs = [
        (int(their_ids[row]), int(our_ids[place]))
        for first in range(0, len(theirs), ROWS)
        for row, place in _pairs(theirs[first : first + ROWS], ours, first)
    ]
    sums = {split.name: split.renditions["full"].index["crc32c"] for split in (train, val)}
    copies = sum(int(sums["val"][one] == sums["train"][other]) for one, other in pairs)
    return Likeness(copies, [(_named(val, one), _named(train, other)) for one, other in pairs], len(theirs))


def _pairs(theirs: Tensor, ours: Tensor, first: int) -> list[tuple[int, int]]:
    """Rows of theirs, counted from ``first``, with the row of ours that is most like each, if it is like enough."""
    best, places = (theirs @ ours.T).max(1) if len(ours) else (theirs.new_zeros(len(theirs)), torch.zeros(len(theirs)))
    return [(first + row, int(places[row])) for row in (best >= ALIKE).nonzero()[:, 0].tolist()]


def _thumbnails(split: Split, data: Dataset, limit_s: float) -> tuple[Tensor, Tensor]:
    """[n, 3 * SIDE * SIDE] of mean 0 and length 1, and which samples they are: as many as there is time for."""
    rows, ids, ends = list[Tensor](), list[Tensor](), time.monotonic() + limit_s
    settings = Eval(size=SIDE, crop=1.0, batch=256)
    for batch in eval_batches(split, settings, World(), device=CPU, channels=data.channels, on_bad=_left_out):
        pixels = batch.images.float().flatten(1)
        pixels -= pixels.mean(1, keepdim=True)
        is_flat = pixels.std(1) < FLAT
        rows.append(torch.nn.functional.normalize(pixels, dim=1)[~is_flat])
        ids.append(batch.ids[~is_flat])
        if time.monotonic() > ends:
            break
    if not rows:
        return torch.zeros(0, data.channels * SIDE * SIDE), torch.zeros(0, dtype=torch.int64)
    return torch.cat(rows), torch.cat(ids)


def _left_out(bad: Bad) -> None:
    """Bad samples are told of by the training, and compared with nothing."""


def _named(split: Split, sample: int) -> str:
    return split.renditions["full"].origin(sample) or f"{split.name} {sample}"
