"""A hundred kills at random moments: nothing that was acknowledged is lost, deleted products stay deleted."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.crashing import Crashes, nursery

pytestmark = pytest.mark.soak
ROUNDS = int(os.environ.get("SOAK_ROUNDS", "100"))


def test_a_hundred_kills(tmp_path: Path) -> None:
    with nursery() as services:
        crashes = Crashes(services, tmp_path / "crashes", seed=int.from_bytes(os.urandom(4), "big"))
        for _ in range(ROUNDS):
            crashes.round()
    print("\n" + ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in asdict(crashes.counts).items()))
    assert crashes.counts.unanswered > 0
