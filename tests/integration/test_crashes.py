"""A service that is killed in the middle of writing, or loses its power, has lost nothing that it had acknowledged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.files import MANY, write_file, write_files
from tests.crashing import Crashes, Nursery, nursery
from tests.disks import Disk

KILLS, POWER_CUTS = 4, 1


@pytest.fixture(scope="module")
def services() -> Iterator[Nursery]:
    with nursery() as opened:
        yield opened


def test_nothing_acknowledged_is_lost_and_nothing_is_mixed(services: Nursery, tmp_path: Path) -> None:
    crashes = Crashes(services, tmp_path / "crashes", seed=4)
    while crashes.counts.rounds < KILLS or not crashes.counts.acknowledged:
        crashes.round()


def test_the_simulated_power_cut_loses_what_was_not_synced(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "image", 16 << 20)
    with disk.mounted(tmp_path / "disk") as place:
        write_file(place / "synced", b"kept" * 1000)
        many = {place / str(n % 4) / str(n): b"kept" * n for n in range(3 * MANY)}
        for folder in {file.parent for file in many}:
            folder.mkdir()
        write_files(many)
        (place / "not synced").write_bytes(b"lost" * 1000)
        disk.cut_power(place)
        assert (place / "synced").read_bytes() == b"kept" * 1000
        assert {file: file.read_bytes() for file in many} == many
        lost = place / "not synced"
        assert not lost.exists() or lost.read_bytes() != b"lost" * 1000


def test_a_power_cut_loses_nothing_acknowledged(services: Nursery, tmp_path: Path) -> None:
    """A real file system, and what it had not been told to write is gone."""
    disk = Disk(tmp_path / "image")
    with disk.mounted(tmp_path / "disk") as place:
        crashes = Crashes(services, tmp_path / "crashes", 5, place / "data", lambda: disk.cut_power(place))
        while crashes.counts.rounds < POWER_CUTS or not crashes.counts.acknowledged:
            crashes.round()
