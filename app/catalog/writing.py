"""How products become rows of SQL, inside the caller's transaction."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import numpy as np
from sqlalchemy import delete, insert, select
from sqlalchemy.dialects import sqlite
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import flag_modified

from app.catalog.records import AttributeRow, CatalogRow, ChangeRow, PhotoRow, ProductRow, VectorRow
from app.catalog.rows import RowSet
from app.core.fusion import Fusion
from app.core.product import Embedding, ProductDraft, canonical

IN_CHUNK = 500  # values per IN (...), well below SQLite's limit
Value = TypeVar("Value")


def chunks(values: Sequence[Value]) -> Iterator[Sequence[Value]]:
    """Cuts a list of values into parts that one IN (...) takes."""
    for start in range(0, len(values), IN_CHUNK):
        yield values[start : start + IN_CHUNK]


def find_products(session: Session, catalog_pk: int, ids: Sequence[str]) -> dict[str, ProductRow]:
    """Returns the products of a catalog that have one of the ids."""
    found: dict[str, ProductRow] = {}
    for part in chunks(ids):
        wanted = select(ProductRow).where(ProductRow.catalog_pk == catalog_pk, ProductRow.id.in_(part))
        found.update({row.id: row for row in session.scalars(wanted)})
    return found


def upsert(session: Session, catalog_pk: int, row: ProductRow | None, draft: ProductDraft) -> ProductRow:
    """Brings a product's own row up to the draft; a new one gets its key at the next flush."""
    now = datetime.now(UTC).replace(tzinfo=None)
    if row is None:
        catalog = session.get_one(CatalogRow, catalog_pk)
        catalog.places += 1
        row = ProductRow(catalog_pk=catalog_pk, place=catalog.places, id=draft.id, created_at=now)
        session.add(row)
    row.title, row.attributes, row.updated_at = draft.title, dict(draft.attributes), now
    flag_modified(row, "attributes")  # True equals 1 in Python, but is another value
    return row


def replace_details(session: Session, keys: Sequence[int], drafts: Sequence[ProductDraft]) -> None:
    """Replaces the photos and attributes of products."""
    for part in chunks(keys):
        for table in (PhotoRow, AttributeRow):
            session.execute(delete(table).where(table.product_pk.in_(part)))
    photos: list[dict[str, Any]] = []
    attributes: list[dict[str, Any]] = []
    for key, draft in zip(keys, drafts, strict=True):
        for position, photo in enumerate(upload.photo for upload in draft.uploads):
            row = {"sha256": photo.sha256, "media_type": photo.media_type, "width": photo.width, "height": photo.height}
            row["phash"] = None if photo.phash is None else f"{photo.phash:016x}"
            photos.append({"product_pk": key, "position": position} | row)
        attributes += [{"product_pk": key, "name": n, "value": canonical(v)} for n, v in draft.attributes.items()]
    if photos:
        session.execute(insert(PhotoRow), photos)
    if attributes:
        session.execute(insert(AttributeRow), attributes)


def replace_vectors(
    session: Session, catalog_pk: int, keys: Sequence[int], embeddings: Sequence[Embedding], fusion: Fusion, fingerprint: str
) -> RowSet:
    """Replaces the vectors of products; returns the rows that the search index gets."""
    for part in chunks(keys):
        session.execute(delete(VectorRow).where(VectorRow.product_pk.in_(part)))
    fused = [fusion.fuse(embedding) for embedding in embeddings]
    vectors = np.concatenate([z for z, _ in fused])
    flags = np.concatenate([f for _, f in fused])
    owners = np.repeat(np.array(keys, np.int64), [len(f) for _, f in fused])
    rows = [
        {
            "catalog_pk": catalog_pk,
            "product_pk": int(key),
            "fingerprint": fingerprint,
            "flags": int(flag),
            "vector": z.tobytes(),
        }
        for key, flag, z in zip(owners, flags, vectors.astype("<f4"), strict=True)
    ]
    session.execute(insert(VectorRow), rows)
    return RowSet(owners, flags, vectors)


def unreferenced(session: Session, digests: set[str]) -> set[str]:
    """Returns those photos that no product names any more."""
    left = set(digests)
    for part in chunks(sorted(digests)):
        left -= set(session.scalars(select(PhotoRow.sha256).where(PhotoRow.sha256.in_(part))))
    return left


def advance(session: Session, catalog: CatalogRow, changed: Collection[int]) -> None:
    """Marks a new state of a catalog: part of every change of its products, of which these are the keys."""
    catalog.generation += 1
    catalog.stamp = uuid.uuid4().hex
    if catalog.kept is not None and changed:
        rows = [{"catalog_pk": catalog.pk, "product_pk": key} for key in changed]
        session.execute(sqlite.insert(ChangeRow).on_conflict_do_nothing(), rows)


def keep(session: Session, catalog: CatalogRow, stamp: str | None) -> None:
    """Notes of which state there is a snapshot, None for none: changes are listed from there on."""
    if catalog.kept != stamp:
        catalog.kept = stamp
        session.execute(delete(ChangeRow).where(ChangeRow.catalog_pk == catalog.pk))
