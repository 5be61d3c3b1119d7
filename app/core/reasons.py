"""Why two products are thought to be the same, or not, in words: what a person can check.

Reasons name evidence (`app.core.pairs`); the pair model weighs it. Codes are stable:

    same_photo, edited_photo, photos_alike, photos_differ, no_photo       the photos
    same_title, titles_alike, titles_differ, title_says_less, no_title    the titles
    quantities_agree, quantities_conflict, codes_agree, codes_conflict    what the titles say in numbers
    better_candidate, only_candidate, crowded                             the neighbourhood
    photos_align, recoloured                                              the geometric check (`app.verifying`)
    weaker_evidence                                                       less of all that than another product has
"""

from __future__ import annotations

from collections.abc import Mapping

from app.core.answer import Reason
from app.core.quantities import Comparison, Verdict, compare_titles

SAME_HASH = 4  # bits: see the table in app.core.phash
EDITED_HASH = 10
CLEARLY = 0.15  # of a cosine, above or below its threshold
AHEAD = 0.1
CROWDED = 5  # neighbours above the threshold
FEW_WORDS = 3

AGAINST = frozenset(
    ("photos_differ", "titles_differ", "quantities_conflict", "codes_conflict", "better_candidate", "crowded", "no_photo",
     "no_title", "title_says_less", "recoloured")
)  # fmt: skip

_CODES = ("model", "variant")


def reasons_for(
    left: str | None,
    right: str | None,
    photos: int,
    evidence: Mapping[str, float],
    bounds: Mapping[str, float],
    sides: tuple[str, str] = ("title", "catalog"),
) -> tuple[Reason, ...]:
    """Names what speaks for a pair and against it, the strongest first.

    Args:
        left: clean title of the query, or None.
        right: clean title of the candidate, or None.
        photos: how many of the two have one, 0 to 2.
        evidence: by the names of `app.core.pairs.FEATURES`; NaN is missing.
        bounds: cosine thresholds by modality, for this gallery.
        sides: what the two are called.
    """
    return (
        *_numbers(left, right, sides),
        *_photos(photos, evidence, bounds.get("image", 1.0)),
        *_titles(left, right, evidence, bounds.get("title", 1.0)),
        *_says_less(left, right, sides),
        *_neighbours(evidence),
    )


def _numbers(left: str | None, right: str | None, sides: tuple[str, str]) -> list[Reason]:
    if left is None or right is None:
        return []
    compared = compare_titles(left, right)
    told = [one for one in compared.values() if one.verdict and one.kind != "number"]
    told.sort(key=lambda one: (one.verdict, not one.firm))
    return [_number(one, sides) for one in told]


def _number(one: Comparison, sides: tuple[str, str]) -> Reason:
    subject = "codes" if one.kind in _CODES else "quantities"
    if one.verdict == Verdict.CONFLICT:
        return Reason(f"{subject}_conflict", f"{sides[0]}: {one.left}, {sides[1]}: {one.right}")
    same = one.left if one.left == one.right else f"{one.left} = {one.right}"
    return Reason(f"{subject}_agree", f"both titles: {same}")


def _photos(photos: int, evidence: Mapping[str, float], bound: float) -> list[Reason]:
    image, distance = evidence["image"], evidence["distance"]
    if distance <= SAME_HASH:
        return [Reason("same_photo", "the same photo")]
    if distance <= EDITED_HASH:
        return [Reason("edited_photo", "the same photo, edited or cropped")]
    if image != image:
        return [Reason("no_photo", "one of the two has no photo")] if photos == 1 and distance != distance else []
    if image >= bound:
        return [Reason("photos_alike", f"the photos are alike ({image:.2f})")]
    if image < bound - CLEARLY:
        return [Reason("photos_differ", f"the photos differ ({image:.2f})")]
    return []


def _titles(left: str | None, right: str | None, evidence: Mapping[str, float], bound: float) -> list[Reason]:
    title = evidence["title"]
    if left is None or right is None:
        return [Reason("no_title", "one of the two has no title")] if (left is None) != (right is None) else []
    if sorted(left.casefold().split()) == sorted(right.casefold().split()):
        return [Reason("same_title", "the same title")]
    if title >= bound:
        return [Reason("titles_alike", f"the titles are alike ({title:.2f})")]
    if title < bound - CLEARLY:
        return [Reason("titles_differ", f"the titles differ ({title:.2f})")]
    return []


def _says_less(left: str | None, right: str | None, sides: tuple[str, str]) -> list[Reason]:
    """A few words that all stand in a title of twice as many may be any of several products."""
    words = [set((title or "").casefold().split()) for title in (left, right)]
    for side, few, many in zip(sides, words, reversed(words), strict=True):
        if few and few <= many and len(few) <= FEW_WORDS and 2 * len(few) <= len(many):
            return [Reason("title_says_less", f"{side} says less: all of its words are in the other title")]
    return []


def _neighbours(evidence: Mapping[str, float]) -> list[Reason]:
    if evidence["margin"] != evidence["margin"]:
        return []
    if evidence["margin"] <= -AHEAD:
        return [Reason("better_candidate", "another product of the catalog is closer")]
    if evidence["rank"] == 1 and evidence["margin"] >= AHEAD:
        return [Reason("only_candidate", "no other product of the catalog comes close")]
    if evidence["neighbours"] > CROWDED:
        return [
            Reason("crowded", f"{evidence['neighbours'] - 1:.0f} products of the catalog are this close to what was asked")
        ]
    return []
