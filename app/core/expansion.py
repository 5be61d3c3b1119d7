"""Expansion: every vector is blended with its neighbours before others look for it, and it for others.

Alpha query expansion: a query becomes the sum of itself and of its neighbours, each weighted by its cosine to the power of
alpha (Radenovic, Tolias and Chum, "Fine-tuning CNN Image Retrieval with No Human Annotation", TPAMI 2019). Done to the
gallery it is database-side augmentation (Turcot and Lowe, ICCV workshops 2009; Arandjelovic and Zisserman, CVPR 2012).
Where every listing asks and every listing is found, both are one step.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from app.core.product import Floats

Rows = NDArray[np.int64]
Doubles = NDArray[np.float64]

ALPHA = 3.0


def expand(vectors: Floats, image_dim: int, starts: Rows, others: Rows, cosines: Doubles, alpha: float = ALPHA) -> Floats:
    """Blends fused rows with those of their neighbours, each half (`app.core.fusion`) by itself.

    A half keeps its length, so the outcome is laid out like what came in: a half that a listing lacks stays zero, and is not
    made up from its neighbours; a neighbour that lacks a half adds nothing to it. Rows without neighbours stay as they are.

    Args:
        vectors: `(n, dim)` float32 fused rows.
        image_dim: columns of the image half.
        starts: `(n + 1,)` where the neighbours of each row stand; those of row `r` are `starts[r]:starts[r + 1]`.
        others: `(pairs,)` rows of the neighbours, without the row itself.
        cosines: `(pairs,)` how near they are; clipped to [0, 1].
        alpha: from 0 (all neighbours count like the row itself) on; the larger, the less a farther one counts.

    Returns:
        `(n, dim)` float32.
    """
    out = vectors.copy()
    weights = np.clip(cosines, 0.0, 1.0) ** alpha
    for row in np.flatnonzero(np.diff(starts)).tolist():
        near = slice(int(starts[row]), int(starts[row + 1]))
        total = vectors[row] + weights[near] @ vectors[others[near]].astype(np.float64)
        for half in (slice(image_dim), slice(image_dim, None)):
            own, length = np.linalg.norm(vectors[row, half]), np.linalg.norm(total[half])
            if own > 0 and length > 0:
                out[row, half] = total[half] * (own / length)
    return out
