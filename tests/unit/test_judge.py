"""The judge at work: rules that make matches, their order, reasons and decisions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.answer import Answer
from app.core.neighbourhood import Ground, Members
from app.core.pairs import CONTEXT, evidence
from app.core.reasons import AGAINST
from app.errors import InvalidInput
from app.judge import Judge, Rule, _explained
from tests.evidence import BOUNDS, TWO_TOWERS, fitted, small_model
from tests.shelf import BITS, GALLERY, THRESHOLDS, Shelf, flat

CLEAR = [(0.95, 0.95), (0.9, 0.9), (0.8, 0.8), (0.5, 0.5), (0.2, 0.2), (0.0, 0.1)]


def ids(answer: Answer) -> list[str]:
    return [match.product.id for match in answer.matches]


def test_the_threshold_makes_matches_and_the_model_explains_them() -> None:
    shelf = Shelf(CLEAR)
    before, after = shelf.answer(), shelf.judged()
    assert ids(after) == ids(before) == ["p0", "p1", "p2"]
    assert (after.total, after.exact, after.rule, after.bound) == (before.total, True, "threshold", 0.53)
    assert after.candidates == ()
    assert all(match.probability is not None and match.decision and match.reasons for match in after.matches)
    assert [match.score for match in after.matches] == [match.score for match in before.matches]


def test_probabilities_are_those_of_the_model() -> None:
    shelf = Shelf(CLEAR, [None, BITS, BITS ^ 0b111, None, None, BITS ^ 1])
    fused, flags = TWO_TOWERS.fuse(shelf.query.embedding)
    phashes = [BITS, *(one.match.product.photos[0].phash for one in shelf.candidates)]
    members = Members(
        np.stack([fused[0], *(one.vector for one in shelf.candidates)]),
        np.array([flags[0], *(one.flags for one in shelf.candidates)], np.uint8),
        [shelf.query.title, *(one.match.product.title for one in shelf.candidates)],
        np.array([value or 0 for value in phashes], np.uint64), np.array([value is not None for value in phashes]),
    )  # fmt: skip
    wanted = small_model().probability(evidence(members, Ground(TWO_TOWERS, BOUNDS, GALLERY)))
    expected = {one.match.product.id: p for one, p in zip(shelf.candidates, wanted.tolist(), strict=True)}
    found = shelf.judged(Rule(min_probability=0.0)).matches
    assert len(found) == len(CLEAR)
    for match in found:
        assert match.probability == pytest.approx(expected[match.product.id], abs=5.1e-5)
        assert match.decision == fitted().spec.decide(match.probability or 0.0)


def test_the_nearest_photo_of_a_product_counts() -> None:
    shelf = Shelf([(0.9, 0.9)], [~BITS & 2**64 - 1])
    one = shelf.candidates[0]
    far = one.match.product.photos[0]
    assert "same_photo" not in [reason.code for reason in shelf.judged().matches[0].reasons]
    for more in (replace(far, phash=BITS ^ 1), replace(far, phash=None)):
        product = replace(one.match.product, photos=(far, more))
        shelf.candidates[0] = replace(one, match=replace(one.match, product=product))
        codes = [reason.code for reason in shelf.judged().matches[0].reasons]
        assert ("same_photo" in codes) == (more.phash is not None)


def test_a_smallest_probability_makes_matches_the_likeliest_first() -> None:
    shelf = Shelf(CLEAR)
    everyone = shelf.judged(Rule(min_probability=0.0))
    chances = [match.probability or 0.0 for match in everyone.matches]
    assert chances == sorted(chances, reverse=True)
    assert sorted(ids(everyone)) == [f"p{n}" for n in range(len(CLEAR))]
    bound = chances[2]
    some = shelf.judged(Rule(min_probability=bound))  # inclusive
    assert ids(some) == ids(everyone)[: sum(chance >= bound for chance in chances)]
    assert (some.total, some.rule, some.bound, some.threshold) == (len(ids(some)), "min_probability", bound, 0.53)
    assert ids(shelf.judged(Rule(min_probability=1.0), flat(0.9))) == []


@settings(max_examples=40)
@given(probability=st.floats(0, 1), off=st.floats(-2e-4, 2e-4))
def test_an_answer_never_contradicts_its_own_rule(probability: float, off: float) -> None:
    shelf, model = Shelf(CLEAR[:2]), flat(probability)
    shown = {match.probability for match in shelf.judged(model=model).matches}
    assert len(shown) == 1
    (chance,) = (one or 0.0 for one in shown)
    bound = min(1.0, max(0.0, probability + off))
    for least in (chance, bound):
        found = shelf.judged(Rule(min_probability=least), model)
        assert (len(found.matches), found.total) == ((2, 2) if chance >= least else (0, 0))
        assert {match.probability for match in found.matches} <= shown
        decided = shelf.judged(Rule(decisions={"match": least, "review": 0.0}), model).matches
        assert {match.decision for match in decided} == {"match" if chance >= least else "review"}


@pytest.mark.parametrize(("probability", "least", "matches"), [(0.69996, 0.7, 2), (0.70004, 0.70003, 0), (0.70004, 0.7, 2)])
def test_the_shown_probability_is_the_one_that_rules_compare(probability: float, least: float, matches: int) -> None:
    found = Shelf(CLEAR[:2]).judged(Rule(min_probability=least), flat(probability))
    assert len(found.matches) == matches


def test_a_precision_is_turned_into_its_probability() -> None:
    shelf = Shelf(CLEAR)
    bound = fitted().spec.bound_for(0.9)
    found = shelf.judged(Rule(target_precision=0.9))
    assert (found.rule, found.bound) == ("target_precision", bound)
    assert ids(found) == ids(shelf.judged(Rule(min_probability=bound)))
    assert ids(found)
    with pytest.raises(InvalidInput, match="reaches a precision of"):
        shelf.judged(Rule(target_precision=0.99999))


def test_equally_likely_products_keep_the_order_of_their_scores() -> None:
    shelf = Shelf(CLEAR)
    found = shelf.judged(Rule(min_probability=0.5), flat(0.7))
    assert ids(found) == [one.match.product.id for one in shelf.candidates]


def test_the_limit_cuts_and_the_total_tells() -> None:
    shelf = Shelf(CLEAR)
    shelf.query = replace(shelf.query, limit=2)
    found = shelf.judged(Rule(min_probability=0.0))
    assert (len(found.matches), found.total, found.truncated) == (2, len(CLEAR), True)


def test_an_answer_is_exact_if_what_was_not_judged_cannot_match() -> None:
    few, full = Shelf(CLEAR), Shelf([(0.9, 0.9)] * CONTEXT)
    assert few.judged(Rule(min_probability=0.0)).exact  # the catalog has no more
    assert not full.judged(Rule(min_probability=0.5), flat(0.7)).exact  # the next one might match as well
    assert full.judged(Rule(min_probability=0.8), flat(0.7)).exact
    assert full.judged(Rule(), flat(0.7)).exact  # by the threshold, nothing changes
    judge, rule = Judge(TWO_TOWERS, THRESHOLDS, small_model()), Rule(min_probability=0.0)
    assert not judge.judge(few.query, replace(few.answer(), exact=False), rule).exact  # an approximate index


@pytest.mark.parametrize(("unseen", "exact"), [(-np.inf, True), (0.0, True), (0.49, True), (0.51, False), (1.0, False)])
def test_what_may_score_more_than_the_last_candidate_below_the_bound_may_match(unseen: float, exact: bool) -> None:
    shelf = Shelf(CLEAR)
    judge = Judge(TWO_TOWERS, THRESHOLDS, small_model())
    chances = [match.probability or 0.0 for match in shelf.judged(Rule(min_probability=0.0)).matches]
    rule = Rule(min_probability=(chances[2] + chances[3]) / 2)  # between the scores .8 and .5
    assert judge.judge(shelf.query, replace(shelf.answer(), unseen=unseen), rule).exact == exact


def test_no_candidates_no_matches() -> None:
    shelf = Shelf([])
    assert shelf.judged(Rule(min_probability=0.0)).matches == ()
    assert shelf.judged().matches == ()


def test_a_probability_against_the_order_of_scores_is_explained() -> None:
    cosines = np.random.default_rng(1).uniform(0.2, 0.95, (12, 2))
    best = Shelf([(float(image), float(title)) for image, title in cosines])
    found = {match.product.id: match for match in best.judged(Rule(min_probability=0.0)).matches}
    by_score = sorted(found.values(), key=lambda match: -match.score)
    below = 0.0
    explained = 0
    for match in reversed(by_score):
        codes = [reason.code for reason in match.reasons]
        contradicts = (match.probability or 0.0) < below
        others = [code for code in codes if code in AGAINST]
        assert ("weaker_evidence" in codes) == (contradicts and not others)
        assert not contradicts or others or "weaker_evidence" in codes
        explained += contradicts
        below = max(below, match.probability or 0.0)
    assert explained


def test_evidence_that_is_weaker_without_a_reason_is_called_so() -> None:
    shelf = Shelf([(0.94, 0.46), (0.65, 0.62)])
    found = {match.product.id: match for match in shelf.judged(Rule(min_probability=0.0)).matches}
    upper, lower = sorted(found.values(), key=lambda match: -match.score)
    assert (upper.probability or 0) < (lower.probability or 0)
    assert upper.reasons[-1].code == "weaker_evidence"
    assert "weaker_evidence" not in [reason.code for reason in lower.reasons]


def test_any_product_with_a_lower_score_counts_not_just_the_next() -> None:
    matches = [one.match for one in Shelf([(0.9, 0.9), (0.8, 0.8), (0.7, 0.7)]).candidates]
    found = _explained([replace(one, probability=p) for one, p in zip(matches, (0.6, 0.5, 0.7), strict=True)])
    assert [[reason.code for reason in one.reasons] for one in found] == [["weaker_evidence"], ["weaker_evidence"], []]
    assert [one.product.id for one in found] == ["p0", "p1", "p2"]


def test_by_the_threshold_nothing_is_judged_where_nothing_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf([(0.1, 0.1)] * 5)
    monkeypatch.setattr("app.judge.evidence", lambda *_: pytest.fail("evidence was looked for"))
    found = shelf.judged()
    assert found == replace(shelf.answer(), candidates=())
    assert (found.matches, found.total) == ((), 0)


def test_decisions_have_their_own_bounds() -> None:
    shelf = Shelf(CLEAR)
    found = shelf.judged(Rule(decisions={"match": 0.8, "review": 0.7}), flat(0.75))
    assert {match.decision for match in found.matches} == {"review"}
    assert {match.decision for match in shelf.judged(Rule(decisions={"match": 0.75}), flat(0.75)).matches} == {"match"}


def test_without_a_model_the_answer_stays_as_it_is() -> None:
    judge, shelf = Judge(TWO_TOWERS, THRESHOLDS, None), Shelf(CLEAR)
    answer = shelf.answer()
    assert judge.judge(shelf.query, answer, Rule()) is answer
    assert (judge.context, Judge(TWO_TOWERS, THRESHOLDS, small_model()).context) == (0, CONTEXT)
    for rule in (Rule(min_probability=0.5), Rule(target_precision=0.9)):
        with pytest.raises(InvalidInput, match=f"{rule.name} needs a bundle with a pair model"):
            judge.judge(shelf.query, answer, rule)
