"""Feedback in a real database: what is kept, what counts, and how the table came to be."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine

from app.catalog.feedback import LocalFeedback
from app.catalog.records import MIGRATIONS, Records
from app.core.feedback import contradictions, settled
from app.core.product import Embedding
from app.core.statements import Side, Statement, StatementDraft
from app.errors import CatalogNotFound, InvalidTitle, ProductNotFound
from app.matcher import Matcher, MatchOptions
from tests.fakes import FINGERPRINT, FUSION, letter_vector, photo

Open = Callable[..., Matcher]
RED = photo((255, 0, 0))


def index(matcher: Matcher, product_id: str, title: str | None, *images: bytes, catalog: str = "default") -> tuple[str, ...]:
    """Stores a product; returns the digests of its photos."""
    product = matcher.read_product(product_id, title, images, {})
    matcher.add(catalog, [product])
    return tuple(upload.photo.sha256 for upload in product.uploads)


def draft(first: str, second: str | Side, same: bool = True, by: str = "ana", note: str | None = None) -> StatementDraft:
    return StatementDraft(Side(first), Side(second) if isinstance(second, str) else second, same, by, note)


@pytest.fixture
def stocked(matcher: Matcher) -> Matcher:
    """A catalog of five products without photos."""
    for name in "abcde":
        index(matcher, name, f"title {name}")
    return matcher


# -- what is kept ----------------------------------------------------------------------------------------------


def test_a_statement_keeps_what_the_products_were(matcher: Matcher) -> None:
    digests = index(matcher, "p", "aaa", RED, photo((0, 0, 255)))
    index(matcher, "q", None, RED)
    before = datetime.now(UTC)
    made = matcher.add_feedback("default", draft("q", "p", note="the same red"))
    assert before <= made.at <= datetime.now(UTC)
    assert (made.first, made.second) == (Side("p", "aaa", digests), Side("q", None, digests[:1]))
    index(matcher, "p", "bbb")
    matcher.catalog.delete("default", "q")
    assert matcher.catalog.feedback.statements("default") == [made]
    assert matcher.add_feedback("default", draft("p", Side(None, "ccc"))).first == Side("p", "bbb")


def test_a_title_that_was_asked_is_kept_as_the_towers_read_it(stocked: Matcher) -> None:
    titles = ["red  shoe", "red\u00a0shoe", "\uff52ed shoe\u200b"]
    made = [stocked.add_feedback("default", draft("a", Side(None, title))) for title in titles]
    assert {one.second for one in made} == {Side(None, "red shoe")}
    assert [one.replaced for one in stocked.catalog.feedback.statements("default")] == [True, True, False]


def test_what_cannot_be_stored_leaves_no_row(stocked: Matcher) -> None:
    index(stocked, "p", "ppp", catalog="other")
    refused: list[tuple[str | Side, type[Exception]]] = [
        ("p", ProductNotFound),
        (Side(None, "a\0b"), InvalidTitle),
        (Side(None, ""), InvalidTitle),
    ]
    for other, error in refused:
        with pytest.raises(error):
            stocked.add_feedback("default", draft("a", other))
    with pytest.raises(CatalogNotFound):
        stocked.add_feedback("nowhere", draft("a", "b"))
    assert stocked.catalog.feedback.statements("default") == stocked.catalog.feedback.statements("other") == []
    store = stocked.catalog.feedback
    for read in (lambda: store.statements("nowhere"), lambda: store.page("nowhere", None, 10)):
        with pytest.raises(CatalogNotFound):
            read()


# -- which count -----------------------------------------------------------------------------------------------


def test_only_a_later_one_of_the_same_person_about_the_same_pair_replaces(stocked: Matcher) -> None:
    for name in "ab":
        index(stocked, name, "other", catalog="other")
    said = [
        draft("a", "b"),
        draft("a", "b", by="ben"),
        draft("a", "c"),
        draft("a", Side(None, "b")),
        draft("b", "a", same=False),
    ]
    for one in said:
        stocked.add_feedback("default", one)
    stocked.add_feedback("other", draft("a", "b"))
    read = stocked.catalog.feedback.statements("default")
    assert [one.replaced for one in read] == [True, False, False, False, False]
    assert [one.replaced for one in stocked.catalog.feedback.statements("other")] == [False]
    left_out = settled(read).left_out
    assert [(one.statement.number, one.reason) for one in left_out] == [(read[0].number, "replaced")] + [
        (read[n].number, "tie") for n in (1, 4)
    ]


def test_the_store_and_the_rules_agree_on_what_is_replaced(stocked: Matcher) -> None:
    chance = np.random.default_rng(3)
    for _ in range(60):
        first, second = chance.choice(list("abcde"), 2, replace=False)
        verdict, by = bool(chance.integers(2)), str(chance.choice(["ana", "ben"]))
        stocked.add_feedback("default", draft(str(first), str(second), verdict, by))
    read = stocked.catalog.feedback.statements("default")
    replaced = {one.statement.number for one in settled(read).left_out if one.reason == "replaced"}
    assert {one.number for one in read if one.replaced} == replaced != set()
    assert list(contradictions(one for one in read if not one.replaced)) == list(contradictions(read)) != []


# -- pages -----------------------------------------------------------------------------------------------------


def pages(matcher: Matcher, limit: int, catalog: str = "default") -> list[Statement]:
    """All statements, page by page."""
    seen: list[Statement] = []
    cursor = None
    while True:
        page = matcher.catalog.feedback.page(catalog, cursor, limit)
        seen += page.statements
        if page.cursor is None:
            return seen
        assert len(page.statements) == limit
        assert cursor is None or page.cursor < cursor
        cursor = page.cursor


@pytest.mark.parametrize("limit", [1, 2, 3, 6, 7])
def test_pages_hold_every_statement_of_their_catalog_once_newest_first(stocked: Matcher, limit: int) -> None:
    for name in "ab":
        index(stocked, name, "other", catalog="other")
    for n in range(6):
        stocked.add_feedback("default", draft("a", "b", by=f"person {n}"))
        stocked.add_feedback("other", draft("a", "b", by=f"person {n}"))
    assert pages(stocked, limit) == stocked.catalog.feedback.statements("default")[::-1]
    assert stocked.catalog.feedback.page("default", None, limit).total == 6


def test_a_statement_that_comes_while_somebody_reads_is_on_no_later_page(stocked: Matcher) -> None:
    first, second = (stocked.add_feedback("default", draft("a", "b", by=by)) for by in ("ana", "ben"))
    page = stocked.catalog.feedback.page("default", None, 1)
    assert page.statements == (second,)
    stocked.add_feedback("default", draft("a", "b", by="cy"))
    assert stocked.catalog.feedback.page("default", page.cursor, 5).statements == (first,)


# -- threads and restarts --------------------------------------------------------------------------------------


def test_statements_and_products_of_many_threads_do_not_get_into_each_others_way(stocked: Matcher) -> None:
    failures: list[BaseException] = []

    def work(name: str) -> None:
        try:
            for n in range(15):
                stocked.add_feedback("default", draft("a", "b", by=f"{name}-{n}"))
                index(stocked, name, f"title {n}")
        except BaseException as error:  # noqa: BLE001 - shown by the assertion below
            failures.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in "wxyz"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    read = stocked.catalog.feedback.statements("default")
    assert {one.by for one in read} == {f"{name}-{n}" for name in "wxyz" for n in range(15)}
    assert len({one.number for one in read}) == len(read) == 60


def test_everything_is_there_after_a_restart_and_without_a_model(open_matcher: Open, tmp_path: Path) -> None:
    matcher = open_matcher()
    for name in "ab":
        index(matcher, name, name * 3, RED)
    made = [matcher.add_feedback("default", draft("a", other)) for other in ("b", Side(None, "a question"))]
    matcher.close()
    again = open_matcher()
    assert again.catalog.feedback.statements("default") == made
    more = again.add_feedback("default", draft("a", "b", False))
    assert more.number > made[-1].number
    again.close()
    with closing(Records(f"sqlite:///{tmp_path / 'data' / 'catalog.sqlite'}")) as records:
        assert [one.replaced for one in LocalFeedback(records).statements("default")] == [True, False, False]


# -- migrations ------------------------------------------------------------------------------------------------


def migrate(folder: Path, how: Callable[[Config, str], None], revision: str) -> None:
    folder.mkdir(exist_ok=True)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    engine = create_engine(f"sqlite:///{folder / 'catalog.sqlite'}")
    config.attributes["engine"] = engine
    how(config, revision)
    engine.dispose()


def tables(folder: Path) -> set[str]:
    with closing(sqlite3.connect(folder / "catalog.sqlite")) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def test_a_database_of_the_first_version_keeps_its_products_and_takes_feedback(open_matcher: Open, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    migrate(folder, command.upgrade, "0001")
    assert "feedback" not in tables(folder)
    vector = FUSION.fuse(Embedding(np.zeros((0, FUSION.image_dim), np.float32), letter_vector("aaa")))
    with closing(sqlite3.connect(folder / "catalog.sqlite")) as connection:
        connection.execute("INSERT INTO catalogs VALUES (1, 'default', 1)")
        when = "2026-01-01 12:00:00.000000"
        for pk, name in ((1, "p"), (2, "q")):
            connection.execute("INSERT INTO products VALUES (?, 1, ?, 'aaa', '{\"n\": 1}', ?, ?)", (pk, name, when, when))
            row = (pk, pk, FINGERPRINT, int(vector[1][0]), vector[0].astype("<f4").tobytes())
            connection.execute("INSERT INTO vectors VALUES (?, 1, ?, ?, ?, ?)", row)
        connection.commit()
    matcher = open_matcher()
    (answer,) = matcher.match([matcher.read_query(None, "aaa")], MatchOptions())
    assert [(one.product.id, one.product.title, one.product.attributes) for one in answer.matches] == [
        (name, "aaa", {"n": 1}) for name in "pq"
    ]
    assert matcher.catalog.feedback.page("default", None, 10).statements == ()
    made = matcher.add_feedback("default", draft("p", "q"))
    assert matcher.catalog.feedback.statements("default") == [made]


def test_going_back_to_the_first_version_loses_feedback_and_hashes_alone(open_matcher: Open, tmp_path: Path) -> None:
    matcher = open_matcher()
    for name in "pq":
        index(matcher, name, "aaa", RED)
    matcher.add_feedback("default", draft("p", "q"))
    before = matcher.catalog.page("default", 0, 10)
    assert all(photo.phash is not None for product in before.products for photo in product.photos)
    matcher.close()
    migrate(tmp_path / "data", command.downgrade, "0001")
    assert tables(tmp_path / "data") >= {"products", "vectors"}
    assert "feedback" not in tables(tmp_path / "data")
    again = open_matcher()
    without = [
        replace(product, photos=tuple(replace(photo, phash=None) for photo in product.photos)) for product in before.products
    ]
    assert list(again.catalog.page("default", 0, 10).products) == without
    assert again.catalog.feedback.statements("default") == []
