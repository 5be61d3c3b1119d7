from __future__ import annotations

import numpy as np
import pytest
import torch

from app.core.product import Floats
from app.errors import InvalidInput
from app.training.projection import principal_components

RNG = np.random.default_rng(7)
FEATURES: Floats = (RNG.normal(size=(60, 6)) * [5, 4, 3, 2, 1, 0.5] @ RNG.normal(size=(6, 6)) + 10).astype(np.float32)


def project(layer: torch.nn.Linear, rows: Floats) -> Floats:
    with torch.inference_mode():
        result: Floats = layer(torch.from_numpy(rows)).numpy()
    return result


@pytest.mark.parametrize("dim", [1, 3, 6])
def test_the_projection_is_that_of_a_singular_value_decomposition(dim: int) -> None:
    centred = FEATURES.astype(np.float64) - FEATURES.astype(np.float64).mean(axis=0)
    left, lengths, _ = np.linalg.svd(centred, full_matrices=False)
    expected = (left * lengths)[:, :dim]
    found = project(principal_components(FEATURES, dim), FEATURES)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-3)  # the sign of a component is arbitrary


def test_the_rows_are_orthonormal_and_the_mean_goes_to_zero() -> None:
    layer = principal_components(FEATURES, 4)
    weight = layer.weight.detach().numpy()
    np.testing.assert_allclose(weight @ weight.T, np.eye(4), atol=1e-5)
    np.testing.assert_allclose(project(layer, FEATURES).mean(axis=0), 0, atol=1e-4)


def test_all_components_keep_every_distance() -> None:
    found = project(principal_components(FEATURES, 6), FEATURES)
    np.testing.assert_allclose(
        np.linalg.norm(found[:10, None] - found[None], axis=2),
        np.linalg.norm(FEATURES[:10, None] - FEATURES[None], axis=2),
        atol=1e-3,
    )


def test_the_sign_does_not_depend_on_the_order_of_the_rows() -> None:
    one, other = principal_components(FEATURES, 3), principal_components(FEATURES[::-1].copy(), 3)
    np.testing.assert_allclose(one.weight.detach(), other.weight.detach(), atol=1e-4)


def test_features_of_one_column_have_one_component() -> None:
    layer = principal_components(np.array([[1.0], [2.0], [6.0]], np.float32), 1)
    np.testing.assert_allclose(project(layer, np.array([[3.0]], np.float32)), [[0]], atol=1e-6)


@pytest.mark.parametrize(
    ("rows", "dim", "message"), [(60, 0, "1 to 6"), (60, 7, "1 to 6"), (3, 3, "3 rows"), (0, 2, "0 rows")]
)
def test_a_projection_that_cannot_be_fitted_is_refused(rows: int, dim: int, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        principal_components(FEATURES[:rows], dim)
