"""The products of a catalog as listings that can be grouped: their stored vectors, titles and hashes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from app.catalog.base import Catalog
from app.core.fusion import Fusion
from app.core.product import Product
from app.errors import EmptyProduct
from app.evaluation.features import Features

PAGE = 500


@dataclass(frozen=True, slots=True)
class StoredListings:
    """`n` products by id, each with its first photo.

    Attributes:
        features: of the products.
        products: as they are stored.
        skipped: ids of products that this bundle could not embed.
    """

    features: Features
    products: list[Product]
    skipped: list[str]


def stored_listings(
    catalog: Catalog, name: str, fusion: Fusion, tick: Callable[[int], None] = lambda _: None
) -> StoredListings:
    """Reads all products of a catalog.

    Args:
        catalog: where they are.
        name: of the catalog.
        fusion: of the bundle that embedded them.
        tick: called with the number of products just read.

    Raises:
        CatalogNotFound: there is no such catalog.
    """
    products: list[Product] = []
    skipped: list[str] = []
    rows, flags = [], []
    cursor: int | None = 0
    while cursor is not None:
        page = catalog.page(name, cursor, PAGE)
        for product in page.products:
            try:
                fused, seen = fusion.fuse(catalog.embedding(name, product.id))
            except EmptyProduct:
                skipped.append(product.id)
                continue
            products.append(product)
            rows.append(fused[0])
            flags.append(seen[0])
        tick(len(page.products))
        cursor = page.cursor
    order = sorted(range(len(products)), key=lambda n: products[n].id)
    vectors = np.stack([rows[n] for n in order]) if order else np.zeros((0, fusion.dim), np.float32)
    hashes = [products[n].photos[0].phash if products[n].photos else None for n in order]
    features = Features(
        fusion, vectors, np.array([flags[n] for n in order], np.uint8),
        np.array([value or 0 for value in hashes], np.uint64), np.array([value is not None for value in hashes], np.bool_),
    )  # fmt: skip
    return StoredListings(features, [products[n] for n in order], skipped)
