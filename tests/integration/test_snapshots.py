"""Snapshots: what a restart reads instead of the database, if it is proven to match, and what has changed since."""

from __future__ import annotations

import json
import logging
import shutil
import sqlite3
import string
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app.catalog import blocks, shelf
from app.catalog.data_folder import DataFolder
from app.catalog.local import LocalCatalog
from app.catalog.reembed import Reembedding
from app.catalog.rows import IndexOptions
from app.core.product import Embedding, ProductDraft, Query
from app.errors import StorageUnavailable
from tests.crashing import rows_searched, rows_stored
from tests.fakes import FINGERPRINT, FUSION, letter_vector
from tests.integration.test_catalog import BLUE, GREEN, RED, Open, ids, index, rows_in
from tests.power_cuts import flip


def edit_manifest(folder: Path, **changes: object) -> None:
    manifest = json.loads((folder / "snapshot.json").read_text())
    (folder / "snapshot.json").write_text(json.dumps(manifest | changes))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "vectors flipped": lambda folder: flip(folder / "vectors.npy"),
    "keys flipped": lambda folder: flip(folder / "keys.npy"),
    "flags flipped": lambda folder: flip(folder / "flags.npy"),
    "vectors truncated": lambda folder: (folder / "vectors.npy").write_bytes((folder / "vectors.npy").read_bytes()[:-7]),
    "keys emptied": lambda folder: (folder / "keys.npy").write_bytes(b""),
    "flags missing": lambda folder: (folder / "flags.npy").unlink(),
    "manifest missing": lambda folder: (folder / "snapshot.json").unlink(),
    "manifest truncated": lambda folder: (folder / "snapshot.json").write_text('{"generation": 2'),
    "manifest not an object": lambda folder: (folder / "snapshot.json").write_text("[1]"),
    "manifest not text": lambda folder: (folder / "snapshot.json").write_bytes(b"\xff\xfe"),
    "another stamp": lambda folder: edit_manifest(folder, stamp="0" * 32),
    "no stamp": lambda folder: edit_manifest(folder, stamp=None),
    "another fingerprint": lambda folder: edit_manifest(folder, fingerprint="0123456789abcdef"),
    "folder gone": shutil.rmtree,
}


@contextmanager
def listening(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Keeps what catalogs say from here on, whatever level the log had before."""
    caplog.clear()
    with caplog.at_level(logging.INFO, "app.catalog.shelf"):
        yield


def sources(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [getattr(record, "source", "") for record in caplog.records if record.getMessage() == "catalog open"]


def test_a_clean_stop_makes_the_next_start_read_the_snapshot(open_matcher: Open, caplog: pytest.LogCaptureFixture) -> None:
    matcher = open_matcher()
    index(matcher, "a", "aaa", (RED, GREEN))
    index(matcher, "b", "bbb")
    matcher.catalog.delete("default", "b")
    matcher.close()
    with listening(caplog):
        again = open_matcher()
    assert sources(caplog)[-1] == "snapshot"
    assert ids(again, "aaa", GREEN, threshold=0.999) == ["a"]
    assert ids(again, threshold=-1, title="bbb") == ["a"]


def test_changes_after_a_start_are_not_written_into_the_snapshot(
    open_matcher: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its rows are mapped, and rows that take the place of removed ones are written where they lie."""
    matcher = open_matcher()
    for name in "abc":
        index(matcher, name, 3 * name)
    matcher.close()
    (folder,) = (tmp_path / "data" / "snapshots").iterdir()
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    again = open_matcher()
    again.catalog.delete("default", "a")
    index(again, "d", "ddd")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [ids(again, title) for title in ("aaa", "bbb", "ccc", "ddd")] == [[], ["b"], ["c"], ["d"]]
    again.close()
    with listening(caplog):
        last = open_matcher()
    assert sources(caplog)[-1] == "snapshot"
    assert [ids(last, title) for title in ("aaa", "bbb", "ccc", "ddd")] == [[], ["b"], ["c"], ["d"]]


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_snapshot_that_proves_nothing_is_not_used(
    open_matcher: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], object]
) -> None:
    matcher = open_matcher()
    index(matcher, "a", "aaa", (RED, GREEN))
    index(matcher, "b", "bbb", (BLUE,))
    matcher.close()
    (folder,) = (tmp_path / "data" / "snapshots").iterdir()
    damage(folder)
    with listening(caplog):
        again = open_matcher()
    assert "snapshot" not in sources(caplog)
    assert ids(again, "aaa", GREEN) == ids(again, None, RED) == ["a"]
    assert ids(again, "bbb", BLUE) == ["b"]
    again.close()
    with listening(caplog):
        open_matcher()
    assert sources(caplog)[-1] == "snapshot"


