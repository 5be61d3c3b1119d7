"""Products that were read lately, so that a search need not read the same records again and again."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping

from app.core.product import Product

DEFAULT_BYTES = 64 << 20
# Python's objects around the texts of a product and of one photo, roughly: the entry, tuples, dates, numbers
_PRODUCT_BYTES, _PHOTO_BYTES, _ATTRIBUTE_BYTES = 700, 400, 100


class RecordCache:
    """Products by key, up to a number of bytes; those that nobody has asked for longest go first.

    Methods may be called from several threads. What is in here is true only if a product is read and `put` under the same
    lock under which its changes are committed and `drop`ped: the catalog's.
    """

    def __init__(self, max_bytes: int = DEFAULT_BYTES) -> None:
        """`max_bytes` bounds what the products take in memory, by an estimate that errs on the large side; 0 keeps none."""
        self._max_bytes, self._bytes = max_bytes, 0
        self._kept: OrderedDict[int, tuple[Product, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Products in it."""
        return len(self._kept)

    @property
    def size_bytes(self) -> int:
        """What they take, by the estimate; never more than `max_bytes`."""
        return self._bytes

    def get(self, keys: Iterable[int]) -> dict[int, Product]:
        """Returns the products of those keys that are in here."""
        found: dict[int, Product] = {}
        with self._lock:
            for key in keys:
                kept = self._kept.get(key)
                if kept is not None:
                    self._kept.move_to_end(key)
                    found[key] = kept[0]
        return found

    def put(self, products: Mapping[int, Product]) -> None:
        """Keeps products, and drops others for them if need be; one that is larger than everything may be is not kept."""
        with self._lock:
            for key, product in products.items():
                self._remove(key)
                size = size_of(product)
                if size > self._max_bytes:
                    continue
                self._kept[key] = product, size
                self._bytes += size
            while self._bytes > self._max_bytes:
                self._remove(next(iter(self._kept)))

    def drop(self, keys: Iterable[int]) -> None:
        """Forgets products that have changed or are gone."""
        with self._lock:
            for key in keys:
                self._remove(key)

    def _remove(self, key: int) -> None:
        _, size = self._kept.pop(key, (None, 0))
        self._bytes -= size


def size_of(product: Product) -> int:
    """Returns roughly how many bytes a product takes in memory."""
    texts = [product.id, product.title or "", *product.attributes]
    texts += [value for value in product.attributes.values() if isinstance(value, str)]
    digests = sum(sys.getsizeof(photo.sha256) for photo in product.photos)
    objects = _PRODUCT_BYTES + _PHOTO_BYTES * len(product.photos) + _ATTRIBUTE_BYTES * len(product.attributes)
    return objects + digests + sum(map(sys.getsizeof, texts))
