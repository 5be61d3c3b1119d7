"""The catalog of one machine: SQLite, FAISS and photos on disk say the same, whatever happens to them."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import event

from app.catalog.data_folder import DataFolder
from app.catalog.keys import open_keys
from app.catalog.local import LocalCatalog
from app.catalog.records import Base, Records
from app.core.product import Embedding, Prepared, ProductDraft, Query, Scalar
from app.errors import (
    CatalogError,
    CatalogNotFound,
    DataFolderInUse,
    DuplicateIds,
    InvalidInput,
    ModelMismatch,
    PhotoNotFound,
    ProductNotFound,
    SchemaMismatch,
)
from app.matcher import Matcher, MatchOptions
from tests.fakes import FINGERPRINT, FUSION, FakeEncoder, photo
from tests.power_cuts import flip

Open = Callable[..., Matcher]
Colour = tuple[int, int, int]
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def index(
    matcher: Matcher,
    product_id: str,
    title: str | None = None,
    colours: tuple[Colour, ...] = (),
    catalog: str = "default",
    **attributes: Scalar,
) -> None:
    product = matcher.read_product(product_id, title, [photo(colour) for colour in colours], attributes)
    matcher.add(catalog, [product])


def ids(
    matcher: Matcher,
    title: str | None = None,
    colour: Colour | None = None,
    catalog: str = "default",
    threshold: float = 0.99,
    **where: Scalar,
) -> list[str]:
    query = matcher.read_query(None if colour is None else photo(colour), title)
    accepted = {name: (value,) for name, value in where.items()}
    answer = matcher.match([query], MatchOptions(threshold, 1000, accepted, catalog))[0]
    return [match.product.id for match in answer.matches]


def photo_files(folder: Path) -> list[str]:
    return sorted(file.name for file in (folder / "photos").rglob("*") if file.is_file())


def rows_in(folder: Path, table: str) -> int:
    with sqlite3.connect(folder / "catalog.sqlite") as connection:
        count: int = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    connection.close()
    return count


def draft(product_id: str, title: str, image: bytes, matcher: Matcher) -> ProductDraft:
    product = matcher.read_product(product_id, title, [image], {})
    return product.draft(matcher.embed([product.prepared])[0])


# -- writing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("catalog", ["default", "new"])
@pytest.mark.parametrize("fault", ["vectors of another model", "text that no database stores"])
def test_a_put_that_fails_leaves_nothing_behind(open_matcher: Open, tmp_path: Path, catalog: str, fault: str) -> None:
    matcher = open_matcher()
    index(matcher, "kept", "aaa", (RED,))
    before = photo_files(tmp_path / "data")
    good = draft("good", "bbb", photo(GREEN), matcher)
    wrong = Embedding(np.ones((1, 5), np.float32) / np.sqrt(5).astype(np.float32))
    bad = (
        ProductDraft("bad", None, (), {}, wrong)
        if fault == "vectors of another model"
        else ProductDraft("bad", "\ud800", (), {}, good.embedding)
    )
    with pytest.raises((ValueError, UnicodeEncodeError)):
        matcher.catalog.put(catalog, [good, bad])
    assert [info.name for info in matcher.catalog.catalogs()] == ["default"]
    assert matcher.catalog.size("default") == 1
    assert ids(matcher, "bbb") == []
    assert rows_in(tmp_path / "data", "products") == rows_in(tmp_path / "data", "vectors") == 1
    assert photo_files(tmp_path / "data") == before
    matcher.catalog.put(catalog, [good])
    assert ids(matcher, "bbb", GREEN, catalog) == ["good"]


def test_one_batch_with_an_id_twice_is_refused_whole(matcher: Matcher) -> None:
    one = draft("p", "aaa", photo(RED), matcher)
    with pytest.raises(DuplicateIds):
        matcher.catalog.put("default", [one, one])
    assert matcher.catalog.size("default") == 0


def test_an_empty_put_changes_nothing_and_creates_no_catalog(matcher: Matcher) -> None:
    assert matcher.catalog.put("other", []) == []
    assert [info.name for info in matcher.catalog.catalogs()] == ["default"]


def test_a_bad_catalog_name_is_refused(matcher: Matcher) -> None:
    with pytest.raises(InvalidInput):
        matcher.catalog.put("../etc", [draft("p", "aaa", photo(RED), matcher)])


def test_a_replaced_product_is_found_by_what_it_is_now_and_by_nothing_else(matcher: Matcher, tmp_path: Path) -> None:
    index(matcher, "p", "aaa", (RED, GREEN), size=1)
    created = matcher.catalog.get("default", "p").created_at
    index(matcher, "p", "bbb", (BLUE,), size=2)
    assert ids(matcher, "aaa") == ids(matcher, None, RED) == ids(matcher, "bbb", size=1) == []
    assert ids(matcher, "bbb", size=2) == ids(matcher, None, BLUE) == ["p"]
    now = matcher.catalog.get("default", "p")
    assert (now.title, len(now.photos), dict(now.attributes)) == ("bbb", 1, {"size": 2})
    assert now.created_at == created <= now.updated_at
    assert [rows_in(tmp_path / "data", t) for t in ("products", "photos", "attributes", "vectors")] == [1, 1, 1, 1]
    assert len(photo_files(tmp_path / "data")) == 1


def test_replacing_keeps_the_place_among_equal_scores_and_pages(matcher: Matcher) -> None:
    for one in ("a", "b", "c"):
        index(matcher, one, "same")
    index(matcher, "a", "same")
    assert ids(matcher, "same") == ["a", "b", "c"]
    assert [p.id for p in matcher.catalog.page("default", 0, 10).products] == ["a", "b", "c"]


def test_a_deleted_product_leaves_no_row_no_vector_no_attribute_and_no_photo(matcher: Matcher, tmp_path: Path) -> None:
    index(matcher, "p", "aaa", (RED, GREEN), size=1)
    matcher.catalog.delete("default", "p")
    tables = ("products", "photos", "attributes", "vectors")
    assert [rows_in(tmp_path / "data", table) for table in tables] == [0, 0, 0, 0]
    assert photo_files(tmp_path / "data") == []
    assert ids(matcher, "aaa", RED, threshold=-1) == []
    with pytest.raises(ProductNotFound):
        matcher.catalog.delete("default", "p")


def test_a_photo_stays_while_another_product_uses_it(matcher: Matcher, tmp_path: Path) -> None:
    index(matcher, "a", None, (RED,))
    index(matcher, "b", None, (RED, RED), catalog="other")
    assert len(photo_files(tmp_path / "data")) == 1
    matcher.catalog.delete("default", "a")
    assert matcher.catalog.photo("other", "b", 1)[0] == photo(RED)
    index(matcher, "b", "without a photo", catalog="other")
    assert photo_files(tmp_path / "data") == []


def test_filters_compare_numbers_as_numbers_and_never_with_text(matcher: Matcher) -> None:
    values: dict[str, Scalar] = {"int": 1, "float": 1.0, "text": "1", "true": True, "zero": 0, "minus zero": -0.0}
    for name, value in values.items():
        index(matcher, name, "same", size=value)
    assert ids(matcher, "same", size=1) == ids(matcher, "same", size=1.0) == ["int", "float"]
    assert ids(matcher, "same", size="1") == ["text"]
    assert ids(matcher, "same", size=True) == ["true"]
    assert ids(matcher, "same", size=0) == ["zero", "minus zero"]


# -- reading ---------------------------------------------------------------------------------------------------


def test_catalogs_are_separate_even_with_equal_ids(matcher: Matcher) -> None:
    index(matcher, "p", "aaa", (RED,), catalog="one")
    index(matcher, "p", "bbb", (BLUE,), catalog="two")
    assert ids(matcher, "aaa", RED, "one") == ["p"]
    assert ids(matcher, "aaa", RED, "two") == []
    matcher.catalog.delete("one", "p")
    assert ids(matcher, "bbb", BLUE, "two") == ["p"]
    assert [(c.name, c.products) for c in matcher.catalog.catalogs()] == [("default", 0), ("one", 0), ("two", 1)]
    with pytest.raises(CatalogNotFound):
        matcher.catalog.size("three")


def test_pages_end_without_a_cursor_and_hold_every_product_once(matcher: Matcher) -> None:
    for n in range(7):
        index(matcher, f"p{n}", "same")
    seen, cursor = [], 0
    for _ in range(3):
        page = matcher.catalog.page("default", cursor, 3)
        seen += [product.id for product in page.products]
        cursor = page.cursor or 0
    assert seen == [f"p{n}" for n in range(7)]
    assert cursor == 0
    assert matcher.catalog.page("default", 0, 7).cursor is None


def test_pages_stay_right_while_products_come_and_go(matcher: Matcher) -> None:
    for n in range(6):
        index(matcher, f"p{n}", "same")
    cursor = matcher.catalog.page("default", 0, 3).cursor
    assert cursor is not None
    for gone in ("p0", "p2", "p4"):
        matcher.catalog.delete("default", gone)
    index(matcher, "new", "same")
    assert [p.id for p in matcher.catalog.page("default", cursor, 10).products] == ["p3", "p5", "new"]


def test_a_product_that_is_added_after_the_last_ones_are_deleted_comes_behind_an_older_cursor(matcher: Matcher) -> None:
    for n in range(3):
        index(matcher, f"p{n}", "same")
    cursor = matcher.catalog.page("default", 0, 2).cursor
    assert cursor is not None
    for gone in ("p1", "p2"):
        matcher.catalog.delete("default", gone)
    index(matcher, "new", "same")
    assert [p.id for p in matcher.catalog.page("default", cursor, 10).products] == ["new"]


def test_photos_are_numbered_as_they_were_sent(matcher: Matcher) -> None:
    index(matcher, "p", None, (BLUE, RED, GREEN))
    assert [matcher.catalog.photo("default", "p", n)[0] for n in range(3)] == [photo(c) for c in (BLUE, RED, GREEN)]
    for position in (3, -1):
        with pytest.raises(PhotoNotFound):
            matcher.catalog.photo("default", "p", position)


def test_a_product_of_several_photos_is_found_by_each_of_them_once(matcher: Matcher) -> None:
    index(matcher, "p", "aaa", (BLUE, RED))
    assert ids(matcher, "aaa", RED) == ids(matcher, "aaa", BLUE) == ids(matcher, None, BLUE) == ["p"]


def test_the_stored_embedding_is_the_one_that_was_given(matcher: Matcher) -> None:
    given = draft("p", "abca", photo((10, 20, 30)), matcher)
    matcher.catalog.put("default", [given])
    stored = matcher.catalog.embedding("default", "p")
    np.testing.assert_allclose(stored.images, given.embedding.images, atol=1e-6)
    assert stored.title is not None
    assert given.embedding.title is not None
    np.testing.assert_allclose(stored.title, given.embedding.title, atol=1e-6)


def test_embedded_products_are_those_of_that_catalog_that_have_vectors(
    matcher: Matcher, open_matcher: Open, tmp_path: Path
) -> None:
    for name in "abc":
        index(matcher, name, name * 3, (RED,), size=1)
    index(matcher, "d", "ddd", catalog="other")
    matcher.close()
    with closing(sqlite3.connect(tmp_path / "data" / "catalog.sqlite")) as connection:
        connection.execute("DELETE FROM vectors WHERE product_pk = (SELECT pk FROM products WHERE id = 'b')")
        connection.commit()
    again = open_matcher()
    found = again.catalog.embedded("default", ["c", "a", "b", "d", "unknown", "a"])
    assert found == {name: again.catalog.get("default", name) for name in "ac"}
    assert again.catalog.embedded("default", []) == {}
    with pytest.raises(CatalogNotFound):
        again.catalog.embedded("missing", ["a"])


def test_a_product_read_while_it_is_replaced_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    data = DataFolder(tmp_path)
    catalog = LocalCatalog(data, FUSION, FINGERPRINT)
    embedding = Embedding(np.zeros((0, 3), np.float32), np.eye(8, dtype=np.float32)[0])
    catalog.put("default", [ProductDraft("p", "old", (), {}, embedding)])
    reader = threading.get_ident()
    writers: list[threading.Thread] = []

    def replace() -> None:
        upload, _ = FakeEncoder().read_photo(photo(RED))
        catalog.put("default", [ProductDraft("p", "new", (upload,), {}, embedding)])

    def between(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if threading.get_ident() == reader and "FROM products" in statement and not writers:
            writers.append(threading.Thread(target=replace))
            writers[0].start()
            writers[0].join()

    event.listen(data.records.engine, "after_cursor_execute", between)
    read = catalog.get("default", "p")
    assert writers
    assert (read.title, len(read.photos)) in {("old", 0), ("new", 1)}
    catalog.close()


# -- opening ---------------------------------------------------------------------------------------------------


def test_another_model_is_refused_with_the_command_that_helps(open_matcher: Open) -> None:
    matcher = open_matcher()
    index(matcher, "p", "aaa")
    matcher.close()
    with pytest.raises(ModelMismatch, match="python -m app index --reembed") as caught:
        open_matcher(fingerprint="0123456789abcdef")
    assert FINGERPRINT in str(caught.value)


def test_a_folder_without_products_opens_with_any_model(open_matcher: Open) -> None:
    open_matcher().close()
    assert open_matcher(fingerprint="0123456789abcdef").catalog.size("default") == 0


def test_a_second_opener_is_refused_until_the_first_closes(open_matcher: Open, tmp_path: Path) -> None:
    matcher = open_matcher()
    with pytest.raises(DataFolderInUse, match="in use by another process"):
        DataFolder(tmp_path / "data")
    matcher.close()
    DataFolder(tmp_path / "data").close()


def test_closing_twice_does_no_harm(open_matcher: Open) -> None:
    matcher = open_matcher()
    index(matcher, "p", "aaa")
    matcher.close()
    matcher.close()


def test_a_database_of_a_newer_version_is_refused_and_left_alone(open_matcher: Open, tmp_path: Path) -> None:
    matcher = open_matcher()
    index(matcher, "p", "aaa")
    matcher.close()
    with sqlite3.connect(tmp_path / "data" / "catalog.sqlite") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    for _ in range(2):  # the refusal releases the folder
        with pytest.raises(SchemaMismatch, match="upgrade"):
            open_matcher()
    assert rows_in(tmp_path / "data", "products") == 1


@pytest.mark.parametrize("kept_bytes", [0, 4096, 5 * 4096], ids=["header", "first page", "fifth page"])
def test_a_damaged_database_is_a_catalog_error(open_matcher: Open, tmp_path: Path, kept_bytes: int) -> None:
    matcher = open_matcher()
    matcher.add("default", [matcher.read_product(f"p{n}", "aaa", [], {"size": n}) for n in range(60)])
    matcher.close()
    file = tmp_path / "data" / "catalog.sqlite"
    whole = file.read_bytes()
    file.write_bytes(whole[:kept_bytes] + b"\xa5" * (len(whole) - kept_bytes))
    with pytest.raises(CatalogError), closing(DataFolder(tmp_path / "data")) as data:
        LocalCatalog(data, FUSION, FINGERPRINT)
    shutil.rmtree(tmp_path / "data")
    assert open_matcher().catalog.size("default") == 0  # the refusal has released the folder


@pytest.mark.parametrize("lose", [Path.unlink, lambda file: file.write_bytes(b"")], ids=["missing", "empty"])
def test_a_lost_database_is_refused_and_its_photos_are_kept(
    open_matcher: Open, tmp_path: Path, lose: Callable[[Path], object]
) -> None:
    matcher = open_matcher()
    index(matcher, "p", "aaa", (RED,))
    matcher.close()
    lose(tmp_path / "data" / "catalog.sqlite")
    (tmp_path / "data" / "running").touch()
    with pytest.raises(CatalogError, match="restore a backup"):
        DataFolder(tmp_path / "data")
    with pytest.raises(CatalogError, match="restore a backup"):
        open_keys(tmp_path / "data")
    assert len(photo_files(tmp_path / "data")) == 1


def test_a_data_folder_that_cannot_be_made_is_a_catalog_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CatalogError):
        DataFolder(tmp_path / "file" / "data")


def test_the_migrations_make_the_schema_of_the_models(tmp_path: Path) -> None:
    records = Records(f"sqlite:///{tmp_path / 'new.sqlite'}")
    with records.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []
    records.close()


# -- photos after a crash ---------------------------------------------------------------------------------------


def test_half_written_and_orphaned_photos_are_removed_after_an_unclean_stop(open_matcher: Open, tmp_path: Path) -> None:
    matcher = open_matcher()
    index(matcher, "a", None, (RED,))
    named = photo_files(tmp_path / "data")
    shutil.copytree(tmp_path / "data", tmp_path / "crashed")
    leave_litter(tmp_path / "crashed")
    again = open_matcher(tmp_path / "crashed")
    assert photo_files(tmp_path / "crashed") == named
    assert again.catalog.photo("default", "a", 0)[0] == photo(RED)


def test_a_crash_is_forgotten_only_once_the_folder_was_looked_at(open_matcher: Open, tmp_path: Path) -> None:
    matcher = open_matcher()
    index(matcher, "a", None, (RED,))
    named = photo_files(tmp_path / "data")
    crashed = tmp_path / "crashed"
    shutil.copytree(tmp_path / "data", crashed)
    leave_litter(crashed)
    DataFolder(crashed, recover=False).close()
    assert photo_files(crashed) != named
    with closing(DataFolder(crashed, recover=False)) as data:
        data.recover()
    assert photo_files(crashed) == named
    assert not (crashed / "running").exists()


def test_photos_of_a_put_that_a_crash_cut_off_are_removed_even_if_nothing_else_changed(
    open_matcher: Open, tmp_path: Path
) -> None:
    matcher = open_matcher()
    index(matcher, "a", None, (RED,))
    matcher.close()
    named = photo_files(tmp_path / "data")
    open_matcher()  # running, nothing committed yet
    shutil.copytree(tmp_path / "data", tmp_path / "crashed")
    leave_litter(tmp_path / "crashed")
    open_matcher(tmp_path / "crashed")
    assert photo_files(tmp_path / "crashed") == named


def leave_litter(folder: Path) -> None:
    for name in ("ab" * 32, f".{'ab' * 32}.1234"):
        file = folder / "photos" / "ab" / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"orphan")


def test_a_damaged_photo_is_reported_and_healed_by_indexing_again(matcher: Matcher, tmp_path: Path) -> None:
    index(matcher, "a", None, (RED,))
    (file,) = (f for f in (tmp_path / "data" / "photos").rglob("*") if f.is_file())
    flip(file)
    with pytest.raises(PhotoNotFound, match="index the product again"):
        matcher.catalog.photo("default", "a", 0)
    index(matcher, "a", None, (RED,))
    assert matcher.catalog.photo("default", "a", 0)[0] == photo(RED)


def test_a_query_excluding_an_unknown_product_says_so(matcher: Matcher) -> None:
    index(matcher, "a", "aaa")
    query = matcher.query(Prepared(), matcher.catalog.embedding("default", "a"), MatchOptions())
    with pytest.raises(ProductNotFound):
        matcher.search("default", [Query(query.embedding, 0.5, 5, exclude="nobody")])
