"""A service that is killed in the middle of writing has lost nothing that it had acknowledged."""

from __future__ import annotations

from pathlib import Path

from tests.crashing import Crashes, nursery

ROUNDS = 4


def test_nothing_acknowledged_is_lost_and_nothing_is_mixed(tmp_path: Path) -> None:
    with nursery() as services:
        crashes = Crashes(services, tmp_path / "crashes", seed=4)
        while crashes.counts.rounds < ROUNDS or not crashes.counts.acknowledged:
            crashes.round()
