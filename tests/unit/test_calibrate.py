from __future__ import annotations

import itertools

import numpy as np
import pytest

from app.core.decision import Thresholds
from app.core.fusion import HAS_BOTH, HAS_IMAGE, HAS_TITLE, Fusion
from app.core.product import Floats
from app.errors import InvalidImage, InvalidListings
from app.labelled.listings import Item
from app.listings import BadRow, PhotoRef
from app.training.calibrate import Labelled, Point, fit_thresholds, measure, thresholds_of
from app.training.labelled_features import embed_labelled
from tests.fakes import FUSION, FakeEncoder, colour_vector, letter_vector, photo

IMAGES = Fusion(weight=1, image_dim=40, title_dim=0)


def pairs(count: int, inside: float, dim: int = 40) -> tuple[Floats, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Pairs with the cosine `inside`, every pair orthogonal to every other: 2 rows in 2 dimensions of its own."""
    rows = np.zeros((2 * count, dim), np.float32)
    for n in range(count):
        rows[2 * n, 2 * n] = 1
        rows[2 * n + 1, 2 * n : 2 * n + 2] = inside, np.sqrt(1 - inside**2)
    return rows, np.repeat(np.arange(count), 2)


def crowd(groups: int, seed: int = 0) -> Labelled:
    """Pairs in 12 random dimensions: the more of them, the more strangers look alike."""
    rng = np.random.default_rng(seed)
    centres = np.repeat(rng.normal(size=(groups, 12)), 2, axis=0)
    rows = centres + 0.35 * rng.normal(size=centres.shape)
    unit = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return Labelled(unit, np.full(len(unit), HAS_IMAGE, np.uint8), np.repeat(np.arange(groups), 2))


def only(points: list[Point], modality: str) -> list[Point]:
    return [point for point in points if point.modality == modality]


# -- fitting --------------------------------------------------------------------------------------------------


def test_the_threshold_lies_in_the_middle_of_the_gap() -> None:
    rows, groups = pairs(30, inside=0.6, dim=60)
    fusion = Fusion(weight=1, image_dim=60, title_dim=0)
    (point,) = fit_thresholds(Labelled(rows, np.full(60, HAS_IMAGE, np.uint8), groups), fusion)
    assert point == Point("image", 60, point.threshold, 1, 1, 1, 1)
    assert point.threshold == pytest.approx(0.3, abs=0.006)


def test_the_parts_of_a_fused_row_are_fitted_as_cosines_of_their_own() -> None:
    images, groups = pairs(30, inside=0.8, dim=60)
    titles, _ = pairs(30, inside=0.4, dim=60)
    fusion = Fusion(weight=0.25, image_dim=60, title_dim=60)
    rows = np.concatenate([0.5 * images, np.sqrt(0.75) * titles], axis=1).astype(np.float32)
    points = fit_thresholds(Labelled(rows, np.full(60, HAS_BOTH, np.uint8), groups), fusion)
    middles = {point.modality: point.threshold for point in points}
    assert middles == pytest.approx(
        {"fused": 0.25, "image": 0.4, "title": 0.2}, abs=0.006
    )  # fused: (.25 * .8 + .75 * .4) / 2


def test_only_rows_with_the_modality_count() -> None:
    rows, groups = pairs(60, inside=0.6, dim=120)
    fused = np.concatenate([np.sqrt(0.5) * rows, np.sqrt(0.5) * rows], axis=1).astype(np.float32)
    flags = np.full(120, HAS_BOTH, np.uint8)
    flags[:60] = HAS_IMAGE
    fused[:60, 120:] = 0
    points = fit_thresholds(Labelled(fused, flags, groups), Fusion(0.5, 120, 120))
    assert [(point.modality, point.gallery) for point in points] == [
        ("fused", 60), ("image", 100), ("image", 120), ("title", 60),
    ]  # fmt: skip


def test_thresholds_rise_with_the_gallery() -> None:
    points = fit_thresholds(crowd(1000), Fusion(1, 12, 0))
    assert [point.gallery for point in points] == [100, 300, 1000, 2000]
    assert points[-1].threshold > points[0].threshold + 0.01
    assert points[-1].f1 < points[0].f1
    thresholds = thresholds_of(points)
    assert thresholds.at("image", 2000) == points[-1].threshold
    assert thresholds.at("image", 50) < thresholds.at("image", 1500) <= thresholds.at("image", 10**6)


def test_more_listings_make_one_larger_gallery() -> None:
    data, strangers = crowd(60), crowd(200, seed=1)
    plain = fit_thresholds(data, Fusion(weight=1, image_dim=12, title_dim=0))
    found = fit_thresholds(data, Fusion(weight=1, image_dim=12, title_dim=0), more=strangers)
    assert found[:-1] == plain
    assert found[-1].gallery == 520
    assert found[-1].threshold > plain[-1].threshold


def test_more_listings_of_another_modality_make_none() -> None:
    data, strangers = crowd(60), crowd(200, seed=1)
    other = Labelled(strangers.rows, np.full(len(strangers.groups), HAS_TITLE, np.uint8), strangers.groups)
    fusion = Fusion(weight=1, image_dim=12, title_dim=0)
    assert fit_thresholds(data, fusion, more=other) == fit_thresholds(data, fusion)


def test_fitting_is_repeatable() -> None:
    data = crowd(120)
    assert fit_thresholds(data, Fusion(1, 12, 0), seed=3) == fit_thresholds(data, Fusion(1, 12, 0), seed=3)


def test_too_few_rows_are_refused() -> None:
    rows, groups = pairs(20, inside=0.6)
    with pytest.raises(InvalidListings, match="at least 50"):
        fit_thresholds(Labelled(rows, np.full(40, HAS_IMAGE, np.uint8), groups), IMAGES)


def test_fitted_thresholds_never_fall() -> None:
    points = [
        Point("image", size, threshold, 1, 1, 1, 1)
        for size, threshold in ((100, 0.5), (300, 0.4), (1000, 0.6), (3000, 0.55))
    ] + [Point("title", 100, 0.2, 1, 1, 1, 1)]
    thresholds = thresholds_of(points)
    assert thresholds.points == {"image": [(100, 0.5), (300, 0.5), (1000, 0.6), (3000, 0.6)], "title": [(100, 0.2)]}
    at = [thresholds.at("image", size) for size in range(1, 5000, 50)]
    assert all(low <= high for low, high in itertools.pairwise(at))


# -- measuring ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("threshold", "precision", "recall", "f1"), [(0.5, 1, 1, 1), (0.7, 1, 0.5, 2 / 3), (-1.0, 0.05, 1, 4 / 42)]
)
def test_measuring_can_be_checked_by_hand(threshold: float, precision: float, recall: float, f1: float) -> None:
    rows, groups = pairs(20, inside=0.6)
    data = Labelled(rows, np.full(40, HAS_IMAGE, np.uint8), groups)
    (point,) = measure(data, IMAGES, Thresholds({"image": [(1, threshold)]}))
    assert (point.modality, point.gallery, point.threshold) == ("image", 40, threshold)
    assert (point.precision, point.recall, point.f1) == pytest.approx((precision, recall, f1))


def test_the_threshold_of_the_gallery_that_is_measured_applies() -> None:
    rows, groups = pairs(20, inside=0.6)
    data = Labelled(rows, np.full(40, HAS_IMAGE, np.uint8), groups)
    (point,) = measure(data, IMAGES, Thresholds({"image": [(10, 0.4), (160, 0.6)]}))
    assert point.threshold == 0.5


def test_a_modality_without_rows_is_not_measured() -> None:
    rows, groups = pairs(20, inside=0.6)
    data = Labelled(rows, np.full(40, HAS_IMAGE, np.uint8), groups)
    assert measure(data, IMAGES, Thresholds({"title": [(1, 0.5)]})) == []


# -- embedding ------------------------------------------------------------------------------------------------


def item(row: int, title: str | None, photo: bytes | None, group: str | None) -> Item:
    return Item(row, f"id {row}", group, title, None if photo is None else PhotoRef(photo))


def embedded(items: list[Item]) -> tuple[Labelled, list[BadRow]]:
    data, bad = embed_labelled(items, FakeEncoder(), FUSION, lambda _: None)
    return data.labelled(), bad


def test_listings_with_a_group_and_a_vector_are_kept() -> None:
    red, blue = photo((255, 0, 0)), photo((0, 0, 255))
    data, bad = embedded(
        [
            item(1, "abba", red, "g1"),
            item(2, None, blue, "g2"),
            item(3, "cab", None, "g1"),
            item(4, "no group", None, None),
            item(5, "x", b"no photo", "g2"),
            item(6, None, None, "g2"),
        ]
    )
    assert data.flags.tolist() == [HAS_BOTH, HAS_IMAGE, HAS_TITLE]
    assert data.groups.tolist() == [0, 1, 0]
    expected = np.concatenate([0.6 * colour_vector(FakeEncoder().read_photo(red)[1]), 0.8 * letter_vector("abba")])
    np.testing.assert_allclose(data.rows[0], expected, atol=1e-6)
    assert [(row.row, row.id, type(row.error)) for row in bad] == [(5, "id 5", InvalidImage)]


def test_more_listings_than_a_chunk_stay_in_order() -> None:
    data, bad = embedded([item(n, "abcdefgh"[n % 8], None, str(n % 8)) for n in range(600)])
    assert bad == []
    np.testing.assert_array_equal(data.groups, np.arange(600) % 8)
    np.testing.assert_array_equal(data.rows[:, 3:].argmax(axis=1), np.arange(600) % 8)


def test_listings_without_groups_are_refused() -> None:
    with pytest.raises(InvalidListings, match="no row has a group"):
        embedded([item(1, "x", None, None)])


def test_the_two_criteria_differ() -> None:
    data = crowd(300)
    fusion = Fusion(weight=1, image_dim=data.rows.shape[1], title_dim=0)
    careful, plain = (fit_thresholds(data, fusion, criterion) for criterion in ("decision", "f1"))
    assert [point.threshold for point in careful] != [point.threshold for point in plain]
    assert all(one.decision >= other.decision for one, other in zip(careful, plain, strict=True))
    assert all(one.f1 <= other.f1 for one, other in zip(careful, plain, strict=True))
