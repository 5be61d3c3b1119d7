"""Damaged photos and requests; `make soak` sends far more of them."""

from __future__ import annotations

from app.encoders.preprocess import InputLimits
from tests.api.conftest import Start
from tests.fakes import FakeEncoder
from tests.mutants import BATCH, Mill

MUTANTS = 400


def test_nothing_that_is_damaged_is_a_server_error(start: Start) -> None:
    mill = Mill(start(FakeEncoder(InputLimits(image_pixels=4_000_000)), max_image_pixels=4_000_000))
    assert list(mill.run(MUTANTS, seed=1)) == list(range(BATCH, MUTANTS + 1, BATCH))
