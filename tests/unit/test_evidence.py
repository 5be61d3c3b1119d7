"""Candidate pairs of many listings: the same evidence as one query gets, and the right truth beside it."""

from __future__ import annotations

import numpy as np
import pytest

from app.core.decision import Thresholds
from app.core.fusion import HAS_BOTH, HAS_IMAGE, HAS_TITLE
from app.core.neighbourhood import HASH_ONLY, Ground, Members
from app.core.pairs import CONTEXT, FEATURES, evidence
from app.core.product import Floats
from app.errors import InvalidListings
from app.evaluation.evidence import REACH, Table, candidate_pairs, collect
from app.evaluation.features import Features
from app.evaluation.neighbours import Search
from app.training.labelled_features import LabelledFeatures
from tests.evidence import BOUNDS, TWO_TOWERS, clusters, taken_from

THRESHOLDS = Thresholds({modality: [(1, bound)] for modality, bound in BOUNDS.items()})


def column(table: Table, name: str) -> Floats:
    return table.evidence[:, FEATURES.index(name)]


def test_mates_are_candidates_and_known_as_such() -> None:
    features, titles, labels = clusters(groups=6, each=3, seed=0)
    table = candidate_pairs(features, titles, labels, THRESHOLDS)
    assert (table.same == (labels[table.rows] == labels[table.others])).all()
    found = set(zip(table.rows.tolist(), table.others.tolist(), strict=True))
    assert found >= {(a, b) for a in range(18) for b in range(18) if a != b and labels[a] == labels[b]}
    assert not any(a == b for a, b in found)
    assert len(found) == len(table.rows)


def test_candidates_stand_by_query_and_the_best_first() -> None:
    features, titles, labels = clusters(groups=6, each=3, seed=1)
    table = candidate_pairs(features, titles, labels, THRESHOLDS)
    assert (np.diff(table.rows) >= 0).all()
    for row in range(len(labels)):
        assert (np.diff(column(table, "raised")[table.rows == row]) <= 1e-6).all()


def test_evidence_is_that_of_one_query() -> None:
    features, titles, labels = clusters(groups=5, each=3, seed=2, noise=0.4)
    table = candidate_pairs(features, titles, labels, THRESHOLDS)
    ground = Ground(TWO_TOWERS, BOUNDS, len(labels))
    for row in (0, 7, 14):
        scores, _ = features.score(row, np.arange(len(labels)))
        order = [int(n) for n in np.lexsort((np.arange(len(labels)), -scores)) if n != row]
        known = taken_from(features, [row, *order])
        asked = Members(known.vectors, known.flags, [titles[n] for n in (row, *order)], known.hashes, known.hashed)
        alone = dict(zip(order, evidence(asked, ground), strict=True))
        kept = np.flatnonzero(table.rows == row)
        assert 0 < len(kept) < len(order)  # the hopeless are left out, and counted as neighbours all the same
        for pair in kept:
            assert table.evidence[pair] == pytest.approx(alone[int(table.others[pair])], abs=1e-5, nan_ok=True)


def test_the_hopeless_are_left_out_by_the_bound_of_what_they_share() -> None:
    features, titles, _ = clusters(groups=30, each=1, seed=3)
    cut = TWO_TOWERS.image_dim
    features.flags[10:20], features.flags[20:] = HAS_IMAGE, HAS_TITLE
    features.vectors[10:20, cut:] = 0
    features.vectors[20:, :cut] = 0
    features.hashed[:] = False
    shown = [title if flag & HAS_TITLE else None for title, flag in zip(titles, features.flags, strict=True)]
    table = candidate_pairs(features, shown, np.full(30, -1), THRESHOLDS)
    bounds = np.array([np.inf, BOUNDS["image"], BOUNDS["title"], BOUNDS["fused"]])
    expected = set()
    for row in range(30):
        scores, kinds = features.score(row, np.arange(30))
        expected |= {(row, n) for n in range(30) if n != row and scores[n] >= bounds[kinds[n]] - REACH}
    assert set(zip(table.rows.tolist(), table.others.tolist(), strict=True)) == expected
    assert 0 < len(expected) < 30 * 29
    assert not table.same.any()


