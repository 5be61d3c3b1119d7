"""Candidate lists against a comparison of everything with everything, for listings that lack this or that."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from app.catalog.faiss_index import nearest
from app.core.decision import Thresholds
from app.core.fusion import HAS_IMAGE, HAS_TITLE, Fusion
from app.core.neighbourhood import HASH_ONLY
from app.core.product import Embedding, Floats
from app.evaluation import neighbours
from app.evaluation.evaluate import About, bounds_at, evaluate
from app.evaluation.features import Features
from app.evaluation.neighbours import Search, sample_pairs
from app.evaluation.subjects import Subjects

ROWS = 80
FUSION = Fusion(0.3, 5, 4)
THRESHOLDS = Thresholds({"fused": [(10, 0.5), (80, 0.6)], "image": [(10, 0.7)], "title": [(10, 0.65)]})
ABOUT = About("bundle", {}, ("title",))


def unit(rows: NDArray[np.float64]) -> Floats:
    vectors: Floats = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return vectors


def features(seed: int = 0, flags: tuple[int, ...] = (0, 1, 2, 3), hashed: float = 0.7) -> Features:
    """Listings around 20 centres, with hashes a few bits from those of their centre."""
    rng = np.random.default_rng(seed)
    centre = np.arange(ROWS) % 20
    photos, titles = (unit(rng.normal(size=(20, d))[centre] + rng.normal(size=(ROWS, d)) / 2) for d in (5, 4))
    drawn = rng.choice(flags, ROWS).astype(np.uint8)
    vectors = np.zeros((ROWS, FUSION.dim), np.float32)
    for row, flag in enumerate(drawn):
        if flag:
            photo = photos[row : row + 1] if flag & HAS_IMAGE else np.zeros((0, 5), np.float32)
            vectors[row] = FUSION.fuse(Embedding(photo, titles[row] if flag & HAS_TITLE else None))[0][0]
    hashes = rng.integers(0, 2**63, 20, dtype=np.uint64)[centre] ^ (np.uint64(1) << rng.integers(0, 63, ROWS, np.uint64))
    return Features(FUSION, vectors, drawn, hashes, rng.random(ROWS) < hashed)


def truth(given: Features, row: int, other: int) -> tuple[float, int]:
    """The score of a pair by its definition, and what the two share."""
    w, cut = FUSION.weight, FUSION.image_dim
    one, two = given.vectors[[row, other]].astype(np.float64)
    image, title = one[:cut] @ two[:cut] / w, one[cut:] @ two[cut:] / (1 - w)
    shared = int(given.flags[row] & given.flags[other])
    score = {0: -np.inf, 1: image, 2: title, 3: w * image + (1 - w) * title}[shared]
    if given.hashed[row] and given.hashed[other]:
        kernel = max(0.0, 1 - (int(given.hashes[row]) ^ int(given.hashes[other])).bit_count() / 20)
        score, shared = (score + 0.6 * kernel, shared) if shared else (kernel, HASH_ONLY)
    return score, shared


def test_nearest_is_what_numpy_finds() -> None:
    rng = np.random.default_rng(1)
    queries, gallery = (unit(rng.normal(size=(n, 7))) for n in (30, 50))
    scores, found = nearest(queries, gallery, 6, block=8)
    order = np.argsort(-(queries @ gallery.T), axis=1)[:, :6]
    assert (found == order).all()
    np.testing.assert_allclose(scores, np.take_along_axis(queries @ gallery.T, order, axis=1), atol=1e-6)
    assert nearest(queries, gallery[:3], 6)[1].shape == (30, 3)
    assert nearest(queries, gallery[:0], 6)[1].shape == (30, 0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("flags", "hashed"), [((0, 1, 2, 3), 0.7), ((3,), 0.0), ((2,), 1.0), ((0,), 1.0), ((1, 2), 0.3), ((0,), 0.0)]
)
def test_lists_hold_every_pair_above_a_threshold(
    seed: int, flags: tuple[int, ...], hashed: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "BLOCK_ROWS", 32)
    given = features(seed, flags, hashed)
    queries, threshold = 60, 0.55
    search = Search(given, queries, 3, lambda _: None)
    while search.lengthen(threshold):
        pass
    assert search.complete(threshold)
    labels = np.arange(ROWS) % 20
    lists = search.lists(np.where(np.arange(ROWS) < queries, labels, -1))
    found = dict(zip(zip(lists.rows().tolist(), lists.others.tolist(), strict=True), lists.scores, strict=True))
    for row in range(queries):
        for other in set(range(ROWS)) - {row}:
            score, _ = truth(given, row, other)
            if score >= threshold:
                assert found[row, other] == pytest.approx(score, abs=2e-6)
            else:
                assert found.get((row, other), -1) < threshold
        assert (np.diff(lists.scores[lists.starts[row] : lists.starts[row + 1]]) <= 0).all()


def test_memory_ends_the_lengthening(monkeypatch: pytest.MonkeyPatch) -> None:
    search = Search(features(0, (3,), 0), ROWS, 3, lambda _: None)
    monkeypatch.setattr(neighbours, "MAX_PAIRS", 100)
    assert not search.lengthen(-1)
    assert not search.complete(-1)
    assert search.exact_from() > 0


def test_sampled_pairs_are_true_and_false_ones() -> None:
    given, labels = features(), np.where(np.arange(ROWS) < 50, np.arange(ROWS) % 20, -1)
    pairs, different = sample_pairs(given, labels, 60, 10**6, 0)
    expected = {(row, other) for row in range(50) for other in range(50) if row != other and (row - other) % 20 == 0}
    assert set(zip(pairs.rows.tolist(), pairs.others.tolist(), strict=True)) == expected
    for row, other, score, kind in zip(pairs.rows, pairs.others, pairs.scores, pairs.kinds, strict=True):
        assert (score, kind) == (pytest.approx(truth(given, row, other)[0], abs=2e-6), truth(given, row, other)[1])
    assert len(different) == 50 * (ROWS - 1) - len(expected)
    fewer = sample_pairs(given, labels, 60, 500, 0)[1]
    assert 300 < len(fewer) <= 500
    assert (fewer == sample_pairs(given, labels, 60, 500, 0)[1]).all()


@pytest.mark.parametrize(("flags", "hashed"), [((0, 1, 2, 3), 0.7), ((3,), 0.0), ((0,), 1.0)])
def test_an_evaluation_is_what_a_comparison_of_everything_gives(flags: tuple[int, ...], hashed: float) -> None:
    given = features(2, flags, hashed)
    labels = np.where(np.arange(ROWS) < 50, np.arange(ROWS) % 20, -1)
    ids = [f"p{row}" for row in range(ROWS)]
    found = evaluate(given, Subjects(ids, labels, 60), THRESHOLDS, ABOUT, neighbours=4)
    bounds = bounds_at(THRESHOLDS, ROWS)
    f1 = []
    for row in range(60):
        pairs = [(other, *truth(given, row, other)) for other in range(ROWS) if other != row]
        matches = {row} | {other for other, score, shared in pairs if round(score, 6) >= bounds[shared]}
        assert set(found.matches[row]) == {ids[other] for other in matches}
        assert found.matches[row][0] == ids[row]
        if labels[row] >= 0:
            true = set(np.flatnonzero(labels == labels[row]).tolist())
            f1.append(2 * len(true & matches) / (len(true) + len(matches)))
    assert found.f1_at_threshold == pytest.approx(np.mean(f1))
    assert (found.listings, found.queries, found.groups, found.gallery) == (60, 50, 20, ROWS)
    last = found.f1_by_gallery[-1]
    assert (last.gallery, last.threshold) == (ROWS, found.threshold)
    assert last.f1_at_threshold == pytest.approx(found.f1_at_threshold)
    assert last.recall_at_1 == pytest.approx(found.recall_at_1)
    assert last.f1_best == pytest.approx(found.f1_best)
    assert found.exact


def test_more_distractors_never_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.evaluation.galleries.SIZES", (10, 20, 40, 1000))
    given = features(3, (3,), 0.0)
    labels = np.where(np.arange(ROWS) < 50, np.arange(ROWS) % 20, -1)
    found = evaluate(given, Subjects([str(n) for n in range(ROWS)], labels, 60), THRESHOLDS, ABOUT)
    assert [point.gallery for point in found.f1_by_gallery] == [10, 20, 40, ROWS]
    first = [point.recall_at_1 for point in found.f1_by_gallery]
    assert first == sorted(first, reverse=True)
    assert first[0] > first[-1]
    assert found.sample is not None
    assert set(np.unique(found.sample.labels, return_counts=True)[1]) <= {2, 3}
    np.testing.assert_allclose(np.linalg.norm(found.sample.vectors, axis=1), 1, atol=1e-5)
