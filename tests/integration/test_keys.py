"""API keys on disk: made, listed and revoked by the command line, beside a service that uses the folder."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic import command
from typer.testing import CliRunner

from app.__main__ import cli
from app.catalog import writing
from app.catalog.keys import LocalKeys, open_keys
from app.core.access import Role, digest_of, id_of
from app.errors import DataFolderInUse, InvalidInput, KeyNotFound
from app.matcher import Matcher
from tests.integration.test_feedback_store import migrate

KEY = re.compile(r"samesku_[0-9a-f]{12}_[0-9a-f]{64}")


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[LocalKeys]:
    opened = open_keys(tmp_path / "data")
    yield opened
    opened.close()


def test_a_key_is_kept_as_its_hash_alone(keys: LocalKeys, tmp_path: Path) -> None:
    text, made = keys.create("Shop A", Role.WRITE, ["b", "a", "b"])
    assert KEY.fullmatch(text)
    assert made.id == id_of(text)
    assert made.digest == digest_of(text)
    assert (made.name, made.role, made.catalogs) == ("Shop A", Role.WRITE, ("a", "b"))
    assert (made.last_used_at, made.revoked_at) == (None, None)
    assert keys.stored() == [made]
    assert made.admits(text)
    for file in (tmp_path / "data").glob("catalog.sqlite*"):
        assert text.rsplit("_", 1)[1].encode() not in file.read_bytes()


def test_keys_differ_and_admit_only_themselves(keys: LocalKeys) -> None:
    made = [keys.create("k", Role.READ, None) for _ in range(20)]
    assert len({text for text, _ in made}) == len({key.id for _, key in made}) == 20
    for n, (_, key) in enumerate(made):
        assert [key.admits(text) for text, _ in made] == [n == m for m in range(20)]
        assert not any(key.admits(text) for text in ("", key.digest, key.id, made[n][0] + "0", made[n][0][:-1]))


def test_a_revoked_key_admits_nobody_and_stays_listed(keys: LocalKeys) -> None:
    text, key = keys.create("k", Role.READ, None)
    revoked = keys.revoke(key.id)
    assert not revoked.admits(text)
    assert keys.stored() == [revoked]
    assert keys.revoke(key.id) == revoked
    with pytest.raises(KeyNotFound, match="keys list"):
        keys.revoke("nobody")


def test_the_last_use_is_kept(keys: LocalKeys) -> None:
    _, key = keys.create("k", Role.READ, None)
    at = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    keys.used({key.id: at, "gone": at})
    assert [one.last_used_at for one in keys.stored()] == [at]


@pytest.mark.parametrize(
    ("name", "role", "catalogs"),
    [
        ("", Role.READ, None),
        ("x" * 201, Role.READ, None),
        ("a\nb", Role.READ, None),
        ("k", Role.READ, []),
        ("k", Role.READ, ["../x"]),
        ("k", Role.ADMIN, ["a"]),
        ("k", Role.METRICS, ["a"]),
    ],
)
def test_a_key_that_makes_no_sense_is_refused(keys: LocalKeys, name: str, role: Role, catalogs: list[str] | None) -> None:
    with pytest.raises(InvalidInput):
        keys.create(name, role, catalogs)
    assert keys.stored() == []


# -- beside a service ------------------------------------------------------------------------------------------


def test_keys_are_made_and_revoked_while_the_folder_is_in_use(matcher: Matcher, tmp_path: Path) -> None:
    matcher.add("default", [matcher.read_product("p", "abc", [], {})])
    with closing(open_keys(tmp_path / "data")) as keys:
        _, key = keys.create("k", Role.READ, None)
        matcher.add("default", [matcher.read_product("q", "abd", [], {})])
        assert keys.revoke(key.id).revoked_at is not None
    assert matcher.catalog.size("default") == 2


def test_a_key_that_is_made_in_the_middle_of_a_change_does_not_break_it(
    matcher: Matcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without BEGIN IMMEDIATE the change reads first, and SQLite then refuses its first write."""
    with (
        closing(open_keys(tmp_path / "data")) as keys,
        closing(sqlite3.connect(tmp_path / "data" / "catalog.sqlite")) as other,
    ):
        other.execute("PRAGMA busy_timeout = 0")
        refused = []
        find = writing.find_products

        def find_while_others_write(*arguments: object) -> object:
            found = find(*arguments)  # type: ignore[arg-type]
            try:
                other.execute("INSERT INTO api_keys VALUES ('x', 'n', 'read', NULL, 'd', '2026-01-01', NULL, NULL)")
                other.commit()
            except sqlite3.OperationalError:
                refused.append(True)
            return found

        monkeypatch.setattr("app.catalog.local.find_products", find_while_others_write)
        matcher.add("default", [matcher.read_product("p", "abc", [], {})])
        assert refused == [True]  # it has to wait, and the change goes through
        assert matcher.catalog.get("default", "p").title == "abc"
        assert keys.stored() == []


