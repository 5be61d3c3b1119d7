"""The same listings among fewer others, and among more: what a probability is worth in small catalogs and in large ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from app.core.decision import Thresholds
from app.core.fusion import HAS_BOTH
from app.core.pairs import FEATURES
from app.evaluation.evidence import NOBODY, Table, moved_by
from app.training import labelled_features
from app.training.labelled_features import Distractors, LabelledFeatures
from app.training.pair_model import fit_pair_model
from tests.evidence import clusters, synthetic

ONE = Thresholds({name: [(1, 0.0)] for name in ("fused", "image", "title")})


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> LabelledFeatures:
    monkeypatch.setattr(labelled_features, "SMALLER", (12, 40, 1000))
    return LabelledFeatures(*clusters(groups=40, each=3, seed=2))


def test_every_listing_is_judged_once_for_each_size_that_fits(data: LabelledFeatures) -> None:
    tables = data.in_smaller_galleries(ONE)
    galleries = [10 ** float(table.evidence[0, FEATURES.index("log_gallery")]) for table in tables]
    assert sorted({round(size, -1) for size in galleries}) == [10, 40]  # 1,000 is more than there are
    small = [table for table, size in zip(tables, galleries, strict=True) if size < 20]
    asked = np.concatenate([np.unique(table.rows) for table in small])
    assert sorted(asked.tolist()) == list(range(120))


def test_candidates_come_from_the_same_gallery_and_groups_stay_whole(data: LabelledFeatures) -> None:
    for table in data.in_smaller_galleries(ONE):
        members = set(table.rows.tolist())
        assert set(table.others.tolist()) <= members
        assert (table.same == (data.labels[table.rows] == data.labels[table.others])).all()
        mates = {row: set(np.flatnonzero(data.labels == data.labels[row]).tolist()) for row in members}
        assert all(mate <= members for mate in mates.values())


def test_the_seed_deals(data: LabelledFeatures) -> None:
    one, again, other = (data.in_smaller_galleries(ONE, seed) for seed in (1, 1, 2))
    assert [table.rows.tolist() for table in one] == [table.rows.tolist() for table in again]
    assert [table.rows.tolist() for table in one] != [table.rows.tolist() for table in other]


def test_joined_evidence_keeps_listings_apart(data: LabelledFeatures) -> None:
    small = tuple(data.in_smaller_galleries(ONE))
    given = replace(data.candidate_pairs(ONE, lambda _: None), smaller=small)
    both = given.and_also(given)
    assert len(both.labels) == 240
    assert len(np.unique(both.labels)) == 80
    assert set(both.table.rows.tolist()) == set(range(240))
    assert {int(row) for table in both.smaller[len(small) :] for row in table.rows} == set(range(120, 240))


def test_more_pairs_move_trees_and_calibration_and_leave_the_pairs_that_are_judged() -> None:
    table, labels = synthetic(120, seed=3)
    plain = fit_pair_model(table, labels, rounds=40)
    more = fit_pair_model(table, labels, smaller=[table], rounds=40)
    assert len(more.probability) == len(plain.probability) == len(table.same)
    assert more.texts["context"] != plain.texts["context"]
    assert more.spec.calibration["context"] != plain.spec.calibration["context"]
    assert (more.texts["alone"], more.spec.calibration["alone"]) == (plain.texts["alone"], plain.spec.calibration["alone"])


@pytest.fixture
def strangers() -> Distractors:
    """Listings that are near to some of the others, and of none of their groups."""
    features, titles, _ = clusters(groups=60, each=2, seed=2)
    return Distractors(features, titles)


def test_every_listing_is_judged_once_more_among_all(data: LabelledFeatures, strangers: Distractors) -> None:
    table = data.in_larger_gallery(strangers, ONE, lambda _: None)
    assert np.unique(table.rows).tolist() == list(range(120))
    assert 10 ** table.evidence[:, FEATURES.index("log_gallery")] == pytest.approx(240)
    nobody = table.others == NOBODY
    assert nobody.any()
    assert not table.same[nobody].any()
    known = ~nobody
    assert table.others[known].max() < 120
    assert (table.same[known] == (data.labels[table.rows[known]] == data.labels[table.others[known]])).all()


def test_strangers_have_no_group_for_thresholds(strangers: Distractors) -> None:
    found = strangers.labelled()
    assert set(found.groups.tolist()) == {NOBODY}
    assert (found.flags == HAS_BOTH).all()
    assert len(found.rows) == 120


def test_nobody_stays_nobody_when_tables_are_joined(data: LabelledFeatures, strangers: Distractors) -> None:
    table = data.in_larger_gallery(strangers, ONE, lambda _: None)
    assert ((moved_by(table, 7).others == NOBODY) == (table.others == NOBODY)).all()
    given = replace(data.candidate_pairs(ONE, lambda _: None), larger=(table,))
    both = given.and_also(given)
    assert [int(one.rows.min()) for one in both.larger] == [0, 120]


def test_a_larger_gallery_moves_bounds_and_calibration_and_leaves_the_pairs_that_are_judged() -> None:
    table, labels = synthetic(120, seed=3)
    harder = Table(table.rows, np.where(table.same, table.others, NOBODY), table.evidence.copy(), table.same)
    harder.evidence[:, FEATURES.index("score")] += 0.3  # strangers that are as alike as matches were
    plain = fit_pair_model(table, labels, rounds=40)
    more = fit_pair_model(table, labels, larger=[harder], rounds=40)
    assert len(more.probability) == len(table.same)
    assert more.spec.calibration["context"] != plain.spec.calibration["context"]
    assert more.spec.precision != plain.spec.precision
    assert more.texts["alone"] == plain.texts["alone"]
