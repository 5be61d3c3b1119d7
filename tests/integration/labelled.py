"""Small bundles and toy listings for the commands that read labelled listings; titles only, which is quick."""

from __future__ import annotations

import csv
import random
from pathlib import Path

from tests import tiny
from tests.toys import toy_table
from tests.training import run

GROUPS = 30


class Titles:
    """A bundle that reads titles, before and after `calibrate`, and tables of toy listings."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.encoder = tiny.title_encoder(folder)
        self.table = toy_table(folder / "many", GROUPS, photos=False)
        self.few = toy_table(folder / "few", 13, photos=False)  # thresholds need 50 listings
        self.plain = self.bundle("plain")
        self.pairs = self.bundle("pairs")
        self.said = run("calibrate", "--bundle", self.pairs, "--listings", self.table)

    def bundle(self, name: str) -> Path:
        out = self.folder / name
        run("bundle", "create", "--title-encoder", self.encoder, "--max-tokens", "24", "--out", out)
        return out

    def shuffled(self, to: Path) -> Path:
        """The same listings in another order."""
        rows = rows_of(self.table)
        random.Random(3).shuffle(rows)
        with to.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        return to


def rows_of(file: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))
