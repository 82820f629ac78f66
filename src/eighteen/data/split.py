"""Which split each picture goes to, where the source does not say: seeded, stratified by class, groups kept together.

A picture's place in the draw depends on the seed and its name alone, so that adding pictures moves few of the others.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from eighteen.base.errors import DataError
from eighteen.base.order import random_bits
from eighteen.data.listing import SPLITS, Item, Sources, some

_STREAM = 0x5711  # of the random numbers that draw splits


def assign(sources: Sources, *, val_share: float, test_share: float, seed: int) -> list[str]:
    """The split of each item: what the source says, or drawn here.

    val_share, test_share: of the undecided pictures of each class; a split that the source has is left alone
    raises DataError if a class has too few pictures to be split, or a group straddles splits that the source gave
    """
    given = {item.split for item in sources.items}
    shares = {
        name: share for name, share in (("val", val_share), ("test", test_share)) if share > 0 and name not in given
    }
    undecided = [
        number for number, item in enumerate(sources.items) if item.split is None or (item.split == "train" and shares)
    ]
    splits = [item.split or "train" for item in sources.items]
    if shares and undecided:
        for number, split in zip(undecided, _draw(sources, undecided, shares, seed), strict=True):
            splits[number] = split
    _check_groups(sources, splits)
    return splits


def _draw(sources: Sources, chosen: Sequence[int], shares: Mapping[str, float], seed: int) -> list[str]:
    items = [sources.items[number] for number in chosen]
    # A picture without a group is a group of its own.
    groups = [f"group {item.group}" if item.group is not None else f"picture {item.name}" for item in items]
    _check_counts(sources, items, groups, num_splits=1 + len(shares))
    if len(set(groups)) == len(groups):
        return _draw_pictures(items, groups, shares, seed)
    return _draw_groups(items, groups, shares, seed)


def _check_counts(sources: Sources, items: Sequence[Item], groups: Sequence[str], num_splits: int) -> None:
    pictures = Counter(item.label for item in items)
    apart = Counter(label for label, _ in {(item.label, group) for item, group in zip(items, groups, strict=True)})
    if few := [sources.classes[label] for label in sorted(pictures) if apart[label] < num_splits]:
        label = sources.classes.index(few[0])
        number = "one picture" if pictures[label] == 1 else f"{pictures[label]} pictures"
        of_group = (
            ""
            if apart[label] == pictures[label]
            else " in " + ("one group" if apart[label] == 1 else f"{apart[label]} groups")
        )
        more = f" (and {len(few) - 1} more such classes: {some(few[1:])})" if few[1:] else ""
        raise DataError(
            f"split {sources.place}",
            got=f"{number}{of_group} in class {few[0]!r}{more}",
            need=f"{num_splits} or more in each class, one for each split",
            hint="add pictures, leave the class out, or split the pictures into train and val folders yourself",
        )


def _draw_pictures(items: Sequence[Item], groups: Sequence[str], shares: Mapping[str, float], seed: int) -> list[str]:
    """Exact: of n pictures of a class, round(n * share) go to each split: at least one, and one stays in train."""
    keys = _keys(groups, seed)
    labels = np.array([item.label for item in items])
    splits = np.full(len(items), "train", object)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        members = members[np.argsort(keys[members], kind="stable")]
        first = 0
        for place, (name, share) in enumerate(shares.items()):
            most = len(members) - first - (len(shares) - place)  # leaves one for each split to come, train among them
            count = min(max(1, int(len(members) * share + 0.5)), most)
            splits[members[first : first + count]] = name
            first += count
    return splits.tolist()


def _draw_groups(items: Sequence[Item], groups: Sequence[str], shares: Mapping[str, float], seed: int) -> list[str]:
    """As near as whole groups allow: the largest first, each to the split that lacks most of what the group holds."""
    names = sorted(set(groups))
    numbers = {name: number for number, name in enumerate(names)}
    num_classes = 1 + max(item.label for item in items)
    held = np.zeros((len(names), num_classes))  # pictures by group and class
    np.add.at(held, ([numbers[group] for group in groups], [item.label for item in items]), 1)
    totals = held.sum(0).clip(min=1)
    wanted = {"train": 1 - sum(shares.values()), **shares}
    lacking = np.outer(list(wanted.values()), totals)  # by split and class
    chosen = np.zeros(len(names), np.int64)
    largest_first = np.lexsort((_keys(names, seed), -held.sum(1)))
    for number in largest_first:
        gains = ((lacking / lacking.clip(min=0).sum(0).clip(min=1e-9)) * held[number] / totals).sum(1)
        chosen[number] = int(gains.argmax())
        lacking[chosen[number]] -= held[number]
    _give_every_class(held, chosen, largest_first[::-1], num_splits=len(wanted))
    return [list(wanted)[chosen[numbers[group]]] for group in groups]


def _give_every_class(
    held: NDArray[np.float64], chosen: NDArray[np.int64], smallest_first: NDArray[np.int64], *, num_splits: int
) -> None:
    """Bring to each split that lacks a class its smallest group that no other split needs; train takes any."""
    for split in reversed(range(num_splits)):  # train, which is 0, last: it may take from the others what it lacks
        for label in range(held.shape[1]):
            groups = [number for number in smallest_first if held[number, label]]
            if not groups or any(chosen[number] == split for number in groups):
                continue
            spare = [number for number in groups if _is_spare(held, chosen, number)]
            if spare or split == 0:
                chosen[(spare or groups)[0]] = split


def _is_spare(held: NDArray[np.float64], chosen: NDArray[np.int64], number: int) -> bool:
    """Whether its split keeps all of a group's classes without it."""
    return bool(((held[chosen == chosen[number]] > 0).sum(0)[held[number] > 0] > 1).all())


def _keys(names: Sequence[str], seed: int) -> NDArray[np.uint64]:
    digests = b"".join(
        hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest() for name in names
    )
    return random_bits(seed, np.frombuffer(digests, "<u8"), _STREAM)


def _check_groups(sources: Sources, splits: Sequence[str]) -> None:
    where: dict[str, str] = {}
    for item, split in zip(sources.items, splits, strict=True):
        if item.group is not None and where.setdefault(item.group, split) != split:
            raise DataError(
                f"split {sources.place}",
                got=f"the group {item.group!r} in {where[item.group]} and in {split}, as the source says",
                need="each group in one split",
                hint="move its pictures together, or leave the splits to eighteen",
            )


def in_order(names: Sequence[str]) -> list[str]:
    """train, val, test: those that there are."""
    return [name for name in SPLITS if name in set(names)]
