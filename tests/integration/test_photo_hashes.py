"""Perceptual hashes of stored photos: new photos have one, those of an older database none until they are indexed again."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from alembic import command

from app.matcher import Matcher, MatchOptions
from tests.fakes import FINGERPRINT, FUSION
from tests.integration.test_feedback_store import migrate
from tests.judged import listings, store

MADE = [one for one in listings(3, 4) if one.photo]
Open = Callable[..., Matcher]


def stored_hashes(folder: Path) -> list[str | None]:
    with closing(sqlite3.connect(folder / "catalog.sqlite")) as connection:
        return [value for (value,) in connection.execute("SELECT phash FROM photos ORDER BY pk")]


def columns(folder: Path) -> set[str]:
    with closing(sqlite3.connect(folder / "catalog.sqlite")) as connection:
        return {row[1] for row in connection.execute("PRAGMA table_info(photos)")}


def shown(matcher: Matcher) -> list[tuple[str, str | None, int, bytes]]:
    products = matcher.catalog.page("default", 0, 1000).products
    return [(p.id, p.title, len(p.photos), matcher.catalog.photo("default", p.id, 0)[0]) for p in products]


def test_a_photo_is_stored_with_its_hash_and_read_back(matcher: Matcher, tmp_path: Path) -> None:
    store(matcher, MADE)
    for made in MADE:
        assert made.photo is not None
        asked = matcher.read_query(made.photo, None)
        (photo,) = matcher.catalog.get("default", made.id).photos
        assert asked.phash is not None
        assert photo.phash == asked.phash
    kept = stored_hashes(tmp_path / "data")
    assert all(value is not None and len(value) == 16 for value in kept)
    assert len(set(kept)) > 1


def test_a_database_of_the_second_version_keeps_its_photos_and_has_no_hashes(open_matcher: Open, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    matcher = open_matcher()
    store(matcher, MADE)
    before = shown(matcher)
    matcher.close()
    migrate(folder, command.downgrade, "0002")  # what a service of that version has on disk
    assert "phash" not in columns(folder)
    again = open_matcher()
    assert shown(again) == before
    assert stored_hashes(folder) == [None] * len(MADE)
    assert all(photo.phash is None for made in MADE for photo in again.catalog.get("default", made.id).photos)
    (answer,) = again.match([again.read_query(MADE[0].photo, MADE[0].title)], MatchOptions())
    assert answer.matches[0].product.id == MADE[0].id
    store(again, MADE[:2])
    assert [value is None for value in sorted(stored_hashes(folder), key=lambda value: value is None)] == (
        [False] * 2 + [True] * (len(MADE) - 2)
    )


def test_rows_that_the_second_version_wrote_are_read(open_matcher: Open, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    migrate(folder, command.upgrade, "0002")
    when = "2026-01-01 12:00:00.000000"
    with closing(sqlite3.connect(folder / "catalog.sqlite")) as connection:
        connection.execute("INSERT INTO catalogs VALUES (1, 'default', 1)")
        connection.execute("INSERT INTO products VALUES (1, 1, 'p', NULL, '{}', ?, ?)", (when, when))
        connection.execute("INSERT INTO photos VALUES (1, 1, 0, ?, 'image/png', 40, 30)", ("a" * 64,))
        row = (1, 1, FINGERPRINT, 1, b"\0" * 4 * FUSION.dim)
        connection.execute("INSERT INTO vectors VALUES (?, 1, ?, ?, ?, ?)", row)
        connection.commit()
    (photo,) = open_matcher().catalog.get("default", "p").photos
    assert (photo.sha256, photo.media_type, photo.width, photo.height, photo.phash) == ("a" * 64, "image/png", 40, 30, None)


def test_products_without_hashes_are_judged(open_matcher: Open, tmp_path: Path, judging: Matcher) -> None:
    store(judging, MADE)
    judging.close()
    migrate(tmp_path / "judged", command.downgrade, "0002")
    again = open_matcher(tmp_path / "judged", pairs=judging.judge.model)
    (answer,) = again.match([again.read_query(MADE[0].photo, MADE[0].title)], MatchOptions(threshold=-1))
    codes = {reason.code for match in answer.matches for reason in match.reasons}
    assert all(match.probability is not None for match in answer.matches)
    assert not codes & {"same_photo", "edited_photo"}
