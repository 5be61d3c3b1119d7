"""The catalog of one machine: SQLite is the truth, a FAISS index per catalog is a view of it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.exc import DatabaseError
from sqlalchemy.orm import Session

from app.catalog.answers import answer_of
from app.catalog.base import CatalogInfo, Page, Stored
from app.catalog.data_folder import DataFolder
from app.catalog.faults import may_have_happened
from app.catalog.feedback import LocalFeedback
from app.catalog.ranking import Scope, rank
from app.catalog.reading import agreeing_keys, embedded_keys, other_fingerprints, product_row, products_by_key
from app.catalog.record_cache import DEFAULT_BYTES, RecordCache
from app.catalog.records import CatalogRow, ProductRow
from app.catalog.rows import IndexOptions, RowSet
from app.catalog.shelf import Shelf, Shelves
from app.catalog.writing import advance, find_products, replace_details, replace_vectors, unreferenced, upsert
from app.core.answer import Answer
from app.core.fusion import Fusion
from app.core.product import DEFAULT_CATALOG, Embedding, Product, ProductDraft, Query, Upload, check_catalog
from app.errors import (
    AppError,
    CatalogError,
    CatalogNotFound,
    DuplicateIds,
    EmptyProduct,
    ModelMismatch,
    PhotoNotFound,
)

log = logging.getLogger(__name__)


class LocalCatalog:
    """See `app.catalog.base.Catalog`."""

    def __init__(
        self, data: DataFolder, fusion: Fusion, fingerprint: str, options: IndexOptions | None = None,
        cache_bytes: int = DEFAULT_BYTES,
    ) -> None:  # fmt: skip
        """Opens every catalog of a data folder for one bundle.

        Args:
            data: the open folder; closed by `close`.
            fusion: of the bundle.
            fingerprint: of the bundle.
            options: of the search indexes.
            cache_bytes: of products that were read lately, over all catalogs.

        Raises:
            ModelMismatch: the folder holds vectors of another bundle.
            CatalogError: the vectors in the database do not have the bundle's dimension, or are damaged.
        """
        self._data, self._fusion, self._fingerprint = data, fusion, fingerprint
        self._maker = Shelves(data, fusion, fingerprint, options or IndexOptions())
        self._closed = False
        self._loose: set[str] = set()  # photos that may have lost their last product, to be looked at
        self._cache = RecordCache(cache_bytes)
        self._write_lock = threading.Lock()
        self.feedback = LocalFeedback(data.records, self._write_lock)
        self._shelves: dict[str, Shelf] = {}
        try:
            with data.records.session() as session:
                self._open(session)
        except DatabaseError as error:
            raise CatalogError(f"the database in {data.folder} is damaged ({error.orig}): restore a backup.") from error

    # -- opening -----------------------------------------------------------------------------------------------

    def _open(self, session: Session) -> None:
        self._refuse_other_bundles(session)
        if session.scalar(select(CatalogRow).where(CatalogRow.name == DEFAULT_CATALOG)) is None:
            session.add(CatalogRow(name=DEFAULT_CATALOG, generation=0))
            session.commit()
        self._shelves = self._maker.load_all(session)

    def _refuse_other_bundles(self, session: Session) -> None:
        found = other_fingerprints(session, self._fingerprint)
        if found:
            raise ModelMismatch(
                f"the catalog in {self._data.folder} was embedded by another model ({', '.join(sorted(found))}, this one "
                f"is {self._fingerprint}): run 'python -m app index --reembed' once, or set SAMESKU_BUNDLE back."
            )

    def _shelf(self, catalog: str) -> Shelf:
        try:
            return self._shelves[catalog]
        except KeyError:
            raise CatalogNotFound.named(catalog) from None

    # -- writing -----------------------------------------------------------------------------------------------

    def put(self, catalog: str, drafts: Sequence[ProductDraft]) -> list[Stored]:
        """See `Catalog.put`."""
        check_catalog(catalog)
        ids = [draft.id for draft in drafts]
        if len(set(ids)) != len(ids):
            raise DuplicateIds("one batch names the same id twice: send each product once.")
        if not drafts:
            return []
        uploads = [upload for draft in drafts for upload in draft.uploads]
        with self._write_lock, self._data.records.session(write=True) as session, self._no_orphans(session, uploads):
            self._data.photos.put({upload.photo.sha256: upload.data for upload in uploads})
            shelf = self._shelves.get(catalog) or self._new_shelf(session, catalog)
            known = find_products(session, shelf.pk, ids)
            self._loose |= {photo.sha256 for row in known.values() for photo in row.photos}
            rows = [upsert(session, shelf.pk, known.get(draft.id), draft) for draft in drafts]
            session.flush()
            keys = [row.pk for row in rows]
            replace_details(session, keys, drafts)
            embeddings = [draft.embedding for draft in drafts]
            added = replace_vectors(session, shelf.pk, keys, embeddings, self._fusion, self._fingerprint)
            self._commit(session, shelf, [row.pk for row in known.values()], added, len(drafts) - len(known))
            self._tidy()
        photos = [tuple(upload.photo for upload in draft.uploads) for draft in drafts]
        return [Stored(row.product(kept), row.id not in known) for row, kept in zip(rows, photos, strict=True)]

    @contextmanager
    def _no_orphans(self, session: Session, uploads: Sequence[Upload]) -> Iterator[None]:
        """Takes back the photos of a change that fails."""
        try:
            yield
        except BaseException as error:
            session.rollback()
            session.close()
            self._loose |= {upload.photo.sha256 for upload in uploads}
            if not may_have_happened(error):  # else a crash may bring its products to light, and they need their photos
                self._tidy()
            raise

    def _tidy(self) -> None:
        """Removes the loose photos that no product names; those that cannot be removed now, after the next change."""
        if not self._loose:
            return
        try:
            with self._data.records.session() as session:
                gone = unreferenced(session, self._loose)
            if self._data.photos.remove(gone):
                self._loose.clear()
        except (AppError, OSError) as error:
            log.warning("photos without a product cannot be removed now", extra={"reason": str(error)})

    def _new_shelf(self, session: Session, catalog: str) -> Shelf:
        row = CatalogRow(name=catalog, generation=0)
        session.add(row)
        session.flush()
        return self._maker.empty(row)

    def _commit(self, session: Session, shelf: Shelf, removed: Sequence[int], added: RowSet | None, growth: int) -> None:
        """Commits and brings the index along; only then may anyone be told."""
        row = session.get_one(CatalogRow, shelf.pk)
        advance(session, row, {*removed, *([] if added is None else added.keys.tolist())})
        row.products += growth
        session.flush()
        with shelf.lock:
            session.commit()
            self._cache.drop(removed)
            shelf.behind = True
            self._shelves[shelf.name] = shelf
            try:
                shelf.index.remove(removed)
                if added is not None:
                    shelf.index.add(added)
                shelf.index.prepare()
            except BaseException:
                log.exception("the index failed after a commit: it is made anew from the database")
                self._maker.catch_up(session, shelf)
                raise
            shelf.stamp, shelf.products, shelf.behind = row.stamp, row.products, False

    def delete(self, catalog: str, product_id: str) -> None:
        """See `Catalog.delete`."""
        with self._write_lock, self._data.records.session(write=True) as session:
            shelf = self._shelf(catalog)
            row = product_row(session, shelf.pk, product_id)
            self._loose |= {photo.sha256 for photo in row.photos}
            session.delete(row)
            self._commit(session, shelf, [row.pk], None, -1)
            self._tidy()

    # -- reading -----------------------------------------------------------------------------------------------

    @contextmanager
    def _current(self, session: Session, shelf: Shelf) -> Iterator[None]:
        """Holds the lock of a shelf whose index says what the database says."""
        with shelf.lock:
            if shelf.behind:
                self._maker.catch_up(session, shelf)
            yield

    def get(self, catalog: str, product_id: str) -> Product:
        """See `Catalog.get`."""
        with self._data.records.session() as session:
            return product_row(session, self._shelf(catalog).pk, product_id).product()

    def embedded(self, catalog: str, ids: Collection[str]) -> dict[str, Product]:
        """See `Catalog.embedded`."""
        with self._data.records.session() as session:
            keys = embedded_keys(session, self._shelf(catalog).pk, sorted(ids))
            return {product.id: product for product in products_by_key(session, keys).values()}

    def embedding(self, catalog: str, product_id: str) -> Embedding:
        """See `Catalog.embedding`."""
        shelf = self._shelf(catalog)
        with self._data.records.session() as session, self._current(session, shelf):
            key = product_row(session, shelf.pk, product_id).pk
            rows = shelf.index.rows(shelf.index.slots_of([key]))
        if not len(rows.keys):
            raise EmptyProduct(f"product '{product_id}' could not be embedded by this model: index it again.")
        return self._fusion.unfuse(rows.vectors, rows.flags)

    def photo(self, catalog: str, product_id: str, position: int) -> tuple[bytes, str]:
        """See `Catalog.photo`."""
        wanted = None
        while True:
            photos = self.get(catalog, product_id).photos
            if not 0 <= position < len(photos):
                raise PhotoNotFound(f"product '{product_id}' has {len(photos)} photos, there is none at {position}.")
            seen, wanted = wanted, photos[position]
            try:
                return self._data.photos.get(wanted.sha256), wanted.media_type
            except PhotoNotFound:
                if seen == wanted:  # else the product was replaced in between: look again
                    raise

    def page(self, catalog: str, after: int, limit: int) -> Page:
        """See `Catalog.page`."""
        shelf = self._shelf(catalog)
        wanted = select(ProductRow).where(ProductRow.catalog_pk == shelf.pk, ProductRow.place > after)
        with self._data.records.session() as session:
            rows = list(session.scalars(wanted.order_by(ProductRow.place).limit(limit + 1)))
            shown = rows[:limit]
            return Page(tuple(row.product() for row in shown), shown[-1].place if len(rows) > limit else None)

    def size(self, catalog: str) -> int:
        """See `Catalog.size`."""
        return self._shelf(catalog).products

    def catalogs(self) -> list[CatalogInfo]:
        """See `Catalog.catalogs`."""
        return [CatalogInfo(name, shelf.products, shelf.opened) for name, shelf in sorted(self._shelves.items())]

    def search(self, catalog: str, queries: Sequence[Query]) -> list[Answer]:
        """See `Catalog.search`."""
        shelf = self._shelf(catalog)
        with self._data.records.session() as session, self._current(session, shelf):
            ranked = rank(shelf.index, self._fusion, queries, self._scopes(session, shelf, queries))
            products = self._products(session, {key for answer in ranked for key in answer.keys.tolist()})
            rows = [shelf.index.rows(one.slots) for one in ranked]
            gallery, exact = shelf.products, shelf.index.exact
        found = zip(queries, ranked, rows, strict=True)
        return [answer_of(query, one, vectors, products, gallery, exact=exact) for query, one, vectors in found]

    def _products(self, session: Session, keys: set[int]) -> dict[int, Product]:
        """Returns products by key. The caller holds the lock of their shelf: nobody changes them meanwhile."""
        found = self._cache.get(keys)
        missing = products_by_key(session, sorted(keys - found.keys()))
        self._cache.put(missing)
        return found | missing

    def _scopes(self, session: Session, shelf: Shelf, queries: Sequence[Query]) -> list[Scope]:
        """Reads the filters of queries; equal filters are read once and share one array."""
        read: dict[str, NDArray[np.int64]] = {}
        scopes = []
        for query in queries:
            allowed = None
            if query.where:
                name = repr(sorted(query.where.items()))
                if name not in read:
                    read[name] = agreeing_keys(session, shelf.pk, query.where)
                allowed = read[name]
            excluded = None if query.exclude is None else product_row(session, shelf.pk, query.exclude).pk
            scopes.append(Scope(allowed, excluded))
        return scopes

    # -- closing -----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """See `Catalog.close`."""
        with self._write_lock:
            if not self._closed:
                self._maker.save_all(self._shelves.values())
                self._tidy()
            self._closed = True
            self._data.close(clean=not self._loose)
