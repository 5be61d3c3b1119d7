"""Answers come from records in memory, and yet say what the database says: also while others write."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import event

from app.catalog.data_folder import DataFolder
from app.catalog.local import LocalCatalog
from app.core.product import Embedding, Product, ProductDraft, Query
from app.errors import ProductNotFound
from tests.fakes import FINGERPRINT, FUSION, letter_vector

NAMES = [f"p{n}" for n in range(8)]
SMALL = 3000  # bytes: room for three or four of the products
EMBEDDING = Embedding(np.zeros((0, FUSION.image_dim), np.float32), letter_vector("a"))
EVERYTHING = Query(EMBEDDING, threshold=-1.0, limit=100)


def draft(name: str, version: int) -> ProductDraft:
    """A product whose title and attribute say the same number."""
    return ProductDraft(name, f"title {version}", (), {"version": version}, EMBEDDING)


def found(catalog: LocalCatalog, name: str = "default") -> dict[str, Product]:
    return {match.product.id: match.product for match in catalog.search(name, [EVERYTHING])[0].matches}


@pytest.fixture(params=[0, SMALL, 1 << 20], ids=["nothing kept", "some kept", "all kept"])
def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocalCatalog]:
    opened = LocalCatalog(DataFolder(tmp_path), FUSION, FINGERPRINT, cache_bytes=request.param)
    yield opened
    opened.close()


def test_records_are_read_once(tmp_path: Path) -> None:
    data = DataFolder(tmp_path)
    catalog = LocalCatalog(data, FUSION, FINGERPRINT)
    catalog.put("default", [draft(name, 1) for name in NAMES])
    read: list[str] = []
    event.listen(data.records.engine, "before_cursor_execute", lambda *given: read.append(given[2]))
    first = found(catalog)
    assert read
    read.clear()
    assert found(catalog) == first
    assert not [statement for statement in read if "products" in statement or "photos" in statement]
    catalog.close()


def test_a_change_shows_in_the_next_answer(catalog: LocalCatalog) -> None:
    catalog.put("default", [draft(name, 1) for name in NAMES])
    assert {product.title for product in found(catalog).values()} == {"title 1"}
    catalog.put("default", [draft("p3", 2)])
    assert found(catalog)["p3"].title == "title 2"
    catalog.delete("default", "p3")
    assert "p3" not in found(catalog)
    catalog.put("default", [draft("p3", 3)])
    assert found(catalog)["p3"].attributes == {"version": 3}


def test_a_change_that_fails_changes_no_answer(catalog: LocalCatalog) -> None:
    catalog.put("default", [draft("p1", 1)])
    before = found(catalog)
    wrong = Embedding(np.zeros((0, 5), np.float32), np.ones(2, np.float32))
    with pytest.raises(ValueError, match="broadcast"):
        catalog.put("default", [ProductDraft("p1", "never", (), {}, wrong)])
    assert found(catalog) == before


def test_catalogs_keep_their_own_products_apart(catalog: LocalCatalog) -> None:
    catalog.put("one", [draft("same", 1)])
    catalog.put("two", [draft("same", 2)])
    for _ in range(2):
        assert found(catalog, "one")["same"].title == "title 1"
        assert found(catalog, "two")["same"].title == "title 2"
    catalog.put("one", [draft("same", 3)])
    assert (found(catalog, "one")["same"].title, found(catalog, "two")["same"].title) == ("title 3", "title 2")


def test_no_answer_is_older_than_what_was_acknowledged(catalog: LocalCatalog) -> None:
    """Every product has one writer that replaces, deletes and indexes it again; readers must never see the past."""
    done = threading.Event()
    acknowledged = dict.fromkeys(NAMES, 0)  # the version that was stored last, negative after it was deleted

    def write(name: str) -> None:
        chance = random.Random(name)
        for version in range(1, 40):
            catalog.put("default", [draft(name, version)])
            acknowledged[name] = version
            if chance.random() < 0.2:
                catalog.delete("default", name)
                acknowledged[name] = -version

    def read() -> int:
        answers = 0
        while not done.is_set():
            before = dict(acknowledged)
            check_age(found(catalog), before)
            answers += 1
        return answers

    with ThreadPoolExecutor(len(NAMES) + 3) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        writers = [pool.submit(write, name) for name in NAMES]
        for one in writers:
            one.result()
        done.set()
        assert all(one.result() for one in readers)
    check_end(catalog, acknowledged)


def check_age(seen: dict[str, Product], acknowledged: dict[str, int]) -> None:
    """After a deletion, only a later version may be there; a product may also be missing, deleted in the meantime."""
    for name, product in seen.items():
        version = acknowledged[name]
        assert product.title == f"title {product.attributes['version']}"
        assert int(product.attributes["version"]) >= (version if version > 0 else 1 - version)


def check_end(catalog: LocalCatalog, acknowledged: dict[str, int]) -> None:
    after = found(catalog)
    assert {name for name in NAMES if acknowledged[name] > 0} == set(after)
    for name in NAMES:
        if acknowledged[name] > 0:
            assert after[name] == catalog.get("default", name)
        else:
            with pytest.raises(ProductNotFound):
                catalog.get("default", name)