def test_hashes_alone_make_candidates_as_in_the_search() -> None:
    hashes = np.array([0, 0b1111, 0xFFFF_FFFF, 0xFFFF], np.uint64)  # 4, 32 and 16 bits from the first
    nothing = np.zeros((4, TWO_TOWERS.dim), np.float32)
    features = Features(TWO_TOWERS, nothing, np.zeros(4, np.uint8), hashes, np.ones(4, np.bool_))
    table = candidate_pairs(features, [None] * 4, np.arange(4), THRESHOLDS)
    pairs = set(zip(table.rows.tolist(), table.others.tolist(), strict=True))
    assert pairs == {(0, 1), (1, 0), (1, 3), (3, 1)}
    assert column(table, "raised")[table.rows == 0] == pytest.approx([0.8])
    assert column(table, "over")[table.rows == 0] == pytest.approx([0.8 - 0.6])
    scores, kinds = features.score(0, np.array([1]))
    assert (scores.tolist(), kinds.tolist()) == ([0.8], [HASH_ONLY])


def test_no_more_candidates_than_make_a_context() -> None:
    features, titles, labels = clusters(groups=1, each=CONTEXT + 10, seed=4)
    ticks: list[int] = []
    table = candidate_pairs(features, titles, labels, THRESHOLDS, ticks.append)
    assert np.bincount(table.rows).tolist() == [CONTEXT] * len(labels)
    assert ticks == [1] * len(labels)


def test_fewer_candidates_can_be_asked_for() -> None:
    features, titles, labels = clusters(groups=4, each=4, seed=5)
    lists = Search(features, len(features), CONTEXT, lambda _: None).lists(labels)
    table = collect(features, titles, lists, BOUNDS, context=2)
    assert np.bincount(table.rows).tolist() == [2] * 16
    first = lists.starts[:-1]
    assert table.others.reshape(-1, 2).tolist() == [lists.others[n : n + 2].tolist() for n in first]
    assert (column(table, "log_gallery") == np.float32(np.log10(16))).all()


def test_listings_without_a_group_are_nobodys_mates() -> None:
    features, titles, labels = clusters(groups=3, each=3, seed=6)
    labels[:3] = -1
    table = candidate_pairs(features, titles, labels, THRESHOLDS)
    assert (table.rows < 3).any()
    assert not table.same[(table.rows < 3) | (table.others < 3)].any()
    assert table.same.any()


def test_no_listings_no_pairs() -> None:
    features, _, _ = clusters(groups=2, each=1, seed=0)
    none = taken_from(features, [])
    table = candidate_pairs(none, [], np.zeros(0, np.int64), THRESHOLDS)
    assert table.evidence.shape == (0, len(FEATURES))
    assert len(table.rows) == len(table.others) == len(table.same) == 0


def test_without_a_bundle_there_is_no_evidence() -> None:
    features = Features(
        None, np.zeros((2, 0), np.float32), np.zeros(2, np.uint8), np.zeros(2, np.uint64), np.ones(2, np.bool_)
    )
    lists = Search(features, 2, 1, lambda _: None).lists(np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="needs a bundle"):
        collect(features, [None, None], lists, BOUNDS)


def test_labelled_features_are_what_thresholds_and_pair_models_learn_from() -> None:
    features, titles, labels = clusters(groups=3, each=3, seed=7)
    features.flags[0] = 0
    data = LabelledFeatures(features, titles, labels)
    assert data.labelled().groups.tolist() == labels[1:].tolist()
    assert (data.labelled().flags == HAS_BOTH).all()
    ticks: list[int] = []
    assert data.candidate_pairs(THRESHOLDS, ticks.append).table.same.any()
    assert sum(ticks) == len(labels)
    features.flags[:] = 0
    with pytest.raises(InvalidListings, match="no row has a group and a photo or title"):
        data.labelled()
