"""Short titles: what they are cut out of, whom they name, and what is learned from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.decision import Thresholds
from app.core.fusion import HAS_TITLE
from app.evaluation.evidence import joined, moved_by
from app.evaluation.geometry import silent
from app.labelled.listings import Item
from app.training.augment.title import TitleAugmentation
from app.training.labelled_features import embed_labelled, with_short_titles
from app.training.pair_model import fit_pair_model, real
from app.training.short_titles import LEAST_LETTERS, TELLING_SHARE, VAGUE_GROUPS, VAGUE_SHARE, ShortTitle, short_titles
from tests.evidence import synthetic
from tests.fakes import FUSION, FakeEncoder

ONE = Thresholds({name: [(1, 0.0)] for name in ("fused", "image", "title")})
WORDS = ["Arla", "milk", "1l", "WH-1000XM4", "(black)", "for", "men", "|", "a", "ÖL", "500"]
LISTINGS = st.lists(
    st.tuples(st.none() | st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join), st.integers(0, 5)), max_size=40
)
SHOP = [(f"Arla standard milk {n}", n) for n in range(8)] + [
    (f"Sony WH-{n}XM4 headphones in black", 8 + n) for n in range(24)
]


def cut(listings: Sequence[tuple[str | None, int]], seed: int = 0) -> list[ShortTitle]:
    return short_titles([title for title, _ in listings], np.array([group for _, group in listings], np.int64), seed)


def cut_plainly(listings: Sequence[tuple[str | None, int]], seed: int) -> list[ShortTitle]:
    """Those that come once more are written as they were."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.training.short_titles.AGAIN", TitleAugmentation(strength=0))
        return cut(listings, seed)


def words(title: str | None) -> str:
    return " ".join(word.strip("()|") for word in (title or "").split() if word.strip("()|"))


@given(LISTINGS, st.integers(0, 3))
def test_they_stand_in_titles_of_the_group_that_they_name_or_in_those_of_several(
    listings: list[tuple[str | None, int]], seed: int
) -> None:
    found = cut(listings, seed)
    assert found == cut(listings, seed)
    groups = {group for _, group in listings}
    names = Counter(one.group for one in found)
    for one in found:
        assert len(one.text) >= LEAST_LETTERS - 1  # a slip may cost a letter
        if one.group not in groups:
            assert names[one.group] <= 2  # the same as nothing but itself
    for one in cut_plainly(listings, seed):
        holders = {group for title, group in listings if f" {one.text} " in f" {words(title)} "}
        assert holders == {one.group} if one.group in groups else len(holders) >= VAGUE_GROUPS
        assert one.text.lower() not in {title.lower() for title, _ in listings if title is not None}
    vague = sum(one.group not in groups for one in found)
    assert vague <= 2 * VAGUE_SHARE * len(listings)
    assert len(found) - vague <= 2 * TELLING_SHARE * len(listings)


def test_every_other_one_comes_once_more_with_the_same_words() -> None:
    found = cut_plainly(SHOP, 0)
    texts = Counter((one.text, one.group) for one in found)
    assert len(texts) == (VAGUE_SHARE + TELLING_SHARE) * len(SHOP)
    assert list(texts.values()).count(2) == len(texts) // 2
    again = [(one.text, other.text) for one, other in pairwise(cut(SHOP)) if one.group == other.group]
    assert len(again) == len(texts) // 2
    assert any(one != other for one, other in again)


def test_a_shop_gives_as_many_as_are_wanted_of_both_kinds() -> None:
    found = cut(SHOP)
    groups = {group for _, group in SHOP}
    assert len({one.group for one in found} - groups) == VAGUE_SHARE * len(SHOP)
    assert any("XM4" in one.text for one in found if one.group in groups)
    assert {one.text for one in found} != {one.text for one in cut(SHOP, seed=1)}


def test_they_become_listings_without_a_photo_after_the_others() -> None:
    items = [Item(row, str(row), str(group), title, None) for row, (title, group) in enumerate(SHOP, 1)]
    data, _ = embed_labelled(items, FakeEncoder(), FUSION, lambda _: None)
    more = with_short_titles(data, FakeEncoder(), silent)
    assert more.made == len(cut(SHOP))
    assert more.titles[: len(SHOP)] == data.titles
    assert set(more.features.flags.tolist()) == {HAS_TITLE}
    assert len(set(more.labels.tolist()) - set(data.labels.tolist())) == VAGUE_SHARE * len(SHOP)
    found = more.candidate_pairs(ONE, lambda _: None)
    assert found.made.tolist() == [False] * len(SHOP) + [True] * more.made
    assert found.and_also(found).made.tolist() == found.made.tolist() * 2


def test_without_titles_there_are_none() -> None:
    data, _ = embed_labelled(
        [Item(1, "a", "a", None, None), Item(2, "b", "a", None, None)], FakeEncoder(), FUSION, lambda _: None
    )
    assert with_short_titles(data, FakeEncoder(), silent) is data


def test_trees_learn_from_them_and_nothing_else_is_fitted_to_them() -> None:
    table, labels = synthetic(60, seed=5)
    other, more = synthetic(60, seed=6)
    wrong = moved_by(replace(other, same=~other.same), len(labels))  # they say the opposite of what is true
    both, all_labels = joined(table, wrong), np.concatenate([labels, more + labels.max() + 1])
    made = np.repeat([False, True], [len(labels), len(more)])
    assert real(both, made).tolist() == [True] * len(table.same) + [False] * len(wrong.same)
    plain = fit_pair_model(table, labels, rounds=40)
    taught = fit_pair_model(both, all_labels, made=made, rounds=40)
    fooled = fit_pair_model(both, all_labels, rounds=40)
    assert plain.spec.calibration["context"].slope > 0.5
    assert len(taught.probability) == len(both.same)
    own = taught.probability[: len(table.same)]
    assert abs(own.mean() - table.same.mean()) < 0.02  # calibrated to pairs that are somebody's
    assert abs(fooled.probability[: len(table.same)].mean() - table.same.mean()) > 0.05
