"""Evidence about pairs: what a query and its candidates have in common, as numbers for the pair model.

A candidate is judged by itself (`ALONE`) and in its neighbourhood (`app.core.neighbourhood`). The same neighbourhoods are
made when one query is served, when the model is trained and when a whole catalog is grouped, so evidence means the same in
all three. Without a context (two products and nothing else) that part of the evidence is missing: NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from app.core.neighbourhood import TOGETHER, Columns, Cosines, Doubles, Ground, Members, cosines, together
from app.core.product import Floats
from app.core.quantities import Comparison, Verdict, compare_titles
from app.core.texts import TEXT_FEATURES, compare_texts, rare_overlap

CONTEXT = 50  # best candidates that make a neighbourhood

ALONE = (
    "image", "title", "score", "distance", "raised", "over", "log_gallery", "shares_photo", "shares_title",
    *TEXT_FEATURES, "agreements", "conflicts", "vetoes", "amounts", "counts", "sizes", "codes", "code_similarity", "numbers",
    "number_similarity",
)  # fmt: skip
FEATURES = (*ALONE, *TOGETHER, "rare")

# kinds of quantities whose verdicts are one feature: the sum of -1 for each that conflicts and 1 for each that agrees
_SUMMED = {
    **dict.fromkeys(
        ("mass", "volume", "dose", "length", "dimensions", "storage", "power", "voltage", "charge"), "amounts"
    ),
    "count": "counts", "size": "sizes", "age": "sizes", "model": "codes", "variant": "codes", "number": "numbers",
}  # fmt: skip
_NUMBERS = ("agreements", "conflicts", "vetoes", *dict.fromkeys(_SUMMED.values()), "code_similarity", "number_similarity")
_VETOES = _NUMBERS.index("vetoes")
_PLACE = {kind: _NUMBERS.index(name) for kind, name in _SUMMED.items()}
_CONFLICT = Verdict.CONFLICT  # looking up a member of an enumeration takes longer than what is done with it here


def evidence(members: Members, ground: Ground, context: int = CONTEXT) -> Floats:
    """Collects the evidence about every candidate of a query.

    Args:
        members: the query and its candidates.
        ground: what they are judged against.
        context: how many of the best candidates make the neighbourhood; 0 for none.

    Returns:
        `(m, len(FEATURES))` float32, NaN where something is missing.
    """
    m = len(members.flags) - 1
    if not m:
        return np.zeros((0, len(FEATURES)), np.float32)
    inside = min(context, m)
    block = cosines(members, ground, 1 + inside)
    columns = dict(_alone(members, ground, block))
    if inside:
        columns |= {**together(block), "rare": _rare(members, 1 + inside)}
    missing = np.full(m, np.nan)
    return np.stack([columns.get(name, missing) for name in FEATURES], axis=1).astype(np.float32)


def _alone(members: Members, ground: Ground, block: Cosines) -> Columns:
    """What two listings say without any others."""
    image, title, score = block.image[1:, 0], block.title[1:, 0], block.score[1:, 0]
    raised = score + block.raise_[1:, 0]
    found = {
        "image": image,
        "title": title,
        "score": score,
        "distance": block.distance[1:, 0],
        "raised": raised,
        "over": raised - block.bound[1:, 0]
        if ground.gallery
        else np.full(len(score), np.nan),  # two alone have no threshold
        "log_gallery": np.full(len(score), np.log10(ground.gallery) if ground.gallery else np.nan),
        "shares_photo": np.isfinite(image).astype(np.float64),
        "shares_title": np.isfinite(title).astype(np.float64),
    }
    asked = members.titles[0]
    told = [n for n, other in enumerate(members.titles[1:]) if other is not None]
    if asked is not None and told:
        others = [members.titles[1 + n] or "" for n in told]
        for name, values in compare_texts(asked, others).items():
            found[name] = np.full(len(score), np.nan)
            found[name][told] = values
        for name, numbers in _quantities(asked, others).items():
            found[name] = np.full(len(score), np.nan)
            found[name][told] = numbers
    return found


def _quantities(title: str, others: Sequence[str]) -> Columns:
    """What the titles say in numbers: how often they agree and conflict, in all and by kind, and how close codes are."""
    rows = np.array([_numbers(compare_titles(title, other)) for other in others], np.float64)
    return dict(zip(_NUMBERS, rows.T, strict=True))


def _numbers(compared: Mapping[str, Comparison]) -> list[float]:
    """Counts what agrees, what conflicts and what firmly does, and sums verdicts: the values of `_NUMBERS`."""
    found = [0.0] * len(_NUMBERS)
    for one in compared.values():
        if one.verdict:
            found[one.verdict is _CONFLICT] += 1  # the first two: agreements and conflicts
            found[_VETOES] += one.firm
            if one.kind in _PLACE:
                found[_PLACE[one.kind]] += one.verdict
    found[-2], found[-1] = compared["model"].similarity, compared["number"].similarity
    return found


def _rare(members: Members, width: int) -> Doubles:
    found = np.full(len(members.flags) - 1, np.nan)
    asked = members.titles[0]
    told = [n for n, other in enumerate(members.titles[1:]) if other is not None]
    if asked is not None and told:
        context = [title for title in members.titles[:width] if title is not None]
        found[told] = rare_overlap(asked, [members.titles[1 + n] or "" for n in told], context)
    return found
