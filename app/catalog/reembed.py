"""Embedding a whole data folder again for a new bundle: from the kept photos and titles, resumable."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import ColumnElement, delete, exists, func, select

from app.catalog.data_folder import DataFolder
from app.catalog.reading import READ_ROWS
from app.catalog.records import CatalogRow, ProductRow, VectorRow
from app.catalog.writing import advance, chunks, replace_vectors
from app.core.fusion import Fusion
from app.core.product import Embedding


@dataclass(frozen=True, slots=True)
class StaleProduct:
    """A product without vectors of the new bundle; `photos` are digests for `DataFolder.photos`."""

    key: int
    catalog_pk: int
    catalog: str
    id: str
    title: str | None
    photos: tuple[str, ...]


class Reembedding:
    """Replaces the vectors of every product that another bundle embedded. The service must be stopped."""

    def __init__(self, data: DataFolder, fusion: Fusion, fingerprint: str) -> None:
        """`fusion` and `fingerprint` are the new bundle's."""
        self._data, self._fusion, self._fingerprint = data, fusion, fingerprint

    def _stale(self) -> ColumnElement[bool]:
        current = (VectorRow.product_pk == ProductRow.pk) & (VectorRow.fingerprint == self._fingerprint)
        return ~exists().where(current)

    def drop_damaged(self) -> int:
        """Drops vectors of this bundle that no tower can have made, so that their products are embedded again, too.

        Returns how many.
        """
        columns = select(VectorRow.pk, VectorRow.catalog_pk, VectorRow.product_pk, VectorRow.flags, VectorRow.vector)
        wanted = columns.where(VectorRow.fingerprint == self._fingerprint)
        damaged: list[int] = []
        owners = defaultdict[int, set[int]](set)
        with self._data.records.session(write=True) as session:
            for part in session.execute(wanted).yield_per(READ_ROWS).partitions():
                for pk, catalog, product, flags, blob in part:
                    row = np.frombuffer(blob, "<f4") if len(blob) % 4 == 0 else np.zeros(0, np.float32)
                    whole = len(row) == self._fusion.dim
                    if not (whole and self._fusion.sound(row[None], np.array([flags], np.uint8))[0]):
                        damaged.append(pk)
                        owners[catalog].add(product)
            for few in chunks(damaged):
                session.execute(delete(VectorRow).where(VectorRow.pk.in_(few)))
            for catalog, products in owners.items():
                advance(session, session.get_one(CatalogRow, catalog), products)
            session.commit()
        return len(damaged)

    def count(self) -> int:
        """Returns how many products are left to embed."""
        with self._data.records.session() as session:
            return session.scalar(select(func.count()).select_from(ProductRow).where(self._stale())) or 0

    def batches(self, size: int) -> Iterator[list[StaleProduct]]:
        """Yields the products that are left, in the order they were first indexed."""
        after = 0
        while True:
            wanted = (
                select(ProductRow, CatalogRow.name)
                .join(CatalogRow, CatalogRow.pk == ProductRow.catalog_pk)
                .where(ProductRow.pk > after, self._stale())
                .order_by(ProductRow.pk)
                .limit(size)
            )
            with self._data.records.session() as session:
                batch = [
                    StaleProduct(p.pk, p.catalog_pk, catalog, p.id, p.title, tuple(photo.sha256 for photo in p.photos))
                    for p, catalog in session.execute(wanted)
                ]
            if not batch:
                return
            after = batch[-1].key
            yield batch

    def store(self, products: Sequence[StaleProduct], embeddings: Sequence[Embedding | None]) -> None:
        """Commits new vectors. None leaves a product without vectors: it stays stored and is never a match."""
        with self._data.records.session(write=True) as session:
            for product, embedding in zip(products, embeddings, strict=True):
                if embedding is None:
                    session.execute(delete(VectorRow).where(VectorRow.product_pk == product.key))
                else:
                    replace_vectors(session, product.catalog_pk, [product.key], [embedding], self._fusion, self._fingerprint)
            for pk in {product.catalog_pk for product in products}:
                advance(session, session.get_one(CatalogRow, pk), [one.key for one in products if one.catalog_pk == pk])
            session.commit()
