"""POST /compare: two products by themselves."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.core.product import Prepared
from app.encoders.preprocess import InputLimits
from app.judge import Rule
from app.matcher import Matcher
from app.pair_model import PairModel
from tests.api.calls import BLUE, RED, Response, check_problem, without_time
from tests.api.conftest import Start
from tests.fakes import FINGERPRINT, FakeEncoder, photo
from tests.judged import listings, printed

Side = tuple[str | None, bytes | None]
FIELDS = {"decision", "probability", "score", "image_score", "title_score", "reasons", "model", "took_ms"}
MADE = listings(6, 3)
ONE: Side = ("abcd cafe 500 g", printed((90, 120, 150), 5))
SAME: Side = ("cafe abcd 0.5 kg", printed((90, 120, 150), 6))
OTHER: Side = ("abcd cafe 1 kg", printed((92, 120, 150), 7))
FAINT: Side = ("abcd cafe", printed((60, 120, 190), 8))


def compare(client: TestClient, left: Side, right: Side, **fields: str) -> Response:
    data, files = dict(fields), {}
    for side, (title, image) in (("left", left), ("right", right)):
        if title is not None:
            data[f"{side}_title"] = title
        if image is not None:
            files[f"{side}_image"] = (f"{side}.png", image)
    answer: Response = client.post("/compare", data=data, files=files or None)
    return answer


def verdict(client: TestClient, left: Side, right: Side, **fields: str) -> dict[str, Any]:
    answer = compare(client, left, right, **fields)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def codes(found: dict[str, Any]) -> set[str]:
    return {reason["code"] for reason in found["reasons"]}


def test_both_sides_with_photo_and_title(judged: TestClient, pair_model: PairModel) -> None:
    same, other = verdict(judged, ONE, SAME), verdict(judged, ONE, OTHER)
    assert set(same) == FIELDS
    assert same["model"] == f"fake@{FINGERPRINT}"
    for found in (same, other):
        assert found["score"] == pytest.approx(0.36 * found["image_score"] + 0.64 * found["title_score"], abs=2e-6)
    assert same["decision"] == pair_model.spec.decide(same["probability"])
    assert other["decision"] != "match"
    assert same["probability"] > other["probability"]
    assert "quantities_agree" in codes(same)
    assert {"code": "quantities_conflict", "text": "left: 500 g, right: 1 kg"} in other["reasons"]
    assert not codes(same) & {"better_candidate", "only_candidate", "crowded"}  # there is no neighbourhood


@pytest.mark.parametrize("shared", ["image", "title"])
def test_one_modality_in_common_is_what_counts(judged: TestClient, shared: str) -> None:
    left: Side = ("aab", RED)
    right: Side = (None, RED) if shared == "image" else ("abb", None)
    found = verdict(judged, left, right)
    lacking = "title" if shared == "image" else "image"
    assert found["score"] == found[f"{shared}_score"] == (1.0 if shared == "image" else 0.8)
    assert found[f"{lacking}_score"] is None
    assert ("no_title" if shared == "image" else "no_photo") in codes(found)


@pytest.mark.parametrize("fixture", ["judged", "client"])
def test_nothing_in_common_is_no_match(request: pytest.FixtureRequest, fixture: str) -> None:
    found = verdict(request.getfixturevalue(fixture), ("aab", None), (None, RED))
    assert (found["score"], found["image_score"], found["title_score"]) == (None, None, None)
    assert found["decision"] == "no-match"
    assert found["probability"] == (0.0 if fixture == "judged" else None)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_side_with_nothing_is_refused_by_name(judged: TestClient, side: str) -> None:
    sides = ((None, None), ONE) if side == "left" else (ONE, (None, None))
    answer = compare(judged, *sides)
    check_problem(answer, [422], "empty_product")
    assert answer.json()["detail"].startswith(f"the {side} side: ")


def test_no_fields_at_all_are_refused(judged: TestClient) -> None:
    check_problem(judged.post("/compare", data={}), [415, 422])
    check_problem(judged.post("/compare", json={"left_title": "a"}), [415], "unsupported_media_type")


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("bad", ["photo", "title", "empty title"])
def test_a_side_that_cannot_be_read_is_refused_and_breaks_nothing(judged: TestClient, side: str, bad: str) -> None:
    broken: Side = {"photo": ("aab", b"no photo"), "title": ("\0", RED), "empty title": ("", RED)}[bad]
    answer = compare(judged, *((broken, ONE) if side == "left" else (ONE, broken)))
    check_problem(answer, [422], "invalid_image" if bad == "photo" else "invalid_title")
    named = {"photo": f"{side}_image: ", "title": f"{side}_title: ", "empty title": f"the {side} title "}[bad]
    assert answer.json()["detail"].startswith(named)
    assert verdict(judged, ONE, ONE)["score"] == 1.0


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("part", ["image", "pixels", "title"])
def test_what_is_too_large_is_refused_by_name(start: Start, side: str, part: str) -> None:
    client = start(FakeEncoder(InputLimits(image_pixels=3000, title_chars=20)), max_image_bytes=20_000)
    random = np.random.default_rng(1).integers(0, 255, (100, 100, 3), np.uint8)
    stream = BytesIO()
    Image.fromarray(random).save(stream, "PNG")
    broken: Side = {
        "image": (None, stream.getvalue()),
        "pixels": (None, photo((9, 9, 9), (60, 60))),
        "title": ("a" * 21, RED),
    }[part]
    answer = compare(client, *((broken, ("a", RED)) if side == "left" else (("a", RED), broken)))
    check_problem(answer, [422] if part == "title" else [413], "invalid_title" if part == "title" else "payload_too_large")
    name = "title" if part == "title" else "image"
    assert answer.json()["detail"].startswith(f"{side}_{name}: ")
    other = "right" if side == "left" else "left"
    assert other not in answer.json()["detail"]


@pytest.mark.parametrize("name", ["title", "image", "threshold", "min_probability", "catalog", "middle_title"])
def test_an_unknown_field_is_refused(judged: TestClient, name: str) -> None:
    answer = compare(judged, ONE, SAME, **{name: "1"})
    check_problem(answer, [422], "invalid_input")
    assert name in answer.json()["detail"]


def test_a_repeated_field_is_refused(judged: TestClient) -> None:
    check_problem(judged.post("/compare", data={"left_title": ["a", "b"], "right_title": "a"}), [422], "invalid_input")
    twice = [("left_image", ("a.png", RED)), ("left_image", ("b.png", BLUE)), ("right_image", ("c.png", RED))]
    check_problem(judged.post("/compare", files=twice), [422], "invalid_input")


@pytest.mark.parametrize("name", ["match_from", "review_from"])
@pytest.mark.parametrize("value", ["-0.1", "1.1", "nan", "much"])
def test_a_bound_out_of_range_is_refused(judged: TestClient, name: str, value: str) -> None:
    check_problem(compare(judged, ONE, SAME, **{name: value}), [422], "invalid_input")


def test_the_bounds_of_decisions_can_be_sent(judged: TestClient) -> None:
    p = verdict(judged, ONE, FAINT)["probability"]
    assert 0 < p < 1
    assert verdict(judged, ONE, FAINT, match_from="0")["decision"] == "match"
    assert verdict(judged, ONE, FAINT, match_from="1", review_from="0")["decision"] == "review"
    assert verdict(judged, ONE, FAINT, match_from="1", review_from="1")["decision"] == "no-match"
    assert verdict(judged, ONE, FAINT, match_from=str(p))["decision"] == "match"
    assert verdict(judged, ONE, OTHER, match_from="0")["decision"] == "review"  # the amounts contradict each other


@pytest.mark.parametrize(
    ("left", "right", "decision"),
    [
        (("aab", None), ("abb", None), "match"),  # .8 is the threshold, and inclusive
        (("aab", None), ("bbc", None), "no-match"),
        (("aab", RED), ("aab", RED), "match"),
        ((None, RED), (None, BLUE), "no-match"),
    ],
)
def test_without_a_pair_model_the_threshold_decides(client: TestClient, left: Side, right: Side, decision: str) -> None:
    found = verdict(client, left, right)
    assert (found["decision"], found["probability"]) == (decision, None)
    assert found["reasons"]


@pytest.mark.parametrize("title", ["a", "abc", "aabbbc", "abcdefgh", "hhg d"])
@pytest.mark.parametrize("colour", [(255, 0, 0), (13, 77, 200), (1, 2, 3), (250, 251, 252)])
def test_a_product_is_itself_with_a_score_of_exactly_one(
    client: TestClient, title: str, colour: tuple[int, int, int]
) -> None:
    side: Side = (title, printed(colour, 1))
    found = verdict(client, side, side)
    assert (found["score"], found["image_score"], found["title_score"]) == (1.0, 1.0, 1.0)
    assert {"same_photo", "same_title"} <= codes(found)


SIDES = st.sampled_from([(one.title, one.photo) for one in MADE])


def test_swapping_the_sides_changes_nothing(judging: Matcher, judged: TestClient) -> None:
    one, other = verdict(judged, ONE, OTHER), verdict(judged, OTHER, ONE)
    mirrored = ("reasons", "took_ms")  # the texts say what either side has
    assert {k: v for k, v in one.items() if k not in mirrored} == {k: v for k, v in other.items() if k not in mirrored}
    assert codes(one) == codes(other)
    assert without_time(verdict(judged, ONE, OTHER)) == without_time(one)

    @settings(max_examples=80)
    @given(left=SIDES, right=SIDES)
    def check(left: Side, right: Side) -> None:
        sides: list[Prepared] = [judging.read_query(image, title) for title, image in (left, right)]
        embeddings = judging.embed(sides)
        there = judging.compare((sides[0], sides[1]), embeddings, Rule())
        back = judging.compare((sides[1], sides[0]), embeddings[::-1], Rule())
        assert (there.score, there.image_score, there.title_score) == (back.score, back.image_score, back.title_score)
        assert there.probability == back.probability
        assert there.decision == back.decision
        assert {reason.code for reason in there.reasons} == {reason.code for reason in back.reasons}

    check()
