from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from eighteen.base.errors import DataError
from eighteen.data.listing import Item, Sources
from eighteen.data.split import assign


def _sources(items: list[Item], num_classes: int = 3) -> Sources:
    return Sources("photos", Path("photos"), tuple(items), tuple("abcdefgh"[:num_classes]))


def _pictures(*counts: int, split: str | None = None) -> list[Item]:
    return [
        Item(f"{label}/{number}.jpg", label, split) for label, count in enumerate(counts) for number in range(count)
    ]


def _count(sources: Sources, splits: list[str]) -> Counter[tuple[int, str]]:
    return Counter((item.label, split) for item, split in zip(sources.items, splits, strict=True))


def test_each_class_gives_its_share_exactly() -> None:
    sources = _sources(_pictures(100, 37, 2))
    counts = _count(sources, assign(sources, val_share=0.1, test_share=0.0, seed=0))
    assert counts == {(0, "train"): 90, (0, "val"): 10, (1, "train"): 33, (1, "val"): 4, (2, "train"): 1, (2, "val"): 1}


def test_val_and_test_are_drawn_together() -> None:
    sources = _sources(_pictures(100, 40, 3))
    counts = _count(sources, assign(sources, val_share=0.1, test_share=0.2, seed=0))
    assert [counts[label, "val"] for label in range(3)] == [10, 4, 1]
    assert [counts[label, "test"] for label in range(3)] == [20, 8, 1]


def test_the_draw_depends_on_the_seed_alone() -> None:
    sources = _sources(_pictures(50, 50, 50))
    draws = [assign(sources, val_share=0.2, test_share=0.0, seed=seed) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_adding_pictures_moves_few_of_the_others() -> None:
    before, after = _sources(_pictures(1000), 1), _sources(_pictures(1100), 1)
    old = assign(before, val_share=0.1, test_share=0.0, seed=0)
    new = assign(after, val_share=0.1, test_share=0.0, seed=0)
    assert sum(a != b for a, b in zip(old, new[:1000], strict=True)) < 30


def test_splits_of_the_source_are_kept_and_only_missing_ones_drawn() -> None:
    sources = _sources(_pictures(10, 10, split="train") + _pictures(3, 3, split="val"), 2)
    assert assign(sources, val_share=0.5, test_share=0.0, seed=0) == ["train"] * 20 + ["val"] * 6
    sources = _sources(_pictures(10, 10, split="train") + _pictures(3, 3, split="test"), 2)
    assert Counter(assign(sources, val_share=0.2, test_share=0.2, seed=0)) == {"train": 16, "val": 4, "test": 6}


def test_no_val_share_leaves_all_in_train() -> None:
    assert set(assign(_sources(_pictures(1, 5, 5)), val_share=0, test_share=0, seed=0)) == {"train"}


def test_a_class_with_one_picture_cannot_be_split() -> None:
    with pytest.raises(DataError, match=r"got one picture in class 'b'.*need 2 or more in each class") as caught:
        assign(_sources(_pictures(5, 1, 5)), val_share=0.1, test_share=0, seed=0)
    assert "Try: add pictures, leave the class out" in str(caught.value)


def test_two_pictures_do_not_make_three_splits() -> None:
    with pytest.raises(DataError, match=r"got 2 pictures in class 'b' \(and 1 more such classes: 'c'\)"):
        assign(_sources(_pictures(5, 2, 1)), val_share=0.1, test_share=0.1, seed=0)


def test_groups_never_straddle_and_the_shares_are_near() -> None:
    items = [
        Item(f"{label}/{g}_{i}", label, None, f"{label}-{g}")
        for label in range(3)
        for g in range(40)
        for i in range(1 + g % 5)
    ]
    sources = _sources(items)
    splits = assign(sources, val_share=0.2, test_share=0.1, seed=3)
    where: dict[str | None, set[str]] = {}
    for item, split in zip(items, splits, strict=True):
        where.setdefault(item.group, set()).add(split)
    assert {len(one) for one in where.values()} == {1}
    counts = _count(sources, splits)
    assert all(22 <= counts[label, "val"] <= 26 and 10 <= counts[label, "test"] <= 14 for label in range(3))  # of 120


def test_groups_of_several_classes_leave_every_class_in_train() -> None:
    items = [
        Item(f"{label}/{g}_{i}", label, None, f"patient{g}")
        for label in range(3)
        for g in range(4)
        for i in range(label + 1)
    ]
    splits = assign(_sources(items), val_share=0.4, test_share=0, seed=0)
    assert {item.label for item, split in zip(items, splits, strict=True) if split == "train"} == {0, 1, 2}
    assert "val" in splits


def test_few_large_groups_leave_every_class_in_every_split() -> None:
    items = [
        Item(f"{label}/{g}_{i}", label, None, f"{label}-{g}") for label in range(3) for g in range(4) for i in range(3)
    ]
    sources = _sources(items)
    counts = _count(sources, assign(sources, val_share=0.1, test_share=0.1, seed=0))
    assert all(counts[label, split] == n for label in range(3) for split, n in (("train", 6), ("val", 3), ("test", 3)))


def test_a_class_in_one_group_cannot_be_split() -> None:
    items = [Item(f"{label}/{i}", label, None, "same" if label else str(i)) for label in range(2) for i in range(5)]
    with pytest.raises(DataError, match=r"got 5 pictures in one group in class 'b'"):
        assign(_sources(items, 2), val_share=0.2, test_share=0, seed=0)


def test_a_group_that_straddles_given_splits_is_refused() -> None:
    items = [Item("1", 0, "train", "p"), Item("2", 0, "val", "p"), Item("3", 1, "train", "q")]
    with pytest.raises(DataError, match=r"the group 'p' in train and in val"):
        assign(_sources(items, 2), val_share=0.1, test_share=0, seed=0)
