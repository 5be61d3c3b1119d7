"""Evidence about pairs: its shape, what depends on the neighbourhood, and what does not."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.fusion import HAS_BOTH, HAS_IMAGE, HAS_TITLE
from app.core.neighbourhood import TOGETHER, Members
from app.core.pairs import ALONE, CONTEXT, FEATURES, evidence
from app.core.product import Floats
from app.core.texts import TEXT_FEATURES, compare_texts, rare_overlap
from tests.evidence import BOUNDS, TWO_TOWERS, ground, members, plain_members

ABOUT_TITLES = FEATURES[FEATURES.index(TEXT_FEATURES[0]) : len(ALONE)]
NEAR = 1e-5


@st.composite
def listings(draw: st.DrawFn) -> Members:
    n = draw(st.integers(2, 7))
    flags = draw(st.lists(st.sampled_from([0, HAS_IMAGE, HAS_TITLE, HAS_BOTH]), min_size=n, max_size=n))
    return members(draw(st.integers(0, 10_000)), flags, draw(st.lists(st.booleans(), min_size=n, max_size=n)))


def some(found: Members, places: list[int]) -> Members:
    """Those at some places, the query first."""
    return Members(
        found.vectors[places], found.flags[places], [found.titles[n] for n in places], found.hashes[places],
        found.hashed[places],
    )  # fmt: skip


def titled(*titles: str | None) -> Members:
    n = len(titles)
    flags = np.array([HAS_TITLE if title else 0 for title in titles], np.uint8)
    return Members(np.zeros((n, TWO_TOWERS.dim), np.float32), flags, titles, np.zeros(n, np.uint64), np.zeros(n, np.bool_))


def column(found: Floats, name: str) -> list[float]:
    return [float(value) for value in found[:, FEATURES.index(name)]]


def alike(one: Floats, other: Floats) -> bool:
    return bool(np.allclose(one, other, atol=NEAR, rtol=NEAR, equal_nan=True))


def test_every_feature_has_one_name() -> None:
    assert len(set(FEATURES)) == len(FEATURES)
    assert set(FEATURES) == {*ALONE, *TOGETHER, "rare"}
    assert set(TEXT_FEATURES) < set(ALONE)


@given(listings(), st.integers(0, 9))
@settings(max_examples=50)
def test_one_row_for_each_candidate(found: Members, context: int) -> None:
    values = evidence(found, ground(), context)
    assert values.shape == (len(found.flags) - 1, len(FEATURES))
    assert values.dtype == np.float32
    assert not np.isinf(values).any()
    together = values[:, [FEATURES.index(name) for name in TOGETHER]]
    assert np.isnan(together).all() if context == 0 else np.isfinite(together).all()
    both = found.flags[0] & found.flags[1:]
    assert (np.isfinite(column(values, "image")) == (both & HAS_IMAGE > 0)).all()
    assert (np.isfinite(column(values, "title")) == (both & HAS_TITLE > 0)).all()
    assert (np.isfinite(column(values, "distance")) == (found.hashed[0] & found.hashed[1:])).all()
    for name in ABOUT_TITLES:
        assert (np.isfinite(column(values, name)) == (both & HAS_TITLE > 0)).all()


def test_no_candidates_no_rows() -> None:
    assert evidence(plain_members(0, 1), ground()).shape == (0, len(FEATURES))


@given(listings())
@settings(max_examples=50)
def test_two_products_alone_have_no_first_one(found: Members) -> None:
    for place in range(1, len(found.flags)):
        there = evidence(some(found, [0, place]), ground(), context=0)
        back = evidence(some(found, [place, 0]), ground(), context=0)
        assert alike(there, back)


@given(listings(), st.integers(1, 4))
@settings(max_examples=50)
def test_what_a_pair_says_alone_does_not_depend_on_others(found: Members, context: int) -> None:
    values = evidence(found, ground(), context)[:, : len(ALONE)]
    for place in range(1, len(found.flags)):
        assert alike(values[place - 1], evidence(some(found, [0, place]), ground(), context=0)[0, : len(ALONE)])


@given(st.integers(0, 1000), st.integers(1, 5))
@settings(max_examples=30)
def test_a_stranger_changes_nothing_that_a_pair_says_alone(seed: int, context: int) -> None:
    known = plain_members(seed, 6)
    far = -known.vectors[:1]  # below every bound, and last
    more = Members(
        np.concatenate([known.vectors, far]), np.append(known.flags, np.uint8(HAS_BOTH)), [*known.titles, "zzz"],
        np.append(known.hashes, ~known.hashes[0]), np.append(known.hashed, True),
    )  # fmt: skip
    before, after = evidence(known, ground(), context), evidence(more, ground(), context)
    assert column(after, "raised")[-1] < min(BOUNDS.values())
    assert alike(after[:-1, : len(ALONE)], before[:, : len(ALONE)])


@given(st.integers(0, 1000), st.permutations(range(13, 18)), st.integers(1, 5))
@settings(max_examples=30)
def test_candidates_beyond_the_context_do_not_know_of_each_other(seed: int, order: list[int], kept: int) -> None:
    unsorted = plain_members(seed, 18)
    raised = evidence(unsorted, ground(), context=0)[:, FEATURES.index("raised")]
    known = some(unsorted, [0, *(1 + np.argsort(-raised, kind="stable")).tolist()])
    whole = evidence(known, ground(), context=12)
    part = evidence(some(known, [*range(13), *order[:kept]]), ground(), context=12)
    places = ("rank", "blended_rank", "blended_margin")  # among all candidates, by their meaning
    same = [n for n, name in enumerate(FEATURES) if name not in places]
    assert alike(part[12:][:, same], whole[np.array(order[:kept]) - 1][:, same])


def test_titles_are_compared_where_both_sides_have_one() -> None:
    asked, others = "Madu hutan 500gr isi 2", ["madu hutan 1kg isi 2", None, "Madu HUTAN 500 g"]
    found = evidence(titled(asked, *others), ground())
    told = [other for other in others if other is not None]
    for name, values in compare_texts(asked, told).items():
        assert column(found, name) == pytest.approx([values[0], np.nan, values[1]], nan_ok=True)
    rare = rare_overlap(asked, told, [asked, *told])
    assert column(found, "rare") == pytest.approx([rare[0], np.nan, rare[1]], nan_ok=True)
    assert np.isnan(
        evidence(titled(None, *told), ground())[:, [FEATURES.index(name) for name in (*ABOUT_TITLES, "rare")]]
    ).all()


def test_what_titles_say_in_numbers() -> None:
    found = evidence(titled("Madu hutan 500gr isi 2", "Madu hutan 1kg isi 2", "Madu hutan 500 g"), ground())
    assert column(found, "agreements") == [1, 1]  # two pieces; 500 g
    assert column(found, "conflicts") == [1, 0]
    assert column(found, "vetoes") == [1, 0]
    assert column(found, "amounts") == [-1, 1]
    assert column(found, "counts") == [1, 0]


def test_numbers_of_the_gallery_and_of_the_pair() -> None:
    found = evidence(members(1, [HAS_BOTH, HAS_IMAGE, HAS_TITLE, 0], [True, True, False, False]), ground(gallery=1000))
    assert column(found, "log_gallery") == [3, 3, 3]
    assert column(found, "shares_photo") == [1, 0, 0]
    assert column(found, "shares_title") == [0, 1, 0]
    assert np.isnan(column(evidence(plain_members(0, 2), ground(gallery=0)), "log_gallery")).all()
    bounds = [BOUNDS["image"], BOUNDS["title"], 1.0]
    assert column(found, "over") == pytest.approx(
        [one - bound for one, bound in zip(column(found, "raised"), bounds, strict=True)]
    )


def test_many_candidates_are_no_square_matrix() -> None:
    n = 10_000
    random = np.random.default_rng(0)
    many = Members(
        random.normal(size=(1 + n, TWO_TOWERS.dim)).astype(np.float32), np.full(1 + n, HAS_BOTH, np.uint8),
        ["madu hutan", *["madu", "kopi 1kg"] * (n // 2)], random.integers(0, 2**63, 1 + n).astype(np.uint64),
        np.ones(1 + n, np.bool_),
    )  # fmt: skip
    tracemalloc.start()
    found = evidence(many, ground())
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.shape == (n, len(FEATURES))
    assert most < 40 * n * (1 + CONTEXT) * 8 < n * n * 8 / 4
