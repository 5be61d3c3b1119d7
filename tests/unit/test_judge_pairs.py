"""Two products compared, and rules that contradict themselves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.core.product import Embedding
from app.errors import InvalidInput
from app.judge import Judge, ProductSide, Rule, check_rule
from tests.evidence import TWO_TOWERS, small_model
from tests.shelf import BITS, THRESHOLDS, flat, sides


def test_two_products_are_judged_by_themselves() -> None:
    judge = Judge(TWO_TOWERS, THRESHOLDS, small_model())
    alike, apart = judge.compare(*sides(0.95, 0.9)), judge.compare(*sides(0.1, 0.2))
    assert [alike.score, alike.image_score, alike.title_score] == pytest.approx(
        [0.4 * 0.95 + 0.6 * 0.9, 0.95, 0.9], abs=1e-5
    )
    assert (alike.decision, apart.decision) == ("match", "no-match")
    assert (alike.probability or 0) > 0.8 > 0.2 > (apart.probability or 0)
    assert [reason.code for reason in alike.reasons] == ["photos_alike", "titles_alike"]
    assert [reason.code for reason in apart.reasons] == ["photos_differ", "titles_differ"]


def test_comparing_has_no_first_side() -> None:
    judge = Judge(TWO_TOWERS, THRESHOLDS, small_model())
    for image, title, phash in ((0.7, 0.6, BITS ^ 3), (None, 0.6, None), (0.8, None, None)):
        left, right = sides(image, title, phash)
        there, back = judge.compare(left, right), judge.compare(right, left)
        assert (there.probability, there.decision) == (back.probability, back.decision)
        assert there.score == pytest.approx(back.score, abs=1e-6)


def test_without_a_model_two_products_are_compared_by_the_threshold() -> None:
    judge = Judge(TWO_TOWERS, THRESHOLDS, None)
    above, below = judge.compare(*sides(0.54, 0.54)), judge.compare(*sides(0.52, 0.52))
    assert (above.probability, above.decision) == (None, "match")
    assert (below.probability, below.decision) == (None, "no-match")
    assert judge.compare(*sides(0.52, 0.52, BITS)).decision == "match"  # the same photo raises the score
    assert judge.compare(*sides(0.62, None)).decision == "match"
    assert judge.compare(*sides(0.6, None)).decision == "no-match"


@pytest.mark.parametrize("model", [True, False])
@pytest.mark.parametrize(("titles", "decision"), [
    (("madu 500 g", "madu 1 kg"), "review"), (("madu 500 g", "madu 0.5 kg"), "match"), (("madu 500 g", "madu"), "match"),
])  # fmt: skip
def test_amounts_that_contradict_each_other_are_never_a_match(model: bool, titles: tuple[str, str], decision: str) -> None:
    judge = Judge(TWO_TOWERS, THRESHOLDS, flat(0.9) if model else None)
    left, right = (replace(side, title=title) for side, title in zip(sides(0.9, 0.9), titles, strict=True))
    assert judge.compare(left, right).decision == decision
    none = Judge(TWO_TOWERS, THRESHOLDS, flat(0.0) if model else None)
    left, right = (replace(side, title=title) for side, title in zip(sides(0.1, 0.1), titles, strict=True))
    assert none.compare(left, right).decision == "no-match"


@pytest.mark.parametrize("model", [True, False])
def test_sides_that_share_nothing_do_not_match(model: bool) -> None:
    judge = Judge(TWO_TOWERS, THRESHOLDS, small_model() if model else None)
    left, right = sides(0.9, None)
    only_title = ProductSide(Embedding(left.embedding.images[:0], left.embedding.title), left.title, None)
    found = judge.compare(only_title, right)
    assert (found.score, found.image_score, found.title_score) == (None, None, None)
    assert (found.probability, found.decision) == (0.0 if model else None, "no-match")
    assert [reason.code for reason in found.reasons] == ["no_photo", "no_title"]


def test_decisions_about_two_products_have_their_own_bounds() -> None:
    judge = Judge(TWO_TOWERS, THRESHOLDS, flat(0.75))
    assert judge.compare(*sides(0.9, 0.9), {"match": 0.8, "review": 0.7}).decision == "review"
    assert judge.compare(*sides(0.9, 0.9), {"match": 0.75}).decision == "match"


@pytest.mark.parametrize(
    ("rule", "threshold", "says"),
    [
        (Rule(min_probability=0.5), 0.5, "three rules"),
        (Rule(target_precision=0.9), 0.5, "three rules"),
        (Rule(min_probability=0.5, target_precision=0.9), None, "three rules"),
        (Rule(min_probability=-0.1), None, r"min_probability lies in \[0, 1\]"),
        (Rule(min_probability=1.1), None, r"min_probability lies in \[0, 1\]"),
        (Rule(min_probability=float("nan")), None, r"min_probability lies in \[0, 1\]"),
        (Rule(target_precision=0.49), None, r"target_precision lies in \[0\.5, 1\)"),
        (Rule(target_precision=1.0), None, r"target_precision lies in \[0\.5, 1\)"),
        (Rule(decisions={"match": 1.5}), None, "match_from is a probability"),
        (Rule(decisions={"match": 0.5, "review": -1.0}), None, "review_from is a probability"),
    ],
)
def test_rules_that_contradict_themselves_are_refused(rule: Rule, threshold: float | None, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        check_rule(rule, threshold)


@pytest.mark.parametrize(
    ("rule", "threshold", "name"),
    [
        (Rule(), None, "threshold"),
        (Rule(), -1.0, "threshold"),
        (Rule(min_probability=0.0), None, "min_probability"),
        (Rule(min_probability=1.0, decisions={"match": 0.0, "review": 1.0}), None, "min_probability"),
        (Rule(target_precision=0.5), None, "target_precision"),
    ],
)
def test_other_rules_are_taken(rule: Rule, threshold: float | None, name: str) -> None:
    check_rule(rule, threshold)
    assert rule.name == name
