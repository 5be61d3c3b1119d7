"""A projection for towers that have not been trained: principal components of their features.

Pretrained features share a large common direction (two random titles have a cosine of .8), so a threshold has little
room. Centring removes it, and the components after the first few hundred carry next to nothing: shorter vectors are
faster to search. Jegou and Chum, "Negative evidences and co-occurences in image retrieval: the benefit of PCA and
whitening", ECCV 2012; without their whitening, which was measured to be worth nothing here.
"""

from __future__ import annotations

import numpy as np
import torch

from app.core.product import Floats
from app.errors import InvalidInput


def principal_components(features: Floats, dim: int) -> torch.nn.Linear:
    """Returns the projection `x -> W (x - mean)` onto the `dim` leading components.

    Args:
        features: `(n, width)`, n > dim.
        dim: at most `width`.

    Raises:
        InvalidInput: too few rows, or too many components.
    """
    rows, width = features.shape
    if not 1 <= dim <= width:
        raise InvalidInput(f"a projection of {width} features has 1 to {width} dimensions, not {dim}.")
    if rows <= dim:
        raise InvalidInput(f"{dim} dimensions cannot be fitted to {rows} rows: give more listings, or fewer dimensions.")
    wide = features.astype(np.float64)
    mean = wide.mean(axis=0)
    _, vectors = np.linalg.eigh(np.atleast_2d(np.cov((wide - mean).T)))
    weight = vectors[:, ::-1][:, :dim].T
    weight = (
        weight * np.sign(weight[np.arange(dim), np.abs(weight).argmax(axis=1)])[:, None]
    )  # the sign is arbitrary: fix it
    projection = torch.nn.Linear(width, dim)
    with torch.no_grad():
        projection.weight.copy_(torch.from_numpy(weight.copy()))
        projection.bias.copy_(torch.from_numpy(-weight @ mean))
    return projection
