"""The same listings among fewer others: what a probability is worth in a small catalog."""

from __future__ import annotations

import numpy as np
import pytest

from app.core.decision import Thresholds
from app.core.pairs import FEATURES
from app.training import labelled_features
from app.training.labelled_features import LabelledFeatures, PairEvidence
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
    given = PairEvidence(data.candidate_pairs(ONE, lambda _: None).table, data.labels, small)
    both = given.and_also(given)
    assert len(both.labels) == 240
    assert len(np.unique(both.labels)) == 80
    assert set(both.table.rows.tolist()) == set(range(240))
    assert {int(row) for table in both.more[len(small) :] for row in table.rows} == set(range(120, 240))


def test_more_pairs_move_trees_and_calibration_and_leave_the_pairs_that_are_judged() -> None:
    table, labels = synthetic(120, seed=3)
    plain = fit_pair_model(table, labels, rounds=40)
    more = fit_pair_model(table, labels, [table], rounds=40)
    assert len(more.probability) == len(plain.probability) == len(table.same)
    assert more.texts["context"] != plain.texts["context"]
    assert more.spec.calibration["context"] != plain.spec.calibration["context"]
    assert (more.texts["alone"], more.spec.calibration["alone"]) == (plain.texts["alone"], plain.spec.calibration["alone"])
