"""Probability, decision, reasons, and the rules that make matches: in every call that answers with matches."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.product import Prepared
from app.core.reasons import AGAINST
from app.matcher import Matcher, MatchOptions
from app.pair_model import PairModel
from tests.api.calls import ask, check_problem, csv_file, found, lines, photos, put, without_time, zip_file
from tests.judged import Made, listings, printed, store

MADE = listings(8, 2)  # other families than the model has seen
QUERIES = [one for one in MADE if one.id.endswith("-1")]  # photo and title, one of them, all are among these
STORED = [one for one in MADE if not one.id.endswith("-1")]
SHOWN = 5e-5  # probabilities are shown with four decimals
AGAINST_CODES = {*AGAINST, "weaker_evidence"}
MODES = ("match", "json", "manifest", "stored")
RULES: list[dict[str, Any]] = [{"min_probability": 0.2}, {"min_probability": 0.7, "limit": 2}, {"target_precision": 0.8}]
BAD_RULES = [
    *({"min_probability": value} for value in ("-0.1", "1.1", "nan", "inf", "much")),
    *({"target_precision": value} for value in ("0.4", "1", "nan", "-inf", "much")),
    *({name: value} for name in ("match_from", "review_from") for value in ("-0.1", "1.1", "nan", "much")),
]
TWO_RULES = [
    {"threshold": "0.5", "min_probability": "0.5"},
    {"threshold": "0.5", "target_precision": "0.9"},
    {"min_probability": "0.5", "target_precision": "0.9"},
    {"threshold": "0.5", "min_probability": "0.5", "target_precision": "0.9"},
]


@pytest.fixture
def shop(judging: Matcher, judged: TestClient) -> TestClient:
    """The service with a pair model and some products."""
    store(judging, STORED)
    return judged


@pytest.fixture
def plain_shop(matcher: Matcher, client: TestClient) -> TestClient:
    """The same products without a pair model."""
    store(matcher, STORED)
    return client


def answer_of(client: TestClient, made: Made, mode: str, **options: Any) -> dict[str, Any]:
    """Asks for a listing in one of the ways that there are; `stored` asks for the first product that is indexed."""
    sent = {name: str(value) for name, value in options.items()}
    if mode == "match":
        return dict(ask(client, made.title, made.photo, **sent).json())
    if mode == "stored":
        return dict(client.get(f"/catalog/{STORED[0].id}/matches", params=sent).json())
    if mode == "json":
        (line,) = lines(client.post("/match/batch", json={"items": [{"title": made.title}], **options}))
        return line
    files = {"manifest": csv_file("title,image", f"{made.title or ''},{'a.png' if made.photo else ''}")}
    if made.photo:
        files["photos"] = zip_file({"a.png": made.photo})
    (line,) = lines(client.post("/match/batch", data=sent, files=files))
    return line


def ids(answer: dict[str, Any]) -> list[str]:
    return [match["id"] for match in answer["matches"]]


def check_decision(match: dict[str, Any], by_probability: str) -> None:
    """The probability decides, but amounts that contradict each other make a review of a match."""
    conflict = {reason["code"] for reason in match["reasons"]} & {"quantities_conflict", "codes_conflict"}
    assert match["decision"] in ({by_probability, "review"} if conflict and by_probability == "match" else {by_probability})


def test_the_listings_ask_with_photo_and_title_and_with_one_of_them() -> None:
    assert {(one.title is None, one.photo is None) for one in QUERIES} == {(False, False), (True, False), (False, True)}


@pytest.mark.parametrize("made", QUERIES[::2], ids=lambda made: made.id)
def test_every_match_has_a_probability_a_decision_and_reasons(shop: TestClient, pair_model: PairModel, made: Made) -> None:
    answer = ask(shop, made.title, made.photo, threshold=0.3, limit=50).json()
    assert answer["total"] > 1
    for match in answer["matches"]:
        assert 0 <= match["probability"] <= 1
        check_decision(match, pair_model.spec.decide(match["probability"]))
        assert match["reasons"]
        assert all(reason["code"] and reason["text"] for reason in match["reasons"])
        missing = {reason["code"] for reason in match["reasons"]} & {"no_photo", "no_title"}
        lacks = {("image_score", "no_photo"), ("title_score", "no_title")}
        unknown = {code for name, code in lacks if match[name] is None}
        asked = {code for code, part in (("no_photo", made.photo), ("no_title", made.title)) if part is not None}
        assert unknown & asked <= missing <= unknown  # where both lack it, nothing is said


def test_the_model_tells_amounts_that_cosines_cannot_tell(shop: TestClient) -> None:
    asked = next(one for one in QUERIES if one.title and one.photo and one.group == "0-0")
    answer = ask(shop, asked.title, asked.photo, threshold=0.5, limit=50).json()
    own = [m["probability"] for m in answer["matches"] if m["attributes"]["group"] == "0-0" and m["title"]]
    other = [m for m in answer["matches"] if m["attributes"]["group"] == "0-1" and m["title"]]
    assert min(own) > max(match["probability"] for match in other)
    assert all("quantities_conflict" in [reason["code"] for reason in match["reasons"]] for match in other)


@pytest.mark.parametrize("options", [{}, {"threshold": -1, "limit": 5}, {"threshold": 0.6, "limit": 1000}], ids=str)
def test_the_threshold_makes_the_same_matches_in_the_same_order_as_without_a_pair_model(
    shop: TestClient, plain_shop: TestClient, options: dict[str, Any]
) -> None:
    judged_fields = ("probability", "decision", "reasons")
    for made in QUERIES:
        with_model, without = (ask(one, made.title, made.photo, **options).json() for one in (shop, plain_shop))
        assert (without["rule"], without["bound"]) == ("threshold", without["threshold"])
        assert without["total"] > 0
        for match in (*with_model["matches"], *without["matches"]):
            assert (match["probability"] is None) == (match not in with_model["matches"])
            for name in judged_fields:
                del match[name]
        assert without_time(with_model) == without_time(without)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("options", RULES, ids=str)
def test_a_rule_applies_and_is_named_whichever_way_it_comes(
    shop: TestClient, pair_model: PairModel, mode: str, options: dict[str, Any]
) -> None:
    answer = answer_of(shop, QUERIES[0], mode, **options)
    name, wanted = next(iter(options.items()))
    bound = wanted if name == "min_probability" else pair_model.spec.bound_for(wanted)
    assert (answer["rule"], answer["bound"]) == (name, bound)
    probabilities = [match["probability"] for match in answer["matches"]]
    assert probabilities
    assert probabilities == sorted(probabilities, reverse=True)
    assert all(one >= bound - SHOWN for one in probabilities)
    assert answer["total"] >= len(probabilities) == min(answer["total"], options.get("limit", 20))
    assert answer["truncated"] == (answer["total"] > len(probabilities))


def test_both_forms_of_a_batch_answer_like_the_single_call(shop: TestClient) -> None:
    for made in QUERIES[:6]:
        single = answer_of(shop, made, "match", min_probability=0.3)
        batched = answer_of(shop, made, "manifest", min_probability=0.3)
        assert {name: batched[name] for name in single if name != "took_ms"} == without_time(single)
        if made.title:
            titles_only = ask(shop, made.title, None, min_probability=0.3).json()
            assert ids(answer_of(shop, made, "json", min_probability=0.3)) == ids(titles_only)


def test_a_smaller_probability_lets_more_through_and_zero_all_candidates(shop: TestClient) -> None:
    made = QUERIES[0]
    answers = [ask(shop, made.title, made.photo, min_probability=p, limit=1000).json() for p in (0, 0.1, 0.5, 0.9, 1)]
    for more, fewer in pairwise(answers):
        assert ids(more)[: len(ids(fewer))] == ids(fewer)
    everything = ask(shop, made.title, made.photo, threshold=-1, limit=1000).json()
    assert set(ids(answers[0])) == set(ids(everything))
    assert answers[0]["exact"]


def test_a_rule_and_a_filter_go_together(shop: TestClient) -> None:
    made = QUERIES[0]
    chosen = ask(shop, made.title, made.photo, min_probability=0, filter='{"group": "0-1"}', limit=1000).json()
    assert sorted(ids(chosen)) == sorted(one.id for one in STORED if one.group == "0-1")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("options", BAD_RULES + TWO_RULES, ids=str)
def test_a_bad_rule_is_refused_and_breaks_nothing(judged: TestClient, mode: str, options: dict[str, str]) -> None:
    put(judged, "p", "abc 500 g", printed((90, 90, 90), 1))
    if mode == "match":
        answer = ask(judged, "abc", None, **options)
    elif mode == "json":
        answer = judged.post("/match/batch", json={"items": [{"title": "abc"}], **options})
    elif mode == "manifest":
        answer = judged.post("/match/batch", data=options, files={"manifest": csv_file("title", "abc")})
    elif {"match_from", "review_from"} & set(options):
        return  # a query string that names no parameter of this call
    else:
        answer = judged.get("/catalog/p/matches", params=options)
    check_problem(answer, [422], "invalid_input")
    assert found(ask(judged, "abc 500 g", None)) == ["p"]


def test_two_rules_are_refused_by_name(judged: TestClient) -> None:
    assert "send one of them" in ask(judged, "abc", None, min_probability=0.5, threshold=0.5).json()["detail"]


def test_a_precision_that_the_model_never_had_is_refused(judging: Matcher, judged: TestClient) -> None:
    assert judging.judge.model is not None
    spec = judging.judge.model.spec.model_copy(update={"precision": ((0.5, 0.3), (0.9, 0.6))})
    judging.judge.model.spec, kept = spec, judging.judge.model.spec
    try:
        answer = ask(judged, "abc", None, target_precision=0.95)
    finally:
        judging.judge.model.spec = kept
    check_problem(answer, [422], "invalid_input")
    assert "0.900" in answer.json()["detail"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("options", [{"min_probability": 0.5}, {"target_precision": 0.9}], ids=str)
def test_a_bundle_without_a_pair_model_names_the_remedy(client: TestClient, mode: str, options: dict[str, float]) -> None:
    put(client, STORED[0].id, "abc")
    if mode == "match":
        answer = ask(client, "abc", None, **options)
    elif mode == "json":
        answer = client.post("/match/batch", json={"items": [{"title": "abc"}], **options})
    elif mode == "manifest":
        sent = {name: str(value) for name, value in options.items()}
        answer = client.post("/match/batch", data=sent, files={"manifest": csv_file("title", "abc")})
    else:
        answer = client.get(f"/catalog/{STORED[0].id}/matches", params=options)
    check_problem(answer, [422], "invalid_input")
    assert "python -m app calibrate" in answer.json()["detail"]
    assert "threshold" in answer.json()["detail"]


@pytest.mark.parametrize("mode", ["match", "json", "manifest"])
def test_the_bounds_of_decisions_can_be_sent(shop: TestClient, mode: str) -> None:
    seen: set[str] = set()
    for match_from, review_from in ((0, 0), (1, 0), (1, 1), (0.3, 0.1)):
        bounds = {"match_from": match_from, "review_from": review_from}
        answer = answer_of(shop, QUERIES[0], mode, threshold=-1, limit=100, **bounds)
        assert any(0 < match["probability"] < 1 for match in answer["matches"])
        for match in answer["matches"]:
            p = match["probability"]
            check_decision(match, "match" if p >= match_from else "review" if p >= review_from else "no-match")
            seen.add(match["decision"])
    assert seen == {"match", "review", "no-match"}


def test_one_of_the_two_bounds_may_be_sent_alone(shop: TestClient, pair_model: PairModel) -> None:
    def one(**bound: float) -> list[dict[str, Any]]:
        return list(answer_of(shop, QUERIES[0], "match", threshold=-1, limit=100, **bound)["matches"])

    for match in one(match_from=1):
        check_decision(match, pair_model.spec.decide(match["probability"], {"match": 1.0}))
    for match in one(review_from=0):
        check_decision(match, pair_model.spec.decide(match["probability"], {"review": 0.0}))


WORDS = st.text("abcdefgh 15kg", min_size=1).filter(lambda text: bool(text.strip()))
TITLES = st.none() | st.sampled_from([one.title for one in MADE if one.title]) | WORDS
PHOTOS = st.none() | st.sampled_from([one.photo for one in MADE if one.photo])


def shuffled_less_likely(answer_matches: list[tuple[float, float, set[str]]]) -> int:
    """Checks (score, probability, reason codes), best score first; returns how many are less likely than a later one."""
    seen = 0
    for n, (score, probability, codes) in enumerate(answer_matches):
        if any(other < score and likelier > probability for other, likelier, _ in answer_matches[n + 1 :]):
            assert codes & AGAINST_CODES, answer_matches
            seen += 1
    return seen


def test_a_higher_score_with_a_lower_probability_has_a_reason_against_it(
    judging: Matcher,
) -> None:
    store(judging, STORED)
    seen: list[int] = []

    @settings(max_examples=60)
    @given(title=TITLES, image=PHOTOS)
    def check(title: str | None, image: bytes | None) -> None:
        if title is None and image is None:
            return
        query: Prepared = judging.read_query(image, title)
        (answer,) = judging.match([query], MatchOptions(threshold=-1, limit=1000))
        seen.append(
            shuffled_less_likely(
                [(m.score, m.probability or 0.0, {reason.code for reason in m.reasons}) for m in answer.matches]
            )
        )

    check()
    assert sum(seen) > 0  # the case occurs


def test_a_wrong_amount_loses_to_a_lower_score_with_the_right_one(judged: TestClient) -> None:
    picture = printed((90, 120, 150), 5)
    put(judged, "wrong", "abcd cafe 1 kg", picture)
    put(judged, "right", "cafe abcd new 500 g", printed((100, 110, 150), 6))
    matches = {m["id"]: m for m in ask(judged, "abcd cafe 500 g", picture, threshold=0).json()["matches"]}
    assert matches["wrong"]["score"] > matches["right"]["score"]
    assert matches["wrong"]["probability"] < matches["right"]["probability"]
    assert "quantities_conflict" in [reason["code"] for reason in matches["wrong"]["reasons"]]


def test_amounts_that_contradict_each_other_are_for_somebody_to_look_at(judged: TestClient) -> None:
    put(judged, "wrong", "abcd cafe 1 kg")
    put(judged, "right", "abcd cafe 0.5 kg")
    matches = ask(judged, "abcd cafe 500 g", threshold=0, match_from=0).json()["matches"]
    assert {match["id"]: match["decision"] for match in matches} == {"wrong": "review", "right": "match"}


def test_every_rule_is_refused_before_the_photo_is_read(client: TestClient) -> None:
    files = photos(b"no photo")
    check_problem(client.post("/match", data={"min_probability": "0.5"}, files=files), [422], "invalid_input")
