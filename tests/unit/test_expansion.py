"""Blending every listing with its neighbours: what it does to vectors, and which candidates it adds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.core.decision import Thresholds
from app.core.expansion import expand
from app.core.fusion import HAS_BOTH, HAS_IMAGE, HAS_TITLE
from app.core.neighbourhood import HASH_ONLY
from app.core.pairs import CONTEXT
from app.core.product import Floats
from app.core.ranking import Lists
from app.evaluation.candidates import RESERVED, expanded, with_expansion
from app.evaluation.evidence import candidate_pairs
from app.evaluation.features import Features
from app.evaluation.neighbours import Search
from tests.evidence import BOUNDS, TWO_TOWERS, clusters, members, taken_from

CUT = TWO_TOWERS.image_dim
THRESHOLDS = Thresholds({modality: [(1, bound)] for modality, bound in BOUNDS.items()})


class Around:
    """Fused rows with photos, titles or both, and random neighbours of each."""

    def __init__(self, seed: int, n: int) -> None:
        random = np.random.default_rng(seed)
        self.flags = random.choice([HAS_IMAGE, HAS_TITLE, HAS_BOTH], n).astype(np.uint8)
        self.vectors = members(seed, self.flags.tolist(), [False] * n).vectors
        near = [
            random.permutation([other for other in range(n) if other != row])[: random.integers(0, 4)] for row in range(n)
        ]
        self.starts = np.concatenate([[0], np.cumsum([len(one) for one in near])]).astype(np.int64)
        self.others = np.concatenate(near).astype(np.int64)
        self.cosines = random.uniform(0.1, 1.3, len(self.others))

    def expand(self, alpha: float = 3.0) -> Floats:
        return expand(self.vectors, CUT, self.starts, self.others, self.cosines, alpha)


AROUND = st.builds(Around, st.integers(0, 2**32 - 1), st.integers(1, 12))


@settings(max_examples=60)
@given(AROUND, st.sampled_from([0.0, 1.0, 3.0]))
def test_halves_keep_their_length_and_absent_ones_stay_absent(around: Around, alpha: float) -> None:
    found = around.expand(alpha)
    assert found.dtype == np.float32
    for half in (slice(CUT), slice(CUT, None)):
        before, after = (np.linalg.norm(rows[:, half], axis=1) for rows in (around.vectors, found))
        np.testing.assert_allclose(after, before, atol=1e-6)
        assert not found[before == 0, half].any()


@settings(max_examples=60)
@given(AROUND)
def test_listings_without_neighbours_stay_as_they_are(around: Around) -> None:
    alone = np.diff(around.starts) == 0
    assert np.array_equal(around.expand()[alone], around.vectors[alone])


@settings(max_examples=60)
@given(AROUND, st.integers(0, 1000))
def test_the_order_of_listings_does_not_matter(around: Around, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(around.vectors))
    place = np.argsort(order)
    near = [slice(int(around.starts[row]), int(around.starts[row + 1])) for row in order]
    starts = np.concatenate([[0], np.cumsum([one.stop - one.start for one in near])]).astype(np.int64)
    others = np.concatenate([place[around.others[one]] for one in near])
    cosines = np.concatenate([around.cosines[one] for one in near])
    found = expand(around.vectors[order], CUT, starts, others, cosines)
    assert np.array_equal(found, around.expand()[order])


def test_neighbours_weigh_as_much_as_their_cosine_to_the_power_of_alpha() -> None:
    vectors = np.zeros((3, TWO_TOWERS.dim), np.float32)
    vectors[0, 0] = vectors[1, 1] = vectors[2, 2] = np.sqrt(TWO_TOWERS.weight)
    starts, others, cosines = np.array([0, 2, 2, 2]), np.array([1, 2]), np.array([0.5, 1.4])
    found = expand(vectors, CUT, starts, others, cosines, alpha=2.0)[0]
    expected = np.sqrt(TWO_TOWERS.weight) * np.array([1, 0.25, 1]) / np.linalg.norm([1, 0.25, 1])
    assert found[:3].tolist() == pytest.approx(expected.tolist())
    everyone = expand(vectors, CUT, starts, others, cosines, alpha=0.0)[0]
    assert everyone[:3].tolist() == pytest.approx([np.sqrt(TWO_TOWERS.weight / 3)] * 3)


def test_each_half_is_blended_with_those_who_have_it() -> None:
    random = np.random.default_rng(4)
    around = Around(4, 3)
    around.vectors = random.normal(size=around.vectors.shape).astype(np.float32)
    around.vectors[1, CUT:] = around.vectors[2, :CUT] = 0
    found = expand(around.vectors, CUT, np.array([0, 2, 2, 2]), np.array([1, 2]), np.ones(2))[0]
    for half, other in ((slice(CUT), 1), (slice(CUT, None), 2)):
        total = around.vectors[0, half] + around.vectors[other, half]
        length = np.linalg.norm(around.vectors[0, half]) / np.linalg.norm(total)
        np.testing.assert_allclose(found[half], total * length, rtol=1e-5)


def test_opposites_cancel_out_and_are_left_as_they_are() -> None:
    vectors = np.zeros((2, TWO_TOWERS.dim), np.float32)
    vectors[0, 0], vectors[1, 0] = 0.5, -0.5
    assert np.array_equal(expand(vectors, CUT, np.array([0, 1, 1]), np.array([1]), np.ones(1)), vectors)


def lists_of(features: Features, labels: NDArray[np.int64]) -> Lists:
    return Search(features, len(features), CONTEXT, lambda _: None).lists(labels)


def test_only_neighbours_above_the_threshold_are_blended() -> None:
    features, _, labels = clusters(groups=6, each=3, seed=7, noise=0.3)
    lists = lists_of(features, labels)
    found = expanded(features, lists, BOUNDS)
    nobody = expanded(features, lists, dict.fromkeys(BOUNDS, 2.0))
    assert np.array_equal(nobody.vectors, features.vectors)
    for row in range(len(features)):
        others = np.delete(np.arange(len(features)), row)
        scores, _ = features.score(row, others)
        near = others[scores >= BOUNDS["fused"]]
        cosines = scores[scores >= BOUNDS["fused"]]
        starts = np.array([0, len(near)] + [len(near)] * (len(features) - 1))
        alone = expand(features.vectors[np.r_[row, near]], CUT, starts[: len(near) + 2], 1 + np.arange(len(near)), cosines)
        np.testing.assert_allclose(found.vectors[row], alone[0], atol=1e-6)
    assert np.array_equal(found.hashes, features.hashes)


def test_equal_hashes_alone_blend_nothing() -> None:
    given = Around(3, 2)
    features = Features(
        TWO_TOWERS, given.vectors, np.array([HAS_IMAGE, HAS_TITLE], np.uint8), np.zeros(2, np.uint64), np.ones(2, np.bool_)
    )
    features.vectors[0, CUT:] = features.vectors[1, :CUT] = 0
    lists = lists_of(features, np.zeros(2, np.int64))
    assert lists.kinds.tolist() == [HASH_ONLY] * 2
    assert np.array_equal(expanded(features, lists, BOUNDS).vectors, features.vectors)


def test_a_bundle_is_needed() -> None:
    features, _, labels = clusters(2, 2, seed=0)
    lists = lists_of(features, labels)
    bare = Features(None, features.vectors[:, :0], features.flags, features.hashes, features.hashed)
    with pytest.raises(ValueError, match="bundle"):
        expanded(bare, lists, BOUNDS)


def bridge() -> Features:
    """A listing between its twin and a crowd that is nearer to it than the twin's other twins are."""
    random = np.random.default_rng(0)
    crowd, chain = CONTEXT + 10, 3
    angles = np.concatenate([random.uniform(-1.0, -0.9, crowd), [0.0, 0.6, 1.2]])
    vectors = np.zeros((crowd + chain, TWO_TOWERS.dim), np.float32)
    vectors[:, 0], vectors[:, 1] = np.cos(angles), np.sin(angles)
    vectors *= np.sqrt(TWO_TOWERS.weight)
    flags = np.full(len(vectors), HAS_IMAGE, np.uint8)
    return Features(TWO_TOWERS, vectors, flags, np.zeros(len(vectors), np.uint64), np.zeros(len(vectors), np.bool_))


