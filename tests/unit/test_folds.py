from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidInput
from app.labelled.folds import component_of, components, connected, fold_of, parse_fold
from app.labelled.listings import Item, read_labelled

KEY = st.one_of(st.none(), st.integers(0, 6))
ROWS = st.lists(st.tuples(KEY, KEY, KEY, KEY), max_size=25)


def item(row: int, group: object, phash: int | None = None, digest: object = None, family: object = None) -> Item:
    def text(value: object) -> str | None:
        return None if value is None else str(value)

    return Item(row, f"id{row}", text(group), f"title {row}", None, phash, text(digest), text(family))


def items_of(rows: Sequence[tuple[int | None, int | None, int | None, int | None]]) -> list[Item]:
    return [item(n, *row) for n, row in enumerate(rows)]


# -- components -----------------------------------------------------------------------------------------------


def test_rows_are_joined_through_any_key_and_over_others() -> None:
    groups = ["a", "b", "b", "c", None, None]
    photos = [1, 1, 2, None, 2, None]
    labels = components(groups, photos)
    assert len(set(labels[[0, 1, 2, 4]].tolist())) == 1
    assert len(set(labels.tolist())) == 3


def test_keys_of_different_kinds_are_not_the_same() -> None:
    assert sorted(components(["x", None], [None, "x"]).tolist()) == [0, 1]


def test_nothing_has_no_components() -> None:
    assert components().tolist() == components([]).tolist() == connected(0, [], []).tolist() == []


@given(st.lists(st.tuples(st.integers(0, 14), st.integers(0, 14)), max_size=20))
def test_components_are_what_can_be_reached(edges: list[tuple[int, int]]) -> None:
    near = np.eye(15, dtype=np.int64)
    for a, b in edges:
        near[a, b] = near[b, a] = 1
    reached = np.linalg.matrix_power(near, 14) > 0
    labels = connected(15, [a for a, _ in edges], [b for _, b in edges])
    assert ((labels[:, None] == labels[None]) == reached).all()


# -- folds ----------------------------------------------------------------------------------------------------


@given(ROWS, st.integers(1, 6))
def test_a_fold_never_splits_what_belongs_together(
    rows: list[tuple[int | None, int | None, int | None, int | None]], folds: int
) -> None:
    found = fold_of(items_of(rows), folds)
    assert found.shape == (len(rows),)
    assert all(0 <= fold < folds for fold in found)
    for one, fold in zip(rows, found, strict=True):
        for other, other_fold in zip(rows, found, strict=True):
            if any(a is not None and a == b for a, b in zip(one, other, strict=True)):
                assert fold == other_fold


@given(ROWS, st.randoms(use_true_random=False))
def test_folds_do_not_depend_on_the_order_of_the_rows(
    rows: list[tuple[int | None, int | None, int | None, int | None]], random: np.random.RandomState
) -> None:
    items = items_of(rows)
    order = list(range(len(items)))
    random.shuffle(order)
    assert fold_of([items[n] for n in order], 5).tolist() == fold_of(items, 5)[order].tolist()


def test_folds_are_the_same_on_every_machine() -> None:
    items = [item(n, f"g{n}") for n in range(8)] + [item(8, None), item(9, None, phash=3), item(10, "g0", phash=3)]
    assert fold_of(items, 5).tolist() == [1, 3, 2, 3, 1, 1, 4, 0, 4, 1, 1]


def test_the_fold_of_a_component_is_that_of_its_smallest_group() -> None:
    alone = {name: fold_of([item(0, name)], 1000)[0] for name in "ab"}
    assert alone["a"] != alone["b"]
    joined = fold_of([item(0, "b", phash=1), item(1, "a", phash=1), item(2, None, phash=1)], 1000)
    assert joined.tolist() == [alone["a"]] * 3


def test_folds_are_about_equal() -> None:
    sizes = np.bincount(fold_of([item(n, n) for n in range(5000)], 5), minlength=5)
    assert sizes.min() > 850  # 1000 with a standard deviation of 28


def test_listings_without_a_group_are_dealt_too() -> None:
    items = [item(n, None) for n in range(200)]
    assert len(set(component_of(items).tolist())) == 200
    assert set(fold_of(items, 5).tolist()) == {0, 1, 2, 3, 4}


def test_a_group_of_broken_unicode_has_a_fold(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"title": "x", "group": "\\ud800"}\n')
    assert fold_of(read_labelled(tmp_path / "t.jsonl", strict=False).items, 2).shape == (1,)


def test_there_is_at_least_one_fold() -> None:
    with pytest.raises(InvalidInput, match="at least one fold, not 0"):
        fold_of([], 0)


@pytest.mark.parametrize(("text", "expected"), [("0/5", (0, 5)), ("4/5", (4, 5)), (" 1/2 ", (1, 2)), ("11/12", (11, 12))])
def test_a_fold_is_parsed(text: str, expected: tuple[int, int]) -> None:
    assert parse_fold(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "5", "5/5", "6/5", "0/1", "0/0", "-1/5", "1/-5", "a/b", "1.0/5", "1/5/6", "٠/٥", "/", "0/", "9" * 5000 + "/9"],
)
def test_nonsense_is_no_fold(text: str) -> None:
    with pytest.raises(InvalidInput, match="write 0/5 for the first of five"):
        parse_fold(text)
