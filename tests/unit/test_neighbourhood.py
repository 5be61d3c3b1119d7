"""Neighbourhoods against a slow and obvious oracle: one pair at a time, and vectors that are really blended."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.core.fusion import HAS_BOTH, HAS_IMAGE, HAS_TITLE, Fusion
from app.core.neighbourhood import DENSEST, HASH_ONLY, STEADY, TOGETHER, WIDER, Columns, Cosines, Members, cosines, together
from app.core.product import Embedding
from tests.evidence import BOUNDS, TWO_TOWERS, ground, members, unit_rows

Doubles = NDArray[np.float64]
TINY = 1e-6
BLOCK = ("blended_1", "blended_2", "blended_3", "blended_rank", "blended_rank_back", "blended_margin")


@st.composite
def neighbourhoods(draw: st.DrawFn, kinds: tuple[int, ...] = (0, HAS_IMAGE, HAS_TITLE, HAS_BOTH)) -> tuple[Members, int]:
    """A query with one to twelve candidates, and how many of them are its context."""
    n = draw(st.integers(2, 13))
    flags = draw(st.lists(st.sampled_from(kinds), min_size=n, max_size=n))
    hashed = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    found = members(draw(st.integers(0, 10_000)), flags, hashed, twins=draw(st.integers(0, 2)))
    return found, draw(st.integers(1, n - 1))


def rows_of(block: Cosines, rows: slice) -> Cosines:
    return Cosines(**{field.name: getattr(block, field.name)[rows] for field in fields(block)})


def both(listings: Members, context: int) -> tuple[Cosines, Cosines]:
    """The candidates against the context, and the context against itself."""
    block = cosines(listings, ground(), 1 + context)
    return rows_of(block, slice(1, None)), rows_of(block, slice(0, 1 + context))


def columns_of(listings: Members, context: int) -> Columns:
    return together(cosines(listings, ground(), 1 + context))


def pair(listings: Members, a: int, b: int) -> dict[str, float]:
    """What two listings have in common, by the definitions."""
    cut, w = TWO_TOWERS.image_dim, TWO_TOWERS.weight
    one, other = listings.vectors[a].astype(float), listings.vectors[b].astype(float)
    shared = int(listings.flags[a] & listings.flags[b])
    image = float(one[:cut] @ other[:cut]) / w if shared & HAS_IMAGE else math.nan
    title = float(one[cut:] @ other[cut:]) / (1 - w) if shared & HAS_TITLE else math.nan
    score = {HAS_BOTH: w * image + (1 - w) * title, HAS_IMAGE: image, HAS_TITLE: title, 0: 0.0}[shared]
    distance, raise_ = math.nan, 0.0
    bound = {HAS_BOTH: BOUNDS["fused"], HAS_IMAGE: BOUNDS["image"], HAS_TITLE: BOUNDS["title"], 0: 1.0}[shared]
    if listings.hashed[a] and listings.hashed[b]:
        distance = float((int(listings.hashes[a]) ^ int(listings.hashes[b])).bit_count())
        raise_ = max(0.0, 1 - distance / 20) * (0.6 if shared else 1.0)
        bound = bound if shared else 0.6
    return {"image": image, "title": title, "score": score, "distance": distance, "raise_": raise_, "bound": bound}


@given(neighbourhoods())
def test_every_cosine_is_that_of_its_pair(case: tuple[Members, int]) -> None:
    listings, context = case
    near, among = both(listings, context)
    for found, first in ((near, 1), (among, 0)):
        for a, b in np.ndindex(found.score.shape):
            for name, value in pair(listings, a + first, b).items():
                assert getattr(found, name)[a, b] == pytest.approx(value, abs=TINY, nan_ok=True), name


@given(neighbourhoods())
def test_scores_are_those_of_the_search(case: tuple[Members, int]) -> None:
    listings, context = case
    near, _ = both(listings, context)
    theirs = TWO_TOWERS.score_rows(listings.vectors[0], int(listings.flags[0]), listings.vectors[1:], listings.flags[1:])
    known = np.isfinite(theirs.score)
    assert near.score[known, 0] == pytest.approx(theirs.score[known], abs=2 * TINY)
    assert (near.score[~known, 0] == 0).all()


def oracle(listings: Members, context: int) -> dict[str, list[float]]:
    """Everything but the blending, from one pair at a time."""
    near, among = both(listings, context)
    raised, asked = near.score + near.raise_, among.score[0] + among.raise_[0]
    score = raised[:, 0]
    found: dict[str, list[float]] = {name: [] for name in TOGETHER if name not in BLOCK}
    best = sorted(score, reverse=True)[:DENSEST]
    for n in range(len(score)):
        rest = [other for other in range(1, 1 + context) if other != n + 1]  # of the context, without query and itself
        others = [score[other] for other in range(len(score)) if other != n]
        around = sorted([score[n], *(raised[n, other] for other in rest)], reverse=True)[:DENSEST]
        found["rank"].append(1 + sum(other > score[n] for other in others))
        found["rank_back"].append(1 + sum(raised[n, other] > score[n] for other in rest))
        found["margin"].append(score[n] - max(others, default=0.0))
        found["margin_back"].append(score[n] - max((raised[n, other] for other in rest), default=0.0))
        for end, values in (("", best), ("_back", around)):
            found["crowd" + end].append(float(np.mean(values)))
            found["spread" + end].append(float(np.std(values)))
            found["z" + end].append((score[n] - float(np.mean(values))) / (float(np.std(values)) + STEADY))
        for name, wider in (("shared", 0.0), ("shared_wide", WIDER)):
            mine = {other for other in range(1 + context) if asked[other] >= among.bound[0, other] - wider}
            theirs = {other for other in range(1 + context) if raised[n, other] >= near.bound[n, other] - wider}
            found[name].append(len(mine & theirs) / max(len(mine | theirs), 1))
            if not wider:
                found["neighbours"].append(len(mine))
                found["neighbours_back"].append(len(theirs))
        found["path"].append(max([min(asked[other], raised[n, other]) for other in rest], default=-1.0))
    return found


@given(neighbourhoods())
def test_the_neighbourhood_equals_its_oracle(case: tuple[Members, int]) -> None:
    found = columns_of(*case)
    assert set(found) == set(TOGETHER)
    for name, values in oracle(*case).items():
        assert found[name].tolist() == pytest.approx(values, abs=TINY), name


Blended = tuple[Doubles, Doubles]  # candidates with context, context with itself
Metric = Callable[[Doubles, Doubles], float]


def really_blended(rows: Doubles, metric: Metric, near: Cosines, among: Cosines) -> list[Blended]:
    """Blends vectors three times: each plus its neighbours times their scores, brought back to length one.

    Args:
        rows: a vector for each listing, the query first.
        metric: their inner product.
        near: of the candidates with the context.
        among: of the context with itself.
    """
    m, width = near.score.shape
    context, own, rounds = list(rows[:width]), list(rows[1:]), []
    for _ in range(3):
        new_context, new_own = [], []
        for a in range(width):
            weights = [_weight(metric(context[a], context[b]), among, a, b) for b in range(width)]
            total = context[a] + sum(w * context[b] for b, w in enumerate(weights) if b != a)
            new_context.append(total / math.sqrt(max(metric(total, total), 1e-12)))
        for a in range(m):
            weights = [_weight(metric(own[a], context[b]), near, a, b) for b in range(width)]
            total = own[a] + sum(w * context[b] for b, w in enumerate(weights) if b != a + 1)
            new_own.append(total / math.sqrt(max(metric(total, total), 1e-12)))
        context, own = new_context, new_own
        to_context = np.array([[metric(one, other) for other in context] for one in own])
        rounds.append((to_context, np.array([[metric(one, other) for other in context] for one in context])))
    return rounds


def _weight(inner: float, pairs: Cosines, a: int, b: int) -> float:
    raised = inner + float(pairs.raise_[a, b])
    return max(raised, 0.0) if raised >= pairs.bound[a, b] else 0.0


def check_blending(found: Columns, rounds: list[Blended], near: Cosines) -> None:
    raises = near.raise_
    for number, (to_context, _) in enumerate(rounds, start=1):
        assert found[f"blended_{number}"] == pytest.approx(to_context[:, 0] + raises[:, 0], abs=1e-5)
    second = rounds[1][0] + raises
    m, width = second.shape
    for n, score in enumerate(second[:, 0]):
        others = [second[other, 0] for other in range(m) if other != n]
        back = [second[n, other] for other in range(1, width) if other != n + 1]
        for name, values in (
            ("blended_rank", others),
            ("blended_rank_back", back),
        ):  # nearly equal ones may stand either way
            assert 1 + sum(v > score + 1e-5 for v in values) <= found[name][n] <= 1 + sum(v > score - 1e-5 for v in values)
        assert found["blended_margin"][n] == pytest.approx(score - max(others, default=0.0), abs=1e-5)


@given(st.sampled_from([HAS_IMAGE, HAS_TITLE, HAS_BOTH]).flatmap(lambda kind: neighbourhoods((kind,))))
def test_blending_blends_vectors(case: tuple[Members, int]) -> None:
    listings, context = case
    near, among = both(listings, context)
    rows = listings.vectors.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rounds = really_blended(rows, lambda one, other: float(one @ other), near, among)
    check_blending(columns_of(listings, context), rounds, near)


@given(neighbourhoods())
def test_blending_of_listings_that_lack_something_is_linear_all_the_same(case: tuple[Members, int]) -> None:
    listings, context = case
    near, among = both(listings, context)
    n = len(listings.flags)
    gram = np.array([[pair(listings, a, b)["score"] for b in range(n)] for a in range(n)])
    np.fill_diagonal(gram, 1.0)
    rounds = really_blended(np.eye(n), lambda one, other: float(one @ gram @ other), near, among)
    check_blending(columns_of(listings, context), rounds, near)


def test_equal_products_stand_equally() -> None:
    random = np.random.default_rng(0)
    wide = Fusion(weight=0.5, image_dim=256, title_dim=384)
    pairs = [Embedding(unit_rows(random, 1, 256), unit_rows(random, 1, 384)[0]) for _ in range(2)]
    asked, other = (wide.fuse(one)[0] for one in pairs)
    n = 54
    listings = Members(
        np.concatenate([asked, np.repeat(other, n - 1, axis=0)]), np.full(n, HAS_BOTH, np.uint8), ["a"] * n,
        np.zeros(n, np.uint64), np.zeros(n, np.bool_),
    )  # fmt: skip
    found = together(cosines(listings, ground(wide), 51))
    assert (found["rank"] == 1).all()
    assert (found["margin"] == 0).all()


@given(neighbourhoods())
@settings(max_examples=30)
def test_a_candidate_beyond_the_context_stands_the_same_wherever_it_stands(case: tuple[Members, int]) -> None:
    listings, context = case
    back = list(range(1 + context)) + list(range(len(listings.flags) - 1, context, -1))
    turned = Members(
        listings.vectors[back], listings.flags[back], [listings.titles[n] for n in back], listings.hashes[back],
        listings.hashed[back],
    )  # fmt: skip
    found, again = columns_of(listings, context), columns_of(turned, context)
    order = np.array(back[1:]) - 1
    for name in TOGETHER:
        assert again[name] == pytest.approx(found[name][order], abs=1e-5), name


def test_one_candidate_alone_has_no_rival() -> None:
    found = columns_of(members(3, [HAS_BOTH] * 2, [False] * 2), 1)
    score = pair(members(3, [HAS_BOTH] * 2, [False] * 2), 0, 1)["score"]
    assert [found[name][0] for name in ("rank", "rank_back", "blended_rank", "blended_rank_back")] == [1, 1, 1, 1]
    assert [found[name][0] for name in ("margin", "margin_back")] == pytest.approx([score, score])
    assert found["path"][0] == -1


def test_bounds_by_what_two_sides_share() -> None:
    kinds = ground().by_kind()
    assert [kinds[flag] for flag in (0, HAS_IMAGE, HAS_TITLE, HAS_BOTH, HASH_ONLY)] == [1, 0.61, 0.47, 0.53, 0.6]
