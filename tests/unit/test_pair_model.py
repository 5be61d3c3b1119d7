"""The pair model on pairs whose truth is known, and on what it must not learn."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from app.core.judging import PairSpec
from app.core.metrics import calibration_error
from app.core.pairs import FEATURES
from app.core.product import Floats
from app.errors import DimensionMismatch, InvalidListings
from app.evaluation.evidence import Table, some
from app.pair_model import PairModel
from app.training.pair_model import FALLING, FILES, FITS, RISING, fit_pair_model, measure_pairs, without_context
from tests.evidence import EACH, fitted, small_model, synthetic, truth

Doubles = NDArray[np.float64]
Flags = NDArray[np.bool_]


@pytest.fixture(scope="module")
def fresh() -> Table:
    return synthetic(400, seed=2)[0]


def area(opinion: Doubles, same: Flags) -> float:
    """How often a true pair gets a higher opinion than a false one; equal ones count half."""
    yes, no = opinion[same][:, None], opinion[~same][None, :]
    return float((yes > no).mean() + (yes == no).mean() / 2)


def test_probabilities_hold_on_fresh_pairs(fresh: Table) -> None:
    found = small_model().probability(fresh.evidence)
    assert calibration_error(found, fresh.same) <= 0.05
    assert np.abs(found - truth(fresh.evidence)).mean() <= 0.06
    assert calibration_error(fitted().probability, synthetic(150, seed=1)[0].same) <= 0.03


def test_probabilities_hold_for_two_products_alone(fresh: Table) -> None:
    lonely = without_context(fresh.evidence)
    assert calibration_error(small_model().probability(lonely), fresh.same) <= 0.05
    assert area(small_model().probability(lonely), fresh.same) < area(small_model().probability(fresh.evidence), fresh.same)


def test_precisions_that_are_promised_are_kept(fresh: Table) -> None:
    found, spec = small_model().probability(fresh.evidence), fitted().spec
    promised = [wanted for wanted, _ in spec.precision if wanted <= 0.95]
    assert promised[-1] == 0.95
    for wanted in promised:
        assert fresh.same[found >= spec.bound_for(wanted)].mean() >= wanted - 0.04


def test_precisions_were_reached_where_they_were_fitted() -> None:
    table, _ = synthetic(150, seed=1)
    for wanted, bound in fitted().spec.precision:
        assert table.same[fitted().probability >= bound].mean() >= wanted


def test_bounds_are_those_that_decide_best(fresh: Table) -> None:
    spec, found = fitted().spec, small_model().probability(fresh.evidence)

    def f1(bound: float) -> float:
        return float(2 * (fresh.same & (found >= bound)).sum() / ((found >= bound).sum() + fresh.same.sum()))

    assert f1(spec.match) >= max(f1(bound) for bound in np.arange(0.05, 0.95, 0.05)) - 0.02
    assert (found[fresh.same] >= spec.review).mean() == pytest.approx(0.98, abs=0.015)
    assert spec.review <= spec.match
    assert (spec.weights, spec.features) == (FILES, FEATURES)


def test_measured_pairs_by_hand() -> None:
    spec = fitted().spec.model_copy(update={"precision": ((0.5, 0.3), (0.95, 0.7)), "match": 0.5})
    found = measure_pairs(np.array([0.9, 0.8, 0.6, 0.2]), np.array([True, False, True, True]), spec)
    assert (found.pairs, found.same) == (4, 3)
    assert found.precision_at_95 == 1 / 2
    assert np.isnan(found.precision_at_99)  # not promised
    assert [found.match_precision, found.match_recall] == pytest.approx([2 / 3, 2 / 3])
    nothing = measure_pairs(np.array([0.1, 0.2]), np.array([False, False]), spec)
    assert np.isnan([nothing.precision_at_95, nothing.match_precision, nothing.match_recall]).all()


@pytest.mark.parametrize("name", ["title", "image", "blended_2"])
def test_more_of_what_speaks_for_a_pair_never_speaks_against_it(name: str, fresh: Table) -> None:
    rows = fresh.evidence[:50]
    grid = np.linspace(-0.5, 1.5, 41)
    for row in (*rows, *without_context(rows)):
        steps = np.repeat(row[None], len(grid), axis=0)
        steps[:, FEATURES.index(name)] = grid
        assert (np.diff(small_model().probability(steps)) >= 0).all()


def test_what_rises_and_falls_is_evidence() -> None:
    assert set(FEATURES) >= RISING | FALLING
    assert not RISING & FALLING


def memorable(labels: NDArray[np.int64], pairs: NDArray[np.int64], key: NDArray[np.int64]) -> Table:
    """Pairs whose truth is a coin for each key; the key is all that is known of them, besides noise."""
    random = np.random.default_rng(3)
    numbers = random.permutation(int(key.max()) + 1)
    values = np.full((len(key), len(FEATURES)), np.nan, np.float32)
    values[:, FEATURES.index("rank")] = 1
    values[:, FEATURES.index("shorter")] = numbers[key]
    values[:, FEATURES.index("edit")] = random.normal(size=len(key))
    coin = random.permutation(np.arange(len(numbers)) % 2 == 0)
    return Table(pairs[0], pairs[1], values, coin[key])


def by_asker(groups: int, each: int) -> tuple[Table, NDArray[np.int64]]:
    """The key is the group; all pairs stand within a group."""
    labels = np.repeat(np.arange(groups), each)
    pairs = np.array([(a, b) for a in range(len(labels)) for b in range(len(labels)) if a != b and labels[a] == labels[b]]).T
    return memorable(labels, pairs, labels[pairs[0]]), labels


def by_both(groups: int, each: int) -> tuple[Table, NDArray[np.int64]]:
    """The key is that of two groups: whoever saw the pair the other way around knows the answer."""
    labels = np.repeat(np.arange(groups), each)
    ends = [(a, b) for a in range(len(labels)) for b in range(len(labels)) if labels[a] // 2 == labels[b] // 2]
    pairs = np.array(sorted((a, b) for a, b in ends if labels[a] != labels[b])).T
    return memorable(labels, pairs, labels[pairs[0]] // 2), labels


def test_no_tree_judges_a_group_that_it_has_seen() -> None:
    table, labels = by_asker(groups=60, each=8)
    found = fit_pair_model(table, labels, rounds=100)
    final = PairModel(found.spec, found.texts)
    assert area(final.raw(table.evidence, "context"), table.same) > 0.9  # the identity of a group can be learned
    assert 0.3 < area(found.probability, table.same) < 0.7  # and did not help where it was held out


def test_nor_one_that_it_has_seen_from_the_other_side() -> None:
    table, labels = by_both(groups=120, each=5)
    found = fit_pair_model(table, labels, rounds=100)
    assert area(PairModel(found.spec, found.texts).raw(table.evidence, "context"), table.same) > 0.9
    assert 0.3 < area(found.probability, table.same) < 0.7


@pytest.mark.parametrize("groups", [0, 8])
def test_too_few_pairs_are_refused(groups: int) -> None:
    table, labels = synthetic(max(groups, 3), seed=0)
    kept = np.arange(len(table.same)) < groups * EACH * 3
    with pytest.raises(InvalidListings, match="50 candidate pairs of one group and 50 of two"):
        fit_pair_model(some(table, kept), labels)


def test_only_true_pairs_are_refused() -> None:
    table, labels = synthetic(30, seed=0)
    with pytest.raises(InvalidListings, match="there are 360 and 0"):
        fit_pair_model(some(table, table.same), labels)


def test_the_seed_decides() -> None:
    ticks: list[int] = []
    table, labels = synthetic(40, seed=5)
    one = fit_pair_model(table, labels, seed=1, tick=ticks.append, rounds=5)
    assert ticks == [1] * FITS
    again, other = (fit_pair_model(table, labels, seed=seed, rounds=5) for seed in (1, 2))
    assert (again.texts, again.spec) == (one.texts, one.spec)
    assert other.texts != one.texts


@pytest.mark.parametrize("text", ["", "garbage", "tree\nversion=v4\n"])
def test_what_is_no_model_is_refused(text: str) -> None:
    with pytest.raises(DimensionMismatch, match="no LightGBM model"):
        PairModel(fitted().spec, {**fitted().texts, "alone": text})


def test_trees_that_read_other_evidence_are_refused() -> None:
    names = f"feature_names={' '.join(FEATURES)}\n"
    assert names in fitted().texts["context"]
    swapped = (
        fitted().texts["context"].replace(names, f"feature_names={' '.join((FEATURES[1], FEATURES[0], *FEATURES[2:]))}\n")
    )
    with pytest.raises(DimensionMismatch, match="other evidence"):
        PairModel(fitted().spec, {**fitted().texts, "context": swapped})


def test_pairs_without_context_are_calibrated_by_themselves(fresh: Table) -> None:
    values = {"context": {"slope": 1e-9, "offset": math.log(9)}, "alone": {"slope": 1e-9, "offset": -math.log(9)}}
    spec = PairSpec.model_validate({**fitted().spec.model_dump(), "calibration": values})
    model = PairModel(spec, fitted().texts)
    mixed: Floats = np.concatenate([fresh.evidence[:2], without_context(fresh.evidence[:2])])
    assert model.probability(mixed) == pytest.approx([0.9, 0.9, 0.1, 0.1])
    assert model.probability(mixed[:0]).shape == (0,)


def test_a_model_comes_from_its_bundle(fresh: Table, tmp_path: Path) -> None:
    fitted().write(tmp_path)
    found = PairModel.load(fitted().spec, tmp_path).probability(fresh.evidence[:20])
    assert found.tolist() == small_model().probability(fresh.evidence[:20]).tolist()
