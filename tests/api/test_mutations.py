"""Damaged photos, requests, and answers of other machines; `make soak` sends far more of them."""

from __future__ import annotations

from tests.api.conftest import Start
from tests.mutants import BATCH, Mill, mill_settings
from tests.photo_server import photo_server

MUTANTS = 400


def test_nothing_that_is_damaged_is_a_server_error(start: Start) -> None:
    with photo_server({}) as server:
        mill = Mill(start(**mill_settings(server)), server)
        assert list(mill.run(MUTANTS, seed=1)) == list(range(BATCH, MUTANTS + 1, BATCH))
