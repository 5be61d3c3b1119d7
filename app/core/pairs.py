"""Evidence about pairs: what a query and its candidates have in common, as numbers for the pair model.

A candidate is judged by itself (`ALONE`) and in its neighbourhood (`app.core.neighbourhood`). The same neighbourhoods are
made when one query is served, when the model is trained and when a whole catalog is grouped, so evidence means the same in
all three. Without a context (two products and nothing else) that part of the evidence is missing: NaN.
"""

from __future__ import annotations

import numpy as np

from app.core.neighbourhood import TOGETHER, Columns, Cosines, Doubles, Ground, Members, cosines, together
from app.core.product import Floats
from app.core.texts import TEXT_FEATURES, compare_texts, rare_overlap

CONTEXT = 50  # best candidates that make a neighbourhood

ALONE = (
    "image", "title", "score", "distance", "raised", "over", "log_gallery", "shares_photo", "shares_title",
    *TEXT_FEATURES,
)  # fmt: skip
FEATURES = (*ALONE, *TOGETHER, "rare")


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
    near = cosines(members, ground, slice(1, None), slice(0, 1 + inside))
    columns = dict(_alone(members, ground, near))
    if inside:
        among = cosines(members, ground, slice(0, 1 + inside), slice(0, 1 + inside))
        columns |= {**together(near, among), "rare": _rare(members, 1 + inside)}
    missing = np.full(m, np.nan)
    return np.stack([columns.get(name, missing) for name in FEATURES], axis=1).astype(np.float32)


def _alone(members: Members, ground: Ground, near: Cosines) -> Columns:
    """What two listings say without any others."""
    image, title, score = near.image[:, 0], near.title[:, 0], near.score[:, 0]
    raised = score + near.raise_[:, 0]
    found = {
        "image": image,
        "title": title,
        "score": score,
        "distance": near.distance[:, 0],
        "raised": raised,
        "over": raised - near.bound[:, 0],
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
    return found


def _rare(members: Members, width: int) -> Doubles:
    found = np.full(len(members.flags) - 1, np.nan)
    asked = members.titles[0]
    told = [n for n, other in enumerate(members.titles[1:]) if other is not None]
    if asked is not None and told:
        context = [title for title in members.titles[:width] if title is not None]
        found[told] = rare_overlap(asked, [members.titles[1 + n] or "" for n in told], context)
    return found
