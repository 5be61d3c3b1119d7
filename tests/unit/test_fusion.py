from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.fusion import HAS_BOTH, HAS_IMAGE, HAS_TITLE, Fusion
from app.core.product import Embedding, Floats

TWO = Fusion(weight=0.36, image_dim=2, title_dim=2)  # sqrt: .6 and .8
EAST, NORTH = np.array([1, 0], np.float32), np.array([0, 1], np.float32)
SLANT = np.array([0.6, 0.8], np.float32)
ROUNDING = 2e-5

weights = st.floats(0.05, 0.95)
seeds = st.integers(0, 2**32 - 1)
modalities = st.sampled_from([HAS_IMAGE, HAS_TITLE, HAS_BOTH])


def both(image: Floats, title: Floats) -> Embedding:
    return Embedding(image[None], title)


def only_image(*images: Floats) -> Embedding:
    return Embedding(np.stack(images))


def only_title(title: Floats) -> Embedding:
    return Embedding(np.zeros((0, 2), np.float32), title)


def unit(rng: np.random.Generator, rows: int, dim: int) -> Floats:
    values = rng.normal(size=(rows, dim)) + 0.5  # leaning one way, so that high cosines are common
    vectors: Floats = (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)
    return vectors


def random_embedding(rng: np.random.Generator, fusion: Fusion, flags: int, photos: int) -> Embedding:
    images = unit(rng, photos if flags & HAS_IMAGE else 0, fusion.image_dim)
    return Embedding(images, unit(rng, 1, fusion.title_dim)[0] if flags & HAS_TITLE else None)


def test_fuse_scales_each_half_by_the_root_of_its_share() -> None:
    z, flags = TWO.fuse(both(EAST, NORTH))
    np.testing.assert_allclose(z, [[0.6, 0, 0, 0.8]], atol=1e-7)
    assert z.dtype == np.float32
    assert flags.tolist() == [HAS_BOTH]


def test_fuse_makes_one_row_per_photo_with_the_title_in_each() -> None:
    z, flags = TWO.fuse(Embedding(np.stack([EAST, NORTH]), EAST))
    np.testing.assert_allclose(z, [[0.6, 0, 0.8, 0], [0, 0.6, 0.8, 0]], atol=1e-7)
    assert flags.tolist() == [HAS_BOTH, HAS_BOTH]


def test_a_missing_half_is_zeros_and_is_not_renormalised() -> None:
    photo_only, photo_flags = TWO.fuse(only_image(NORTH))
    title_only, title_flags = TWO.fuse(only_title(EAST))
    np.testing.assert_allclose(photo_only, [[0, 0.6, 0, 0]], atol=1e-7)
    np.testing.assert_allclose(title_only, [[0, 0, 0.8, 0]], atol=1e-7)
    assert (photo_flags.tolist(), title_flags.tolist()) == ([HAS_IMAGE], [HAS_TITLE])


def stacked(fusion: Fusion, query: Embedding, kinds: set[int]) -> Floats:
    """All question vectors, whatever they ask for."""
    return np.concatenate([np.zeros((0, fusion.dim), np.float32), *(rows for _, rows in fusion.questions(query, kinds))])


@pytest.mark.parametrize("embedding", [both(SLANT, NORTH), only_image(SLANT, EAST), only_title(SLANT)])
def test_unfuse_reads_back_what_was_fused(embedding: Embedding) -> None:
    back = TWO.unfuse(*TWO.fuse(embedding))
    np.testing.assert_allclose(back.images, embedding.images, atol=1e-6)
    assert back.images.shape == embedding.images.shape
    assert (back.title is None) == (embedding.title is None)
    if embedding.title is not None and back.title is not None:
        np.testing.assert_allclose(back.title, embedding.title, atol=1e-6)


def test_scores_can_be_computed_by_hand() -> None:
    query, flags = TWO.fuse(both(EAST, EAST))
    rows = [TWO.fuse(e) for e in (both(SLANT, NORTH), only_image(SLANT), only_title(SLANT), both(-EAST, -EAST))]
    scores = TWO.score_rows(
        query[0], int(flags[0]), np.concatenate([z for z, _ in rows]), np.concatenate([f for _, f in rows])
    )
    np.testing.assert_array_equal(scores.score, [0.216, 0.6, 0.6, -1])  # .36 * .6 + .64 * 0
    np.testing.assert_array_equal(scores.image, [0.6, 0.6, np.nan, -1])
    np.testing.assert_array_equal(scores.title, [0, np.nan, 0.6, -1])


