"""Groups of listings: what each step does, with a judge whose opinions are known, and without one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.core.decision import Thresholds
from app.core.fusion import HAS_BOTH
from app.core.pairs import CONTEXT, FEATURES
from app.core.product import Floats
from app.evaluation.evidence import candidate_pairs
from app.evaluation.features import Features
from app.evaluation.groups import Grouped, Steps, group_listings
from tests.evidence import BOUNDS, TWO_TOWERS, clusters, small_model, taken_from

THRESHOLDS = Thresholds({modality: [(1, bound)] for modality, bound in BOUNDS.items()})
Opinions = Mapping[tuple[int, int], float]


class Says:
    """A judge with an opinion about each pair of listings, `(row, other)`; 0 about those it does not know."""

    def __init__(self, features: Features, opinions: Opinions) -> None:
        table = candidate_pairs(features, [None] * len(features), np.full(len(features), -1), THRESHOLDS)
        pairs = zip(table.rows.tolist(), table.others.tolist(), strict=True)
        self.opinion = np.array([opinions.get(pair, 0.0) for pair in pairs])

    def probability(self, evidence: Floats) -> NDArray[np.float64]:
        assert evidence.shape == (len(self.opinion), len(FEATURES))
        return self.opinion


def all_near(n: int) -> Features:
    """Listings of which each is a candidate of every other."""
    return clusters(1, n, seed=0)[0]


def both_ways(opinions: Opinions) -> Opinions:
    return {pair: value for (a, b), value in opinions.items() for pair in ((a, b), (b, a))}


def grouped(n: int, opinions: Opinions, bound: float = 0.5, steps: Steps | None = None) -> Grouped:
    features = all_near(n)
    return group_listings(features, [None] * n, THRESHOLDS, Says(features, opinions), bound, steps)


def matches(found: Grouped) -> list[list[int]]:
    return [one.tolist() for one in found.matches()]


def test_pairs_that_are_likely_stand_in_one_group() -> None:
    found = grouped(5, both_ways({(0, 2): 0.9, (1, 4): 0.8, (2, 3): 0.3}))
    assert found.labels.tolist() == [0, 1, 0, 3, 1]
    assert matches(found) == [[0, 2], [1, 4], [2, 0], [3], [4, 1]]
    assert found.taken.sum() == 4


def test_the_bound_is_inclusive() -> None:
    opinions = both_ways({(0, 1): 0.5})
    assert grouped(2, opinions, 0.5).labels.tolist() == [0, 0]
    assert grouped(2, opinions, 0.5001).labels.tolist() == [0, 1]


def test_both_sides_have_a_say() -> None:
    found = grouped(2, {(0, 1): 0.9, (1, 0): 0.2})
    assert found.probability.tolist() == pytest.approx([0.55, 0.55])
    assert found.labels.tolist() == [0, 0]
    assert grouped(2, {(0, 1): 0.9, (1, 0): 0.0}).labels.tolist() == [0, 1]


def test_grouping_judges_a_pair_by_its_neighbours() -> None:
    chain = both_ways({(0, 1): 0.9, (1, 2): 0.6})
    assert grouped(3, chain).labels.tolist() == [0, 0, 2]
    found = grouped(3, chain, steps=Steps(grouping=False))
    assert found.labels.tolist() == [0, 1, 2]
    assert matches(found) == [[0, 1], [1, 0, 2], [2, 1]]
    triangle = both_ways({(0, 1): 0.9, (1, 2): 0.8, (0, 2): 0.3})
    assert matches(grouped(3, triangle)) == [[0, 1, 2], [1, 0, 2], [2, 1, 0]]  # the doubtful pair stands in the group too


def test_groups_end_at_the_cap() -> None:
    everyone = {(a, b): 0.9 for a in range(6) for b in range(6)}
    sizes = np.bincount(grouped(6, everyone, steps=Steps(cap=4)).labels)
    assert sizes.max() <= 4
    assert grouped(6, everyone).labels.tolist() == [0] * 6
    assert grouped(6, everyone, steps=Steps(cap=1)).labels.tolist() == list(range(6))


def crowd_and_one() -> tuple[Features, Opinions]:
    """More twins than anybody has candidates, and a listing that has them as candidates without being one of theirs."""
    n = CONTEXT + 2
    near = np.zeros((n + 1, TWO_TOWERS.dim), np.float32)
    near[:, 0], near[:, TWO_TOWERS.image_dim] = np.sqrt(TWO_TOWERS.weight), np.sqrt(1 - TWO_TOWERS.weight)
    turned = 0.8
    near[n, [0, 1]] = np.sqrt(TWO_TOWERS.weight) * np.array([np.cos(turned), np.sin(turned)])
    features = Features(
        TWO_TOWERS, near, np.full(n + 1, HAS_BOTH, np.uint8), np.zeros(n + 1, np.uint64), np.zeros(n + 1, np.bool_)
    )
    return features, {(n, twin): 0.9 for twin in range(n)}


@pytest.mark.parametrize("grouping", [True, False])
def test_mutual_pairs_are_candidates_on_both_sides(grouping: bool) -> None:
    features, opinions = crowd_and_one()
    last = len(features) - 1

    def last_matches(mutual: bool) -> int:
        steps = Steps(mutual=mutual, grouping=grouping)
        judge = Says(features, opinions)
        return group_listings(features, [None] * len(features), THRESHOLDS, judge, 0.5, steps).matches()[last].size - 1

    assert last_matches(mutual=True) == 0
    assert last_matches(mutual=False) == (1 if grouping else CONTEXT)  # in a group, the twins would have to be alike too


def test_at_least_two_gives_the_lonely_their_best() -> None:
    opinions = both_ways({(0, 1): 0.9, (1, 2): 0.3, (0, 2): 0.2, (2, 3): 0.1})
    assert matches(grouped(4, opinions)) == [[0, 1], [1, 0], [2], [3]]
    assert matches(grouped(4, opinions, steps=Steps(at_least_two=True))) == [[0, 1], [1, 0], [2, 1], [3, 2]]


def test_a_listing_without_candidates_stays_alone_whatever_is_asked() -> None:
    far = clusters(2, 1, seed=1)[0]
    far.vectors[1] = -far.vectors[0]
    far.hashes[1] = ~far.hashes[0]
    found = group_listings(far, [None] * 2, THRESHOLDS, Says(far, {}), 0.5, Steps(at_least_two=True))
    assert matches(found) == [[0], [1]]


def by_pairs(rule: Callable[[int, int], bool], n: int) -> list[list[int]]:
    return [[a, *(b for b in range(n) if b != a and rule(a, b))] for a in range(n)]


def test_without_a_judge_scores_decide() -> None:
    features, titles, _ = clusters(groups=8, each=3, seed=2, noise=0.35)
    n, steps = len(features), Steps(blending=False, mutual=False, grouping=False)
    found = group_listings(features, titles, THRESHOLDS, None, 0.99, steps)
    scores = np.array([features.score(row, np.arange(n))[0] for row in range(n)])
    assert [sorted(one) for one in matches(found)] == [
        sorted(one) for one in by_pairs(lambda a, b: bool(scores[a, b] >= BOUNDS["fused"]), n)
    ]
    assert 0 < found.taken.sum() < len(found.taken)


def test_blending_decides_by_neighbours_of_neighbours() -> None:
    features, titles, labels = clusters(groups=8, each=4, seed=3, noise=0.5)
    plain = Steps(blending=False, mutual=False, grouping=False)
    blended = group_listings(features, titles, THRESHOLDS, None, 0.5, Steps(mutual=False, grouping=False))
    unblended = group_listings(features, titles, THRESHOLDS, None, 0.5, plain)
    column = blended.table.evidence[:, FEATURES.index("blended_2")]
    says = {
        (a, b): bool(value >= BOUNDS["fused"])
        for a, b, value in zip(blended.table.rows.tolist(), blended.table.others.tolist(), column.tolist(), strict=True)
    }
    either = [(says[a, b] + says.get((b, a), says[a, b])) / 2 >= 0.5 for a, b in says]
    assert blended.taken.tolist() == either
    assert blended.taken.tolist() != unblended.taken.tolist()
    assert len(labels) == len(blended.labels)


def test_hashes_alone_are_matches_as_far_as_the_table_says() -> None:
    hashes = np.array([0, 0xFF, 0x3FF0_0000], np.uint64)  # 8 and 10 bits from the first, 18 from each other
    nothing = np.zeros((3, TWO_TOWERS.dim), np.float32)
    features = Features(TWO_TOWERS, nothing, np.zeros(3, np.uint8), hashes, np.ones(3, np.bool_))
    found = group_listings(features, [None] * 3, THRESHOLDS, None, 0.5, Steps(blending=False))
    assert found.labels.tolist() == [0, 0, 2]


def test_true_groups_are_told_and_not_used() -> None:
    features, titles, labels = clusters(groups=5, each=3, seed=148)
    known = group_listings(features, titles, THRESHOLDS, small_model(), 0.4, labels=labels)
    unknown = group_listings(features, titles, THRESHOLDS, small_model(), 0.4)
    assert known.labels.tolist() == unknown.labels.tolist()
    assert known.table.same.any()
    assert not unknown.table.same.any()
    assert known.labels.tolist() == (labels * 3).tolist()  # they stand apart: every group is found


@given(st.permutations(range(18)), st.sampled_from([Steps(), Steps(grouping=False), Steps(mutual=False, at_least_two=True)]))
@settings(max_examples=10)
def test_the_order_of_the_table_does_not_matter(order: list[int], steps: Steps) -> None:
    features, titles, _ = clusters(groups=6, each=3, seed=5, noise=0.4)
    ids = [f"p{n:02}" for n in range(18)]

    def run(rows: list[int]) -> dict[str, list[str]]:
        by_id = sorted(rows, key=lambda n: ids[n])  # as the command does
        part = taken_from(features, by_id)
        found = group_listings(part, [titles[n] for n in by_id], THRESHOLDS, small_model(), 0.4, steps)
        return {ids[by_id[n]]: [ids[by_id[other]] for other in one] for n, one in enumerate(matches(found))}

    assert run(order) == run(list(range(18)))


@given(st.permutations(range(15)))
@settings(max_examples=8)
def test_clear_groups_are_found_in_any_order(order: list[int]) -> None:
    features, titles, labels = clusters(groups=5, each=3, seed=148)
    part, true = taken_from(features, order), labels[order]
    found = group_listings(part, [titles[n] for n in order], THRESHOLDS, small_model(), 0.4)
    assert [set(one) for one in matches(found)] == [set(np.flatnonzero(true == label).tolist()) for label in true]


def test_no_listings_no_groups() -> None:
    found = group_listings(taken_from(all_near(2), []), [], THRESHOLDS, small_model(), 0.5, Steps(at_least_two=True))
    assert (found.labels.tolist(), found.matches()) == ([], [])
