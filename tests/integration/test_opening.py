"""What a start looks up without reading every row: how many products a catalog holds, and whose vectors they are."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from alembic import command
from hypothesis import given, settings
from hypothesis import strategies as st

from app.catalog.data_folder import DataFolder
from app.catalog.local import LocalCatalog
from app.core.product import Embedding, ProductDraft
from app.errors import CatalogNotFound, ModelMismatch, ProductNotFound
from tests.fakes import FINGERPRINT, FUSION, letter_vector
from tests.integration.test_feedback_store import migrate

IDS = ["a", "b", "c", "d"]
Change = tuple[str, str, list[str]]
NAMES = st.sampled_from(["default", "other"])
PUT: st.SearchStrategy[Change] = st.tuples(st.just("put"), NAMES, st.lists(st.sampled_from(IDS), min_size=1, unique=True))
DELETE: st.SearchStrategy[Change] = st.tuples(
    st.just("delete"), NAMES, st.lists(st.sampled_from(IDS), min_size=1, max_size=1)
)
RESTART: st.SearchStrategy[Change] = st.just(("restart", "", []))
ONCE_MORE = "INSERT INTO vectors SELECT NULL, catalog_pk, product_pk, ?, flags, vector FROM vectors LIMIT 1"


def draft(product_id: str) -> ProductDraft:
    embedding = Embedding(np.zeros((0, FUSION.image_dim), np.float32), letter_vector(product_id))
    return ProductDraft(product_id, product_id, (), {}, embedding)


@contextmanager
def opened(folder: Path) -> Iterator[LocalCatalog]:
    with closing(LocalCatalog(DataFolder(folder), FUSION, FINGERPRINT)) as catalog:
        yield catalog


def told(catalog: LocalCatalog) -> dict[str, int]:
    return {info.name: info.products for info in catalog.catalogs()}


def change(catalog: LocalCatalog, holds: dict[str, set[str]], what: str, name: str, ids: list[str]) -> None:
    """Changes a catalog, and what it should hold."""
    if what == "put":
        catalog.put(name, [draft(one) for one in ids])
        holds.setdefault(name, set()).update(ids)
    elif ids[0] in holds.get(name, set()):
        catalog.delete(name, ids[0])
        holds[name].discard(ids[0])
    else:
        with pytest.raises((ProductNotFound, CatalogNotFound)):
            catalog.delete(name, ids[0])


@settings(max_examples=30)
@given(st.lists(st.one_of(PUT, DELETE, RESTART), max_size=12))
def test_a_catalog_knows_how_many_products_it_holds(changes: list[Change]) -> None:
    holds: dict[str, set[str]] = {"default": set()}
    with tempfile.TemporaryDirectory() as scratch:
        for restarted, some in groupby(changes, lambda one: one[0] == "restart"):
            with opened(Path(scratch)) as catalog:
                for what, name, ids in () if restarted else some:
                    change(catalog, holds, what, name, ids)
                    assert told(catalog) == {name: len(ids) for name, ids in holds.items()}
        with opened(Path(scratch)) as catalog:
            assert told(catalog) == {name: len(ids) for name, ids in holds.items()}


def test_a_database_of_the_sixth_version_is_counted_once(tmp_path: Path) -> None:
    with opened(tmp_path) as catalog:
        catalog.put("default", [draft(one) for one in IDS])
        catalog.put("other", [draft("a")])
        catalog.put("empty", [draft("a")])
        catalog.delete("empty", "a")
        before = told(catalog)
    migrate(tmp_path, command.downgrade, "0006")
    with opened(tmp_path) as catalog:
        assert told(catalog) == before == {"default": 4, "other": 1, "empty": 0}
        catalog.delete("default", "a")
        assert told(catalog)["default"] == 3


@pytest.mark.parametrize("other", ["0" * 16, "f" * 16])
def test_vectors_of_another_model_are_found_wherever_they_sort(tmp_path: Path, other: str) -> None:
    with opened(tmp_path) as catalog:
        catalog.put("default", [draft(one) for one in IDS])
        catalog.put("other", [draft("a")])
    with closing(sqlite3.connect(tmp_path / "catalog.sqlite")) as connection:
        connection.execute(ONCE_MORE, (other,))
        connection.commit()
    with pytest.raises(ModelMismatch, match=rf"another model \({other}, this one is {FINGERPRINT}\)"), opened(tmp_path):
        pass
