"""Evidence about pairs: what a query and its candidates have in common, as numbers for the pair model.

A candidate is judged by itself (`ALONE`) and in its neighbourhood (`app.core.neighbourhood`). The same neighbourhoods are
made when one query is served, when the model is trained and when a whole catalog is grouped, so evidence means the same in
all three. Without a context (two products and nothing else) that part of the evidence is missing: NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from app.core.neighbourhood import TOGETHER, Columns, Cosines, Ground, Members, cosines, together
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
_PLACE = {name: place for place, name in enumerate(FEATURES)}

# kinds of quantities whose verdicts are one feature: the sum of -1 for each that conflicts and 1 for each that agrees
_SUMMED = {
    **dict.fromkeys(
        ("mass", "volume", "dose", "length", "dimensions", "storage", "power", "voltage", "charge"), "amounts"
    ),
    "count": "counts", "size": "sizes", "age": "sizes", "model": "codes", "variant": "codes", "number": "numbers",
}  # fmt: skip
_NUMBERS = ("agreements", "conflicts", "vetoes", *dict.fromkeys(_SUMMED.values()), "code_similarity", "number_similarity")
_VETOES = _NUMBERS.index("vetoes")
_SUM_OF = {kind: _NUMBERS.index(name) for kind, name in _SUMMED.items()}
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
    found = np.full((len(FEATURES), m), np.nan, np.float32)
    if not m:
        return found.T
    inside = min(context, m)
    block = cosines(members, ground, 1 + inside)
    _fill(found, _scores(ground, block))
    if inside:
        _fill(found, together(block))
    asked, others = members.titles[0], members.titles[1:]
    told = np.array([other is not None for other in others])
    if asked is not None and told.any():
        texts = [other for other in others if other is not None]
        _fill(found, {**compare_texts(asked, texts), **_quantities(asked, texts)}, told)
        if inside:
            around = [title for title in members.titles[: 1 + inside] if title is not None]
            _fill(found, {"rare": rare_overlap(asked, texts, around)}, told)
    return np.ascontiguousarray(found.T)


def _fill(found: Floats, columns: Columns, rows: NDArray[np.bool_] | None = None) -> None:
    """Writes features into `(len(FEATURES), m)` evidence, for all pairs or for some."""
    place = slice(None) if rows is None or rows.all() else rows
    for name, values in columns.items():
        found[_PLACE[name], place] = values


def _scores(ground: Ground, block: Cosines) -> Columns:
    """What the vectors and hashes of two listings say without any others."""
    image, title, score = block.image[1:, 0], block.title[1:, 0], block.score[1:, 0]
    raised = score + block.raise_[1:, 0]
    found = {
        "image": image,
        "title": title,
        "score": score,
        "distance": block.distance[1:, 0],
        "raised": raised,
        "shares_photo": np.isfinite(image).astype(np.float64),
        "shares_title": np.isfinite(title).astype(np.float64),
    }
    if ground.gallery:  # two alone have no threshold
        found |= {
            "over": raised - block.bound[1:, 0],
            "log_gallery": np.full(len(score), np.log10(ground.gallery)),
        }
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
            if one.kind in _SUM_OF:
                found[_SUM_OF[one.kind]] += one.verdict
    found[-2], found[-1] = compared["model"].similarity, compared["number"].similarity
    return found
