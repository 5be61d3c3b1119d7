"""Statements of feedback: what is taken, which of them count, where they contradict each other, what is settled."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from random import Random
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.feedback import Contradiction, contradictions, latest, settled
from app.core.statements import Side, Statement, StatementDraft
from app.errors import InvalidInput

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
NAMES = "abcdef"


def product(name: str) -> Side:
    return Side(name, f"title of {name}")


def asked(title: str) -> Side:
    return Side(None, title)


def say(number: int, first: Side | str, second: Side | str, same: bool, by: str, catalog: str = "default") -> Statement:
    one, other = (product(side) if isinstance(side, str) else side for side in (first, second))
    return Statement(number, catalog, one, other, same, by, NOON)


def names(found: Contradiction) -> list[str]:
    """The chain, as the ids on its way."""
    sides = [found.chain[0].first, *(link.second for link in found.chain)]
    return [side.id or side.title or "" for side in sides]


# -- drafts ----------------------------------------------------------------------------------------------------


def test_a_pair_has_no_direction() -> None:
    there, back = (StatementDraft(Side(a), Side(b), True, "ana") for a, b in ("pq", "qp"))
    assert there == back
    assert there.first == Side("p")


def test_the_product_comes_before_the_title_that_was_asked() -> None:
    draft = StatementDraft(asked("a shoe"), Side("z"), True, "ana")
    assert (draft.first, draft.second) == (Side("z"), asked("a shoe"))


def test_a_product_and_a_title_that_reads_like_its_id_are_two_sides() -> None:
    assert StatementDraft(Side("p"), asked("p"), True, "ana").first == Side("p")


@pytest.mark.parametrize(
    ("first", "second", "remedy"),
    [
        (Side("p"), Side("p"), "that differ"),
        (Side("p", "one title"), Side("p", "another"), "that differ"),
        (asked("a"), asked("b"), "name a product"),
        (Side("p"), Side(None), "give its id"),
        (Side("p"), Side(""), "id must have"),
        (Side("p"), Side(" q"), "id must be"),
        (Side("p"), Side("x" * 201), "id must have"),
    ],
)
def test_sides_that_make_no_pair_are_refused(first: Side, second: Side, remedy: str) -> None:
    for one, other in ((first, second), (second, first)):
        with pytest.raises(InvalidInput, match=remedy):
            StatementDraft(one, other, True, "ana")


@pytest.mark.parametrize("by", ["", " ", "ana ", "\tana", "a\nb", "a\0b", "\ud800", "x" * 201, "\u202eana"], ids=ascii)
def test_nobody_can_say_it_without_a_readable_name(by: str) -> None:
    with pytest.raises(InvalidInput, match="by must say who"):
        StatementDraft(Side("p"), Side("q"), True, by)


@pytest.mark.parametrize("by", ["a", "Jos\u00e9", "ana (shop 7)", "\u5f20\u4f1f", "x" * 200])
def test_any_readable_name_is_taken_in_one_spelling(by: str) -> None:
    forms: list[Literal["NFC", "NFD"]] = ["NFC", "NFD"]
    for form in forms:
        assert StatementDraft(Side("p"), Side("q"), True, unicodedata.normalize(form, by)).by == by


@pytest.mark.parametrize("note", ["", " \n", "x" * 1001, "a\0b", "a\x1bb", "\ud800"], ids=lambda note: ascii(note[:5]))
def test_a_note_that_says_nothing_or_cannot_be_stored_is_refused(note: str) -> None:
    with pytest.raises(InvalidInput, match="note"):
        StatementDraft(Side("p"), Side("q"), True, "ana", note)


def test_a_note_may_have_lines_and_joined_emoji() -> None:
    note = "another size\r\n\tsee the label \U0001f469\u200d\U0001f467"
    assert StatementDraft(Side("p"), Side("q"), True, "ana", note).note == note
    assert StatementDraft(Side("p"), Side("q"), True, "ana", "x" * 1000).note == "x" * 1000


@pytest.mark.parametrize("request_id", ["", "a b", "x" * 65, "\u00e9"])
def test_a_request_id_that_the_service_never_gives_is_refused(request_id: str) -> None:
    with pytest.raises(InvalidInput, match="request_id"):
        StatementDraft(Side("p"), Side("q"), True, "ana", None, request_id)


# -- which count -----------------------------------------------------------------------------------------------


def test_a_later_statement_of_the_same_person_counts_instead() -> None:
    first, other, second = say(1, "a", "b", True, "ana"), say(2, "a", "b", True, "ben"), say(3, "b", "a", False, "ana")
    assert latest([first, other, second]) == [other, second]


def test_later_is_what_was_stored_later_even_if_the_clock_went_back() -> None:
    first = say(1, "a", "b", True, "ana")
    second = Statement(2, "default", first.first, first.second, False, "ana", NOON - timedelta(days=1))
    assert latest([second, first]) == [second]


# -- contradictions, by example --------------------------------------------------------------------------------


def test_two_people_who_disagree_contradict_each_other() -> None:
    (found,) = contradictions([say(1, "a", "b", True, "ana"), say(2, "b", "a", False, "ben"), say(3, "a", "b", True, "cy")])
    assert found.direct
    assert [one.by for one in found.differ.statements] == ["ben"]
    assert [[one.by for one in link.statements] for link in found.chain] == [["ana", "cy"]]
    assert str(found) == "'a' is not 'b' (ben), but 'a' is 'b' (ana, cy)."


def test_who_changes_their_mind_does_not_contradict_themselves() -> None:
    assert list(contradictions([say(1, "a", "b", True, "ana"), say(2, "a", "b", False, "ana")])) == []


def test_a_chain_of_the_same_contradicts_a_difference_of_its_ends() -> None:
    said = [say(1, "a", "b", True, "ana"), say(2, "c", "b", True, "ben"), say(3, "c", "a", False, "ana")]
    (found,) = contradictions(said)
    assert not found.direct
    assert str(found) == "'a' is not 'c' (ana), but 'a' is 'b' (ana), 'b' is 'c' (ben)."


def test_the_shortest_chain_is_named() -> None:
    said = [say(n, pair[0], pair[1], True, "ana") for n, pair in enumerate(["ab", "bc", "cd", "de", "af", "fe"])]
    (found,) = contradictions([*said, say(9, "a", "e", False, "ben")])
    assert names(found) == ["a", "f", "e"]


@pytest.mark.parametrize("ring", [2, 3, 4, 5, 9, 12])
def test_the_shorter_way_round_a_ring_is_named(ring: int) -> None:
    sides = [f"p{n:02}" for n in range(ring)]
    said = [say(n, sides[n], sides[(n + 1) % ring], True, f"person {n}") for n in range(ring)]
    for n in range(1, ring):
        (found,) = contradictions([*said, say(99, sides[n], sides[0], False, "ana")])
        assert len(found.chain) == min(n, ring - n)


def test_a_chain_may_lead_through_a_title_that_was_asked() -> None:
    said = [say(1, "a", asked("red shoe"), True, "ana"), say(2, "b", asked("red shoe"), True, "ana")]
    (found,) = contradictions([*said, say(3, "a", "b", False, "ana")])
    assert str(found) == "'a' is not 'b' (ana), but 'a' is the title 'red shoe' (ana), the title 'red shoe' is 'b' (ana)."


def test_differences_make_no_chain() -> None:
    assert (
        list(contradictions([say(1, "a", "b", False, "x"), say(2, "b", "c", False, "x"), say(3, "a", "c", True, "x")])) == []
    )


def test_products_of_two_catalogs_have_nothing_to_do_with_each_other() -> None:
    said = [
        say(1, "a", "b", True, "ana", "one"),
        say(2, "b", "c", True, "ana", "two"),
        say(3, "a", "c", False, "ana", "one"),
    ]
    assert list(contradictions([*said, say(4, "a", "b", False, "ben", "two")])) == []


def test_a_long_title_is_shortened_for_people() -> None:
    (found,) = contradictions([say(1, "a", asked("x" * 500), True, "ana"), say(2, "a", asked("x" * 500), False, "ben")])
    assert len(str(found)) < 300


# -- settled, by example ---------------------------------------------------------------------------------------


def test_most_people_settle_a_pair() -> None:
    said = [say(1, "a", "b", True, "ana"), say(2, "a", "b", False, "ben"), say(3, "b", "a", True, "cy")]
    found = settled(said)
    (verdict,) = found.verdicts
    assert verdict.same
    assert verdict.statements == (said[0], said[2])
    assert [(one.statement, one.reason) for one in found.left_out] == [(said[1], "outvoted")]


def test_a_tie_settles_nothing() -> None:
    said = [say(1, "a", "b", True, "ana"), say(2, "a", "b", False, "ben")]
    found = settled(said)
    assert found.verdicts == ()
    assert [(one.statement, one.reason) for one in found.left_out] == [(one, "tie") for one in said]


def test_a_person_has_one_voice_however_often_they_say_it() -> None:
    said = [
        *(say(n, "a", "b", True, "ana") for n in range(3)),
        say(3, "a", "b", False, "ben"),
        say(4, "a", "b", False, "cy"),
    ]
    found = settled(said)
    assert [verdict.same for verdict in found.verdicts] == [False]
    assert [one.reason for one in found.left_out] == ["replaced", "replaced", "outvoted"]


def test_a_verdict_shows_the_sides_as_they_were_last() -> None:
    old = Statement(1, "default", Side("a", "old"), Side("b", "x"), True, "ana", NOON)
    new = Statement(2, "default", Side("a", "new", ("f" * 64,)), Side("b", "x"), True, "ben", NOON)
    (verdict,) = settled([new, old]).verdicts
    assert verdict.first == Side("a", "new", ("f" * 64,))


# -- against plain definitions, on random statements -------------------------------------------------------------


@st.composite
def histories(draw: st.DrawFn) -> list[Statement]:
    """Statements of a few people about a few sides, all of the same moment, in the order they were stored."""
    sides = [product(name) for name in NAMES] + [asked("t"), asked("u")]
    count = draw(st.integers(0, 14))
    history = []
    for number in range(1, count + 1):
        first, second = draw(st.permutations(sides).map(lambda order: order[:2]))
        said = say(number, first, second, draw(st.booleans()), draw(st.sampled_from(["ana", "ben", "cy"])))
        history.append(said)
    return history


def last_words(history: Sequence[Statement]) -> list[Statement]:
    """Those that nothing later of the same person about the same two sides follows."""
    return [
        one
        for n, one in enumerate(history)
        if not any(
            later.by == one.by and {later.first, later.second} == {one.first, one.second} for later in history[n + 1 :]
        )
    ]


def distances(history: Sequence[Statement]) -> dict[tuple[Side, Side], float]:
    """How many steps of "the same" lead from each side to each other one, by Floyd and Warshall."""
    sides = {side for one in history for side in (one.first, one.second)}
    steps = {(a, b): 0 if a == b else float("inf") for a in sides for b in sides}
    for one in history:
        if one.same:
            steps[one.first, one.second] = steps[one.second, one.first] = 1
    for via in sides:
        for a in sides:
            for b in sides:
                steps[a, b] = min(steps[a, b], steps[a, via] + steps[via, b])
    return steps


@given(histories())
def test_contradictions_are_those_that_the_definition_finds(history: list[Statement]) -> None:
    counting = last_words(history)
    steps = distances(counting)
    expected = {
        frozenset((one.first, one.second)): steps[one.first, one.second]
        for one in counting
        if not one.same and steps[one.first, one.second] < float("inf")
    }
    found = list(contradictions(history))
    assert {frozenset((one.differ.first, one.differ.second)): len(one.chain) for one in found} == expected
    assert len(found) == len(expected)
    assert [one.direct for one in found] == sorted((one.direct for one in found), reverse=True)


@given(histories())
def test_every_contradiction_can_be_checked_by_hand(history: list[Statement]) -> None:
    counting = last_words(history)
    for found in contradictions(history):
        chain = found.chain
        assert (chain[0].first, chain[-1].second) == (found.differ.first, found.differ.second)
        assert all(link.second == following.first for link, following in pairwise(chain))
        for opinion in (found.differ, *chain):
            assert opinion.same is (opinion is not found.differ)
            pair = {opinion.first, opinion.second}
            assert opinion.statements == tuple(
                one for one in counting if {one.first, one.second} == pair and one.same == opinion.same
            )
            assert opinion.statements


@given(histories(), st.randoms(use_true_random=False))
def test_the_order_in_which_statements_are_given_does_not_matter(history: list[Statement], chance: Random) -> None:
    shuffled = list(history)
    chance.shuffle(shuffled)
    assert latest(shuffled) == latest(history) == last_words(history)
    assert list(contradictions(shuffled)) == list(contradictions(history))
    assert settled(shuffled) == settled(history)


@given(histories())
def test_every_statement_supports_a_verdict_or_is_left_out_with_a_true_reason(history: list[Statement]) -> None:
    found, counting = settled(history), last_words(history)
    used = [statement for verdict in found.verdicts for statement in verdict.statements]
    numbers = [one.number for one in used] + [one.statement.number for one in found.left_out]
    assert sorted(numbers) == [one.number for one in history]
    majority: dict[frozenset[Side], int] = {}
    for one in counting:
        pair = frozenset((one.first, one.second))
        majority[pair] = majority.get(pair, 0) + (1 if one.same else -1)
    expected = {pair: votes > 0 for pair, votes in majority.items() if votes}
    assert {frozenset((one.first, one.second)): one.same for one in found.verdicts} == expected
    for left in found.left_out:
        votes = majority[frozenset((left.statement.first, left.statement.second))]
        assert (left.reason == "replaced") == (left.statement not in counting)
        if left.reason != "replaced":
            assert left.reason == ("tie" if votes == 0 else "outvoted")


@given(histories())
def test_settled_pairs_never_contradict_each_other_directly(history: list[Statement]) -> None:
    kept = [statement for verdict in settled(history).verdicts for statement in verdict.statements]
    assert not any(one.direct for one in contradictions(kept))
