"""Every torn end of the database's log, hundreds of flipped bits in it, every torn page; and a disk that loses its power."""

from __future__ import annotations

import os
import random
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.crashing import Crashes, nursery
from tests.disks import Disk
from tests.power_cuts import PAGE, check_flipped_log, check_torn_log, check_torn_pages, lengths, make_history

pytestmark = pytest.mark.soak
ROUNDS = int(os.environ.get("SOAK_ROUNDS", "50"))


def test_every_damage_of_the_database(tmp_path: Path) -> None:
    history = make_history(tmp_path / "history")
    ends = lengths(history)
    check_torn_log(history, tmp_path, ends)
    places = random.Random(2).sample(range(32, history.ends[-1]), 200)
    check_flipped_log(history, tmp_path, places)
    pages = range((history.folder / "catalog.sqlite").stat().st_size // PAGE)
    refused = [check_torn_pages(history, tmp_path, pages, kept) for kept in (0, 512, 2048, 3584)]
    print(f"\n{len(ends)} ends of the log, {len(places)} flipped bits, {len(pages)} pages: refused {refused}, else complete")


def test_fifty_power_cuts(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "image")
    with disk.mounted(tmp_path / "disk") as place, nursery() as services:
        seed = int.from_bytes(os.urandom(4), "big")
        crashes = Crashes(services, tmp_path / "crashes", seed, place / "data", lambda: disk.cut_power(place))
        for _ in range(ROUNDS):
            crashes.round()
    print("\n" + ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in asdict(crashes.counts).items()))
