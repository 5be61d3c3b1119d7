"""How rows of SQL become products, vectors and keys again, inside the caller's transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import bindparam, func, select
from sqlalchemy.orm import Session

from app.catalog.records import (
    AttributeRow,
    CatalogRow,
    ChangeRow,
    PhotoRow,
    ProductRow,
    VectorRow,
    stored_photo,
    stored_product,
)
from app.catalog.rows import RowSet
from app.catalog.writing import chunks
from app.core.fusion import Fusion
from app.core.product import Photo, Product, Scalar, canonical
from app.errors import CatalogError, ProductNotFound

READ_ROWS = 5000
_ONE = select(ProductRow).where(ProductRow.catalog_pk == bindparam("catalog"), ProductRow.id == bindparam("product"))
_PRODUCTS = select(
    ProductRow.pk, ProductRow.id, ProductRow.title, ProductRow.attributes, ProductRow.created_at, ProductRow.updated_at
)
_PHOTOS = select(
    PhotoRow.product_pk, PhotoRow.sha256, PhotoRow.media_type, PhotoRow.width, PhotoRow.height, PhotoRow.phash
).order_by(PhotoRow.product_pk, PhotoRow.position)


def product_row(session: Session, catalog_pk: int, product_id: str) -> ProductRow:
    """Returns a product of a catalog. Raises ProductNotFound."""
    row = session.scalar(_ONE, {"catalog": catalog_pk, "product": product_id})
    if row is None:
        raise ProductNotFound(f"there is no product '{product_id}' in that catalog.")
    return row


def embedded_keys(session: Session, catalog_pk: int, ids: Sequence[str]) -> list[int]:
    """Returns the keys of those of some products that a catalog has, and that have vectors."""
    has_vectors = select(VectorRow.pk).where(VectorRow.product_pk == ProductRow.pk).exists()
    wanted = select(ProductRow.pk).where(ProductRow.catalog_pk == catalog_pk, has_vectors)
    return [key for part in chunks(ids) for key in session.scalars(wanted.where(ProductRow.id.in_(part)))]


def products_by_key(session: Session, keys: Sequence[int]) -> dict[int, Product]:
    """Returns the products that have these keys, without making ORM objects of their rows: searches read dozens."""
    found: dict[int, Product] = {}
    for part in chunks(keys):
        photos = defaultdict[int, list[Photo]](list)
        for owner, sha256, kind, width, height, phash in session.execute(_PHOTOS.where(PhotoRow.product_pk.in_(part))):
            photos[owner].append(stored_photo(sha256, kind, width, height, phash))
        for key, id_, title, values, created, updated in session.execute(_PRODUCTS.where(ProductRow.pk.in_(part))):
            found[key] = stored_product(id_, title, values, created, updated, tuple(photos.get(key, ())))
    return found


def changed_since(session: Session, catalog: CatalogRow, stamp: str) -> list[int] | None:
    """Returns the keys of products that were put or removed since a state of a catalog; None if that is unknown."""
    if stamp == catalog.stamp:
        return []
    if stamp != catalog.kept:
        return None
    return list(session.scalars(select(ChangeRow.product_pk).where(ChangeRow.catalog_pk == catalog.pk)))


def read_vectors(session: Session, catalog_pk: int, fusion: Fusion, keys: Sequence[int] | None = None) -> Iterator[RowSet]:
    """Yields the index rows of a catalog in blocks: of the products with these keys, or of all.

    Raises:
        CatalogError: they do not have the dimensions of `fusion`, or cannot be what a tower has made.
    """
    columns = select(VectorRow.product_pk, VectorRow.flags, VectorRow.vector).order_by(VectorRow.pk)
    wanted = [columns.where(VectorRow.catalog_pk == catalog_pk)]
    if keys is not None:  # a key is of one catalog: to name that, too, would make SQLite look through all of it
        wanted = [columns.where(VectorRow.product_pk.in_(part)) for part in chunks(keys)]
    for part in chain.from_iterable(session.execute(one).yield_per(READ_ROWS).partitions() for one in wanted):
        owners, flags, blobs = zip(*part, strict=True)
        if any(len(blob) != 4 * fusion.dim for blob in blobs):
            raise CatalogError("the database holds vectors of another dimension: run 'python -m app index --reembed'.")
        vectors = np.frombuffer(b"".join(blobs), "<f4").reshape(-1, fusion.dim)
        rows = RowSet(np.array(owners, np.int64), np.array(flags, np.uint8), vectors)
        damaged = rows.keys[~fusion.sound(rows.vectors, rows.flags)]
        if len(damaged):
            product = session.get_one(ProductRow, int(damaged[0]))
            raise CatalogError(
                f"the database holds damaged vectors, the first of them of product '{product.id}': restore a backup, or run "
                "'python -m app index --reembed', which makes such vectors anew."
            )
        yield rows


def other_fingerprints(session: Session, own: str) -> set[str]:
    """Returns fingerprints of other bundles that have made vectors here, at most two of a catalog.

    The index of a catalog's fingerprints is only touched at both of its ends: to list all that are in it would read it
    whole, at every start.
    """
    ends = [
        select(end(VectorRow.fingerprint)).where(VectorRow.catalog_pk == CatalogRow.pk).scalar_subquery()
        for end in (func.min, func.max)
    ]
    found = {one for pair in session.execute(select(*ends).select_from(CatalogRow)) for one in pair}
    return found - {None, own}


def agreeing_keys(session: Session, catalog_pk: int, where: Mapping[str, tuple[Scalar, ...]]) -> NDArray[np.int64]:
    """Returns the keys of the products that a filter lets through."""
    agreeing = select(ProductRow.pk).where(ProductRow.catalog_pk == catalog_pk)
    for name, accepted in where.items():
        values = [canonical(value) for value in accepted]
        having = select(AttributeRow.product_pk).where(AttributeRow.name == name, AttributeRow.value.in_(values))
        agreeing = agreeing.where(ProductRow.pk.in_(having))
    return np.array(session.scalars(agreeing).all(), np.int64)