def test_an_older_database_is_migrated_unless_a_service_is_using_it(
    open_matcher: Callable[..., Matcher], tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    opened = open_matcher()
    migrate(folder, command.downgrade, "0003")
    with pytest.raises(DataFolderInUse, match="restart"):
        open_keys(folder)
    opened.catalog.close()
    with closing(open_keys(folder)) as keys:
        assert keys.stored() == []


def test_cursors_and_numbers_count_within_their_catalog(matcher: Matcher) -> None:
    for n in range(3):
        for catalog in ("a", "b"):
            matcher.add(catalog, [matcher.read_product(f"p{n}", "abc", [], {})])
    assert [matcher.catalog.page("b", after, 1).cursor for after in range(3)] == [1, 2, None]
    matcher.catalog.delete("b", "p2")
    matcher.add("b", [matcher.read_product("p3", "abc", [], {})])
    assert [one.id for one in matcher.catalog.page("b", 3, 5).products] == ["p3"]  # the place of p2 is not given away


def test_the_migration_keeps_the_order_of_each_catalog(open_matcher: Callable[..., Matcher], tmp_path: Path) -> None:
    matcher = open_matcher()
    for n in (2, 0, 1):
        for catalog in ("a", "b"):
            matcher.add(catalog, [matcher.read_product(f"p{n}", "abc", [], {})])
    matcher.close()
    migrate(tmp_path / "data", command.downgrade, "0003")
    migrated = open_matcher()
    for catalog in ("a", "b"):
        assert [one.id for one in migrated.catalog.page(catalog, 0, 9).products] == ["p2", "p0", "p1"]
        assert migrated.catalog.page(catalog, 0, 2).cursor == 2
    migrated.add("a", [migrated.read_product("p9", "abc", [], {})])
    assert [one.id for one in migrated.catalog.page("a", 3, 9).products] == ["p9"]


# -- the command line ------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.setenv("SAMESKU_DATA_DIR", str(tmp_path / "data"))

    def run_one(*arguments: str) -> tuple[int, str, str]:
        result = CliRunner().invoke(cli, ["keys", *arguments], env={"COLUMNS": "200"})
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    return run_one


def test_a_key_is_shown_once(run: Callable[..., tuple[int, str, str]], keys: LocalKeys) -> None:
    code, shown, said = run("create", "--role", "write", "--catalog", "a", "--catalog", "b", "--name", "Shop [A]")
    assert code == 0
    text = shown.strip()
    assert KEY.fullmatch(text)
    assert text not in said
    (key,) = keys.stored()
    assert key.admits(text)
    _, listed, _ = run("list")
    assert text.rsplit("_", 1)[1] not in listed
    assert key.digest not in listed
    for part in (key.id, "Shop [A]", "write", "a, b"):
        assert part in listed
    assert run("revoke", key.id)[0] == 0
    assert not keys.stored()[0].admits(text)
    with pytest.raises(KeyNotFound):
        run("revoke", "nobody")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--role", "read"),
        ("--role", "owner", "--all-catalogs"),
        ("--role", "read", "--catalog", "a", "--all-catalogs"),
        ("--role", "admin", "--catalog", "a"),
    ],
    ids=" ".join,
)
def test_a_key_must_say_what_it_is_for(
    run: Callable[..., tuple[int, str, str]], keys: LocalKeys, arguments: tuple[str, ...]
) -> None:
    assert run("create", *arguments)[0] == 2
    assert keys.stored() == []


@pytest.mark.parametrize("role", ["admin", "metrics"])
def test_admin_and_metrics_keys_are_for_all_catalogs(
    run: Callable[..., tuple[int, str, str]], keys: LocalKeys, role: str
) -> None:
    assert run("create", "--role", role)[0] == 0
    assert keys.stored()[0].catalogs is None
