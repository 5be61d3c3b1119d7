"""Metrics on candidate lists, against definitions written as loops, and against scikit-learn."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import astuple, dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from app.core import ranking
from app.core.metrics import threshold_curve
from app.core.ranking import Lists, average_precision, curve, decided, ranked, reached, recall_at_precision, roc_auc

GRID = np.array([0, 0.25, 0.4, 0.5, 1])


@dataclass
class Case:
    """Scores of `q` queries (the first rows) against `n` rows, and how long the lists are."""

    scores: NDArray[np.float64]
    labels: list[int]
    k: int

    @property
    def queries(self) -> range:
        return range(len(self.scores))

    def others(self, query: int) -> list[int]:
        """The listed candidates, best first."""
        everyone = [other for other in range(len(self.labels)) if other != query]
        return sorted(everyone, key=lambda other: -self.scores[query, other])[: self.k]

    def same(self, query: int, other: int) -> bool:
        return self.labels[query] == self.labels[other] and other != query

    def members(self, query: int) -> int:
        return sum(self.same(query, other) for other in range(len(self.labels)))

    def lists(self) -> Lists:
        pairs = [(query, other) for query in self.queries for other in self.others(query)]
        return Lists(
            np.cumsum([0] + [len(self.others(query)) for query in self.queries]),
            np.array([other for _, other in pairs], np.int64),
            np.array([self.scores[pair] for pair in pairs], np.float64),
            np.array([self.same(*pair) for pair in pairs], np.bool_),
            np.array([(query + other) % 3 for query, other in pairs], np.uint8),
            np.array([self.members(query) for query in self.queries], np.int64),
            len(self.labels),
        )

    def pooled(self) -> tuple[list[bool], list[float]]:
        """Every pair: what is true, and its score, -1 for all that are not listed."""
        pairs = [(query, other) for query in self.queries for other in range(len(self.labels)) if other != query]
        scores = [float(self.scores[pair]) if pair[1] in self.others(pair[0]) else -1.0 for pair in pairs]
        return [self.same(*pair) for pair in pairs], scores


@st.composite
def cases(draw: st.DrawFn, most: int = 6) -> Case:
    rows = draw(st.integers(1, most))
    queries = draw(st.integers(1, rows))
    labels = draw(st.lists(st.integers(0, 2), min_size=rows, max_size=rows))
    flat = draw(st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=queries * rows, max_size=queries * rows))
    return Case(np.array(flat).reshape(queries, rows), labels, draw(st.integers(1, rows)))


def naive_f1(case: Case, taken: list[set[int]]) -> tuple[float, float, float]:
    rows = []
    for query, found in zip(case.queries, taken, strict=True):
        true = {query} | {other for other in range(len(case.labels)) if case.same(query, other)}
        right = len(true & (found | {query}))
        rows.append((2 * right / (len(true) + len(found) + 1), right / (len(found) + 1), right / len(true)))
    f1, precision, recall = np.mean(rows, axis=0).tolist()
    return f1, precision, recall


@given(cases())
def test_a_curve_is_the_metric_at_each_threshold(case: Case) -> None:
    found = curve(case.lists(), GRID)
    for n, threshold in enumerate(GRID):
        taken = [{o for o in case.others(query) if case.scores[query, o] >= threshold} for query in case.queries]
        expected = naive_f1(case, taken)
        assert [found.f1[n], found.precision[n], found.recall[n]] == pytest.approx(expected)


@given(cases())
def test_a_rule_may_depend_on_what_two_sides_share(case: Case) -> None:
    lists = case.lists()
    bounds = np.array([0.25, 0.75, np.inf])
    taken = [{o for o in case.others(query) if case.scores[query, o] >= bounds[(query + o) % 3]} for query in case.queries]
    found = decided(lists, reached(lists, bounds))
    assert [found.f1, found.precision, found.recall] == pytest.approx(naive_f1(case, taken))
    alone = [len(one) for query, one in zip(case.queries, taken, strict=True) if not case.members(query)]
    assert found.unmatchable == len(alone)
    if alone:
        assert found.unmatchable_share == pytest.approx(np.mean([count > 0 for count in alone]))
        assert found.unmatchable_mean == pytest.approx(np.mean(alone))
    else:
        assert math.isnan(found.unmatchable_share)
        assert math.isnan(found.unmatchable_mean)


def orders(case: Case, query: int) -> Iterator[list[int]]:
    """Every order of the candidates that sorts them by score."""
    ties = [list(tie) for _, tie in itertools.groupby(case.others(query), key=lambda other: case.scores[query, other])]
    for order in itertools.product(*(itertools.permutations(tie) for tie in ties)):
        yield list(itertools.chain(*order))


def naive_ranks(case: Case, query: int, order: list[int], cut: int) -> list[float]:
    hits = [case.same(query, other) for other in order]
    members = case.members(query)
    with_self = [True, *hits]

    def recall(found: list[bool], at: int, of: int) -> float:
        return sum(found[:at]) / of

    def precision_sum(found: list[bool], at: int) -> float:
        return sum(sum(found[: place + 1]) / (place + 1) for place, hit in enumerate(found[:at]) if hit)

    return [
        float(hits[0]) if hits else 0.0,
        recall(hits, cut, members),
        precision_sum(hits, cut) / min(members, cut),
        precision_sum(hits, members) / members,
        recall(with_self, cut, members + 1),
        precision_sum(with_self, cut) / min(members + 1, cut),
    ]


@settings(deadline=None)
@given(cases(), st.integers(2, 4))
def test_ranking_metrics_are_means_over_the_orders_of_equal_scores(case: Case, cut: int) -> None:
    rows = [
        np.mean([naive_ranks(case, query, order, cut) for order in orders(case, query)], axis=0)
        for query in case.queries
        if case.members(query)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "CUT", cut)
        found = astuple(ranked(case.lists()))
    if rows:
        assert found == pytest.approx(np.mean(rows, axis=0).tolist())
    else:
        assert all(math.isnan(value) for value in found)


@given(cases())
def test_pooled_metrics_are_those_of_scikit_learn(case: Case) -> None:
    lists = case.lists()
    true, scores = case.pooled()
    if not any(true):
        assert math.isnan(average_precision(lists))
        assert math.isnan(recall_at_precision(lists, 0.5))
        return
    assert average_precision(lists) == pytest.approx(average_precision_score(true, scores))
    precision, recall, _ = precision_recall_curve(true, scores)
    for wanted in (0.3, 0.5, 0.75, 1.0):
        assert recall_at_precision(lists, wanted) == pytest.approx(recall[precision >= wanted].max())


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.1, 0.2, 0.3, 0.4])), min_size=2, max_size=30))
def test_roc_auc_is_that_of_scikit_learn(pairs: list[tuple[bool, float]]) -> None:
    true, scores = np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])
    found = roc_auc(scores[true], scores[~true])
    if true.any() and not true.all():
        assert found == pytest.approx(roc_auc_score(true, scores))
    else:
        assert math.isnan(found)


def test_pairs_that_share_nothing_rank_last() -> None:
    assert roc_auc(np.array([0.1, -np.inf]), np.array([-np.inf, 0.0])) == 0.625


@given(cases(), st.data())
def test_a_smaller_gallery_is_a_part_of_the_larger(case: Case, data: st.DataObject) -> None:
    case.k = len(case.labels)
    queries = np.array(data.draw(st.lists(st.sampled_from(case.queries), unique=True)), np.int64)
    needed = {case.labels[query] for query in queries}
    allowed = np.array([label in needed or data.draw(st.booleans()) for label in case.labels])
    small = case.lists().within(queries, allowed)
    assert (len(small), small.gallery) == (len(queries), allowed.sum())
    for n, query in enumerate(queries):
        part = slice(small.starts[n], small.starts[n + 1])
        expected = [other for other in case.others(query) if allowed[other]]
        assert small.others[part].tolist() == expected
        assert small.scores[part].tolist() == [case.scores[query, other] for other in expected]
        assert small.same[part].tolist() == [case.same(query, other) for other in expected]
        assert small.true[n] == case.members(query)


@given(cases())
def test_blocks_change_nothing(case: Case) -> None:
    lists = case.lists()
    whole = curve(lists, GRID), ranked(lists)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "BLOCK_QUERIES", 2)
        parts = curve(lists, GRID), ranked(lists)
    np.testing.assert_allclose(whole[0].f1, parts[0].f1)
    assert astuple(whole[1]) == pytest.approx(astuple(parts[1]), nan_ok=True)


def test_full_lists_give_the_curve_of_all_pairs() -> None:
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(40, 6))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    labels = rng.integers(0, 15, 40)
    case = Case((vectors @ vectors.T).astype(np.float64), labels.tolist(), 40)
    ours, theirs = curve(case.lists(), GRID), threshold_curve(vectors, labels, GRID)
    for name in ("f1", "precision", "recall", "found", "clean"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name))


def test_no_query_and_no_candidate_is_no_error() -> None:
    empty = Case(np.zeros((0, 3)), [0, 0, 1], 3).lists()
    lonely = Case(np.zeros((1, 1)), [0], 1).lists()
    for lists in (empty, lonely):
        assert math.isnan(ranked(lists).map_at_r)
        assert math.isnan(average_precision(lists))
    assert curve(lonely, GRID).f1.tolist() == [1] * len(GRID)
    assert curve(empty, GRID).f1.tolist() == [0] * len(GRID)