def test_without_a_shared_modality_there_is_no_score() -> None:
    query, flags = TWO.fuse(only_image(EAST))
    rows, row_flags = TWO.fuse(only_title(EAST))
    scores = TWO.score_rows(query[0], int(flags[0]), rows, row_flags)
    assert scores.score.tolist() == [-math.inf]
    assert np.isnan([scores.image, scores.title]).all()


def test_scores_of_no_rows_are_empty() -> None:
    query, _ = TWO.fuse(both(EAST, EAST))
    scores = TWO.score_rows(query[0], HAS_BOTH, np.zeros((0, 4), np.float32), np.zeros(0, np.uint8))
    assert scores.score.shape == scores.image.shape == scores.title.shape == (0,)


def test_scores_do_not_depend_on_the_block_that_a_row_lies_in() -> None:
    query, _ = TWO.fuse(both(SLANT, SLANT))
    rows = np.tile(query, (9000, 1))
    scores = TWO.score_rows(query[0], HAS_BOTH, rows, np.full(9000, HAS_BOTH, np.uint8))
    assert set(scores.score.tolist()) == {1.0}


@given(seeds, weights)
def test_a_row_scores_exactly_one_against_itself(seed: int, weight: float) -> None:
    fusion = Fusion(weight, 7, 5)
    z, flags = fusion.fuse(random_embedding(np.random.default_rng(seed), fusion, HAS_BOTH, 1))
    scores = fusion.score_rows(z[0], int(flags[0]), z, flags)
    assert (scores.score[0], scores.image[0], scores.title[0]) == (1, 1, 1)


@given(seeds, weights)
def test_the_inner_product_is_the_weighted_mean_of_both_cosines(seed: int, weight: float) -> None:
    fusion, rng = Fusion(weight, 5, 9), np.random.default_rng(seed)
    a, b = (random_embedding(rng, fusion, HAS_BOTH, 1) for _ in range(2))
    assert a.title is not None
    assert b.title is not None
    expected = weight * float(a.images[0] @ b.images[0]) + (1 - weight) * float(a.title @ b.title)
    assert float(fusion.fuse(a)[0][0] @ fusion.fuse(b)[0][0]) == pytest.approx(expected, abs=2e-6)


@given(seeds, weights, modalities, modalities)
def test_the_score_is_the_weighted_mean_over_the_shared_modalities(seed: int, weight: float, left: int, right: int) -> None:
    fusion, rng = Fusion(weight, 4, 6), np.random.default_rng(seed)
    a, b = random_embedding(rng, fusion, left, 1), random_embedding(rng, fusion, right, 1)
    parts: list[tuple[float, float]] = []
    if len(a.images) and len(b.images):
        parts.append((weight, float(a.images[0] @ b.images[0])))
    if a.title is not None and b.title is not None:
        parts.append((1 - weight, float(a.title @ b.title)))
    expected = sum(w * cosine for w, cosine in parts) / sum(w for w, _ in parts) if parts else -math.inf
    query, _ = fusion.fuse(a)
    assert fusion.score_rows(query[0], left, *fusion.fuse(b)).score[0] == pytest.approx(expected, abs=3e-6)


@given(
    seeds,
    weights,
    st.tuples(modalities, st.integers(1, 3)),
    st.lists(st.tuples(modalities, st.integers(1, 3)), min_size=1, max_size=12),
    st.floats(-1, 1),
)
def test_every_row_at_or_above_the_threshold_is_found_by_some_question(
    seed: int, weight: float, asked: tuple[int, int], gallery: list[tuple[int, int]], threshold: float
) -> None:
    fusion, rng = Fusion(weight, 3, 4), np.random.default_rng(seed)
    query = random_embedding(rng, fusion, *asked)
    fused = [fusion.fuse(random_embedding(rng, fusion, *one)) for one in gallery]
    rows, flags = np.concatenate([z for z, _ in fused]), np.concatenate([f for _, f in fused])
    questions = stacked(fusion, query, {int(flag) for flag in flags})
    reached = np.zeros(len(rows), bool)
    if len(questions):
        reached = (questions @ rows.T).max(axis=0) >= threshold - ROUNDING
    exact = np.max([fusion.score_rows(z, asked[0], rows, flags).score for z in fusion.fuse(query)[0]], axis=0)
    assert not (~reached & (exact >= threshold)).any()