def test_neighbours_of_neighbours_become_candidates() -> None:
    features, bounds = bridge(), {"image": 0.8}
    n = len(features)
    start, end = n - 3, n - 1
    plain = lists_of(features, np.zeros(n, np.int64))
    more = with_expansion(features, plain, np.zeros(n, np.int64), bounds)
    mine = [one.others[one.starts[start] : one.starts[start + 1]].tolist() for one in (plain, more)]
    assert end not in mine[0]
    assert end in mine[1]
    assert len(mine[1]) == CONTEXT
    assert set(mine[0][: CONTEXT - RESERVED]) <= set(mine[1])


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 40))
def test_lists_stay_in_order_and_scores_are_those_of_the_vectors_as_they_are(seed: int, groups: int) -> None:
    features, _, labels = clusters(groups, 3, seed, noise=0.4)
    plain = lists_of(features, labels)
    more = with_expansion(features, plain, labels, BOUNDS)
    assert len(more) == len(plain)
    for row in range(len(more)):
        part = slice(int(more.starts[row]), int(more.starts[row + 1]))
        others = more.others[part]
        assert len(set(others.tolist())) == len(others) <= CONTEXT
        assert row not in others
        scores, kinds = features.score(row, others)
        assert np.array_equal(more.scores[part], scores)
        assert np.array_equal(more.kinds[part], kinds)
        assert (np.diff(scores) <= 0).all()
        assert np.array_equal(more.same[part], labels[others] == labels[row])
        first = plain.others[plain.starts[row] : plain.starts[row + 1]]
        assert set(first[: CONTEXT - RESERVED].tolist()) <= set(others.tolist())
        assert len(others) == min(CONTEXT, len(features) - 1)


def test_evidence_is_about_the_vectors_as_they_are() -> None:
    features, titles, labels = clusters(groups=5, each=3, seed=2, noise=0.4)  # all are candidates of all
    plain = candidate_pairs(features, titles, labels, THRESHOLDS)
    more = candidate_pairs(features, titles, labels, THRESHOLDS, expansion=True)
    assert np.array_equal(plain.others, more.others)
    assert np.array_equal(plain.evidence, more.evidence, equal_nan=True)


def test_no_listings_no_candidates() -> None:
    none = taken_from(clusters(1, 2, seed=0)[0], [])
    labels = np.zeros(0, np.int64)
    assert len(with_expansion(none, lists_of(none, labels), labels, BOUNDS)) == 0
