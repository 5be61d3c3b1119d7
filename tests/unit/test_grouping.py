"""Groups from judged pairs, against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.group_metrics import group_metrics
from app.core.grouping import Edges, average_linkage, edges_of, with_one_more

PAIRS = list(itertools.combinations(range(6), 2))


def made(pairs: dict[tuple[int, int], float]) -> Edges:
    ends = np.array(sorted(pairs), np.int64).reshape(-1, 2)
    values = np.array([pairs[a, b] for a, b in sorted(pairs)])
    return Edges(ends[:, 0], ends[:, 1], values, np.ones(len(values), np.bool_))


def brute_force(pairs: dict[tuple[int, int], float], n: int, bound: float, cap: int) -> list[int]:
    groups = [[row] for row in range(n)]
    while True:
        best: tuple[float, int, int] | None = None
        for (i, a), (j, b) in itertools.combinations(enumerate(groups), 2):
            if len(a) + len(b) > cap:
                continue
            values = [pairs.get((min(x, y), max(x, y)), 0.0) for x in a for y in b]
            key = (-sum(values) / len(values), min(a), min(b))
            if -key[0] >= bound and (best is None or key < (best[0], min(groups[best[1]]), min(groups[best[2]]))):
                best = (key[0], i, j)
        if best is None:
            labels = [0] * n
            for group in groups:
                for row in group:
                    labels[row] = min(group)
            return labels
        _, i, j = best
        groups[i] = sorted(groups[i] + groups[j])
        del groups[j]
        groups.sort()


some_pairs = st.dictionaries(st.sampled_from(PAIRS), st.sampled_from([0.1, 0.25, 0.5, 0.75, 1.0]))


@given(some_pairs, st.sampled_from([0.2, 0.4, 0.6]), st.integers(1, 6))
def test_average_linkage_equals_brute_force(pairs: dict[tuple[int, int], float], bound: float, cap: int) -> None:
    assert average_linkage(made(pairs), 6, bound, cap).tolist() == brute_force(pairs, 6, bound, cap)


def test_a_chain_of_doubtful_pairs_does_not_join_its_ends() -> None:
    chain = made({(0, 1): 0.9, (1, 2): 0.6, (2, 3): 0.9})
    assert average_linkage(chain, 4, 0.5).tolist() == [0, 0, 2, 2]


def test_nothing_is_joined_without_pairs() -> None:
    assert average_linkage(made({}), 3, 0.5).tolist() == [0, 1, 2]
    assert average_linkage(made({}), 0, 0.5).tolist() == []


def test_both_directions_of_a_pair_are_one_edge() -> None:
    edges = edges_of(np.array([0, 1, 2]), np.array([1, 0, 0]), np.array([0.4, 0.8, 0.9]))
    assert (edges.left.tolist(), edges.right.tolist()) == ([0, 0], [1, 2])
    assert edges.probability == pytest.approx([0.6, 0.9])
    assert edges.mutual.tolist() == [True, False]
    assert len(edges.kept(edges.mutual)) == 1
    assert len(edges_of(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))) == 0


def test_only_listings_without_a_match_get_one_more() -> None:
    rows, others = np.array([0, 0, 1, 1, 2]), np.array([1, 2, 0, 2, 0])
    probability = np.array([0.9, 0.2, 0.3, 0.3, 0.1])
    taken = probability > 0.5
    assert with_one_more(rows, others, probability, taken, 4).tolist() == [True, False, True, False, True]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=12))
def test_group_metrics_equal_brute_force(labels: list[tuple[int, int]]) -> None:
    found, true = np.array(labels).T
    n = len(labels)
    together = [{j for j in range(n) if found[j] == found[i]} for i in range(n)]
    truth = [{j for j in range(n) if true[j] == true[i]} for i in range(n)]
    precision = np.mean([len(p & t) / len(p) for p, t in zip(together, truth, strict=True)])
    recall = np.mean([len(p & t) / len(t) for p, t in zip(together, truth, strict=True)])
    f1 = np.mean([2 * len(p & t) / (len(p) + len(t)) for p, t in zip(together, truth, strict=True)])
    predicted = [(i, j) for i, j in itertools.combinations(range(n), 2) if found[i] == found[j]]
    wanted = [(i, j) for i, j in itertools.combinations(range(n), 2) if true[i] == true[j]]
    right = len(set(predicted) & set(wanted))
    got = group_metrics(found, true)
    assert got.bcubed_precision == pytest.approx(precision)
    assert got.bcubed_recall == pytest.approx(recall)
    assert got.competition_f1 == pytest.approx(f1)
    assert got.pair_precision == pytest.approx(right / len(predicted) if predicted else 1)
    assert got.pair_recall == pytest.approx(right / len(wanted) if wanted else 1)
    assert got.bcubed_f1 == pytest.approx(2 * precision * recall / (precision + recall))