def test_a_snapshot_of_another_catalog_is_not_used(
    open_matcher: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Both are at the same generation, and were made by the same bundle."""
    matcher = open_matcher()
    index(matcher, "p", "aaa", catalog="one")
    index(matcher, "p", "bbb", catalog="two")
    matcher.close()
    one, two = sorted((tmp_path / "data" / "snapshots").iterdir())
    one.rename(tmp_path / "aside")
    two.rename(one)
    (tmp_path / "aside").rename(two)
    with listening(caplog):
        again = open_matcher()
    assert sources(caplog).count("snapshot of another catalog, or of another past of this one") == 2
    assert ids(again, "aaa", catalog="one") == ids(again, "bbb", catalog="two") == ["p"]
    assert ids(again, "bbb", catalog="one") == []


def test_a_snapshot_of_another_past_is_not_used(open_matcher: Open, tmp_path: Path) -> None:
    """The database is put back to a copy, and then changed as often as it had been, but otherwise."""
    matcher = open_matcher()
    index(matcher, "a", "aaa")
    matcher.close()
    shutil.copy(tmp_path / "data" / "catalog.sqlite", tmp_path / "copy")
    matcher = open_matcher()
    index(matcher, "b", "bbb")
    matcher.close()
    shutil.copy(tmp_path / "copy", tmp_path / "data" / "catalog.sqlite")
    matcher = open_matcher()
    index(matcher, "c", "ccc")
    shutil.copytree(tmp_path / "data", tmp_path / "crashed")  # its snapshot is of b, at the same generation
    again = open_matcher(tmp_path / "crashed")
    assert (ids(again, "ccc"), ids(again, "bbb")) == (["c"], [])


# -- what has changed since ------------------------------------------------------------------------------------

OPTIONS = [
    IndexOptions(),
    IndexOptions("float16"),
    IndexOptions(search="approximate", lists_from=4),
    IndexOptions(codes_from=2),
]
PRODUCTS = string.ascii_lowercase  # so many that no life changes most of them
CHANGES = st.lists(st.tuples(st.sampled_from(["put", "delete"]), st.sampled_from("abcd")), max_size=4)


def draft(product_id: str, title: str) -> ProductDraft:
    photos = np.eye(FUSION.image_dim, dtype=np.float32)[: len(title) % 3]
    return ProductDraft(product_id, title, (), {}, Embedding(photos, letter_vector(title)))


def opened(folder: Path, options: IndexOptions = OPTIONS[0]) -> LocalCatalog:
    return LocalCatalog(DataFolder(folder), FUSION, FINGERPRINT, options)


def change(catalog: LocalCatalog, holds: dict[str, str], what: str, product_id: str) -> None:
    if what == "put":
        holds[product_id] = product_id * (len(holds.get(product_id, product_id)) + 1)
        catalog.put("default", [draft(product_id, holds[product_id])])
    elif product_id in holds:
        del holds[product_id]
        catalog.delete("default", product_id)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(options=st.sampled_from(OPTIONS), lives=st.lists(CHANGES, min_size=1, max_size=3))
@example(options=IndexOptions(codes_from=2), lives=[[("put", "a")] * 4, [("put", "a"), ("put", "b")], [("put", "b")]])
def test_after_crashes_the_index_is_what_the_database_says(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    options: IndexOptions,
    lives: list[list[tuple[str, str]]],
) -> None:
    """Some products change in each life, and each ends with a crash."""
    place = tmp_path_factory.mktemp("lives")
    monkeypatch.setattr(blocks, "BLOCK", 8)  # several, which have codes
    holds = {name: name for name in PRODUCTS}
    with closing(opened(place / "0", options)) as catalog:
        catalog.put("default", [draft(*item) for item in holds.items()])
    changed = False
    for life, changes in enumerate(lives):
        with closing(opened(place / str(life), options)) as catalog:
            for what, product_id in changes:
                changed |= what == "put" or product_id in holds
                change(catalog, holds, what, product_id)
            for copy in (place / str(life + 1), place / f"{life}, looked at"):
                shutil.copytree(place / str(life), copy)
        with closing(opened(copy, options)) as catalog:
            assert catalog.catalogs()[0].opened == "snapshot"
            assert rows_searched(catalog, "default") == rows_stored(copy, "default", options.precision)
            assert {product.id: product.title for product in catalog.page("default", 0, 100).products} == holds
            assert bool(rows_in(copy, "changes")) == changed
            queries = [Query(draft(*item).embedding, 0.99, 100) for item in holds.items()]
            for name, answer in zip(holds, catalog.search("default", queries), strict=True):
                assert name in {match.product.id for match in answer.matches}


def test_a_start_after_a_crash_reads_the_snapshot_and_what_has_changed(
    open_matcher: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    matcher = open_matcher()
    for name in "abcdef":
        index(matcher, name, name * 3)
    matcher.close()
    assert rows_in(tmp_path / "data", "changes") == 0
    matcher = open_matcher()
    index(matcher, "g", "ggg", (RED,))
    index(matcher, "a", "hhh")
    index(matcher, "a", "ah")
    matcher.catalog.delete("default", "b")
    shutil.copytree(tmp_path / "data", tmp_path / "crashed")
    with listening(caplog):
        again = open_matcher(tmp_path / "crashed")
    assert (sources(caplog), caplog.records[-1].__dict__["changed"]) == (["snapshot"], 3)
    found = [ids(again, title) for title in ("aaa", "bbb", "ccc", "hhh", "ah", "ggg")]
    assert found == [[], [], ["c"], [], ["a"], ["g"]]
    again.close()
    assert rows_in(tmp_path / "crashed", "changes") == 0  # there is a new snapshot


def test_the_database_is_read_when_most_products_have_changed(
    open_matcher: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    matcher = open_matcher()
    index(matcher, "a", "aaa")
    matcher.close()
    matcher = open_matcher()
    index(matcher, "b", "bbb")
    matcher.catalog.delete("default", "a")
    shutil.copytree(tmp_path / "data", tmp_path / "crashed")
    with listening(caplog):
        again = open_matcher(tmp_path / "crashed")
    assert sources(caplog) == ["2 of 1 products have changed since the snapshot"]
    assert (ids(again, "bbb"), ids(again, "aaa")) == (["b"], [])
    assert rows_in(tmp_path / "crashed", "changes") == 0


def test_a_database_that_is_put_back_to_before_the_snapshot_is_read(
    open_matcher: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It lists changes since an earlier snapshot, which is not there any more."""
    matcher = open_matcher()
    for name in "abcdef":
        index(matcher, name, name * 3)
    matcher.close()
    matcher = open_matcher()
    index(matcher, "g", "ggg")
    shutil.copytree(tmp_path / "data", tmp_path / "crashed")
    index(matcher, "h", "hhh")
    matcher.close()
    shutil.rmtree(tmp_path / "crashed" / "snapshots")
    shutil.copytree(tmp_path / "data" / "snapshots", tmp_path / "crashed" / "snapshots")
    with listening(caplog):
        again = open_matcher(tmp_path / "crashed")
    assert sources(caplog) == ["snapshot of another catalog, or of another past of this one"]
    assert (ids(again, "ggg"), ids(again, "hhh")) == (["g"], [])


def test_a_large_catalog_gets_its_snapshot_at_the_start_that_had_none(
    open_matcher: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shelf, "SAVED_AT_ONCE", 3)
    matcher = open_matcher()
    for name in "abcd":
        index(matcher, name, name * 3)
    index(matcher, "e", "eee", catalog="small")
    shutil.copytree(tmp_path / "data", tmp_path / "first")
    matcher = open_matcher(tmp_path / "first")
    matcher.catalog.delete("default", "b")
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    with listening(caplog):
        again = open_matcher(tmp_path / "second")
    assert sources(caplog) == ["snapshot", "no snapshot"]
    assert [ids(again, title) for title in ("aaa", "bbb")] == [["a"], []]
    assert ids(again, "eee", catalog="small") == ["e"]


def test_vectors_that_were_made_anew_are_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with closing(opened(tmp_path)) as catalog:
        catalog.put("default", [draft(name, name) for name in PRODUCTS])
    with sqlite3.connect(tmp_path / "catalog.sqlite") as connection:
        connection.execute("UPDATE vectors SET vector = substr(vector, 1, 4) WHERE product_pk = 3")
    connection.close()
    with closing(DataFolder(tmp_path)) as data:
        work = Reembedding(data, FUSION, FINGERPRINT)
        assert work.drop_damaged() == 1
    with closing(opened(tmp_path)) as catalog:
        assert len(rows_searched(catalog, "default")) == len(PRODUCTS) - 1
    with closing(DataFolder(tmp_path)) as data:
        work = Reembedding(data, FUSION, FINGERPRINT)
        ((stale,),) = work.batches(10)
        work.store([stale], [draft("c", "c").embedding])
    with listening(caplog), closing(opened(tmp_path)) as catalog:
        assert rows_searched(catalog, "default") == rows_stored(tmp_path, "default")
        assert len(rows_searched(catalog, "default")) == len(PRODUCTS)
    assert sources(caplog) == ["snapshot"]


def test_notes_that_cannot_be_written_cost_a_slower_start_alone(
    open_matcher: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StorageUnavailable("the disk is full.")

    matcher = open_matcher()
    for name in "abcd":
        index(matcher, name, name * 3)
    with monkeypatch.context() as patch:
        patch.setattr(shelf, "keep", full)
        matcher.close()
        matcher = open_matcher()
    assert caplog.messages.count("after a crash the next start will read the database") == 2
    index(matcher, "e", "eee")
    shutil.copytree(tmp_path / "data", tmp_path / "crashed")
    again = open_matcher(tmp_path / "crashed")
    assert (ids(again, "eee"), ids(again, "aaa")) == (["e"], ["a"])