@pytest.mark.parametrize(
    ("query", "kinds", "expected"),
    [
        (both(EAST, NORTH), {HAS_BOTH}, [[0.6, 0, 0, 0.8]]),
        (both(EAST, NORTH), {HAS_IMAGE}, [[1 / 0.6, 0, 0, 0]]),
        (both(EAST, NORTH), {HAS_TITLE}, [[0, 0, 0, 1 / 0.8]]),
        (both(EAST, NORTH), {1, 2, 3}, [[0.6, 0, 0, 0.8], [1 / 0.6, 0, 0, 0], [0, 0, 0, 1 / 0.8]]),
        (only_image(EAST), {HAS_BOTH}, [[1 / 0.6, 0, 0, 0]]),
        (only_image(EAST, NORTH), {HAS_IMAGE}, [[1 / 0.6, 0, 0, 0], [0, 1 / 0.6, 0, 0]]),
        (only_title(NORTH), {HAS_BOTH}, [[0, 0, 0, 1 / 0.8]]),
        (Embedding(np.stack([EAST, NORTH]), EAST), {HAS_TITLE}, [[0, 0, 1 / 0.8, 0]]),
    ],
)
def test_questions_are_scaled_so_that_the_threshold_bounds_all_of_them(
    query: Embedding, kinds: set[int], expected: list[list[float]]
) -> None:
    questions = stacked(TWO, query, kinds)
    assert questions.dtype == np.float32
    np.testing.assert_allclose(questions, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("query", "kinds"), [(only_image(EAST), {HAS_TITLE}), (only_title(EAST), {HAS_IMAGE}), (both(EAST, EAST), set())]
)
def test_a_question_that_nothing_can_answer_is_not_asked(query: Embedding, kinds: set[int]) -> None:
    assert TWO.questions(query, kinds) == []


@pytest.mark.parametrize(("weight", "image_dim", "title_dim", "flag"), [(1, 2, 0, HAS_IMAGE), (0, 0, 2, HAS_TITLE)])
def test_a_bundle_with_one_tower_scores_by_that_tower(weight: float, image_dim: int, title_dim: int, flag: int) -> None:
    fusion = Fusion(weight, image_dim, title_dim)

    def one(vector: Floats) -> Embedding:
        return Embedding(vector[None]) if image_dim else Embedding(np.zeros((0, 0), np.float32), vector)

    z, flags = fusion.fuse(one(EAST))
    rows, row_flags = fusion.fuse(one(SLANT))
    scores = fusion.score_rows(z[0], flag, rows, row_flags)
    assert (fusion.dim, flags.tolist()) == (2, [flag])
    assert scores.score.tolist() == [0.6]
    np.testing.assert_allclose(stacked(fusion, one(EAST), {flag}), [EAST])
    np.testing.assert_allclose(fusion.fuse(fusion.unfuse(rows, row_flags))[0], rows)


@pytest.mark.parametrize(
    ("weight", "image_dim", "title_dim"),
    [
        (0, 2, 2),
        (1, 2, 2),
        (-0.1, 2, 2),
        (1.1, 2, 2),
        (math.nan, 2, 2),
        (0.5, 2, 0),
        (0.5, 0, 2),
        (0, 2, 0),
        (1, 0, 2),
        (0.5, 0, 0),
    ],
)
def test_a_weight_that_does_not_fit_the_towers_is_refused(weight: float, image_dim: int, title_dim: int) -> None:
    with pytest.raises(ValueError, match="w must lie in"):
        Fusion(weight, image_dim, title_dim)


def test_what_fuse_makes_is_sound_and_what_it_cannot_make_is_not() -> None:
    fusion = Fusion(0.3, 3, 5)
    random = np.random.default_rng(3)
    drawn = random.normal(size=(4, 3)), random.normal(size=5)
    images, title = (rows / np.linalg.norm(rows, axis=-1, keepdims=True) for rows in drawn)
    for embedding in (
        Embedding(images.astype(np.float32), title.astype(np.float32)),
        Embedding(images.astype(np.float32)),
        Embedding(np.zeros((0, 3), np.float32), title.astype(np.float32)),
        Embedding(images.astype(np.float32), np.zeros(5, np.float32)),  # a tower that found nothing to count
        Embedding(images.astype(np.float16).astype(np.float32), title.astype(np.float16).astype(np.float32)),
    ):
        rows, flags = fusion.fuse(embedding)
        assert fusion.sound(rows, flags).all()
    rows, flags = fusion.fuse(Embedding(images.astype(np.float32)))
    for wrong in (np.nan, np.inf, 1e30, -1.0):
        for column in range(8):
            changed = rows.copy()
            changed[2, column] = wrong
            assert fusion.sound(changed, flags).tolist() == [True, True, False, True]
