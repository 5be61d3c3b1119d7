"""What a catalog promises, whatever it is stored in."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from app.core.answer import Answer
from app.core.product import Embedding, Product, ProductDraft, Query
from app.core.statements import Statement, StatementDraft


@dataclass(frozen=True, slots=True)
class Stored:
    """The outcome of indexing one product: what is stored now, and whether the id was new."""

    product: Product
    created: bool


@dataclass(frozen=True, slots=True)
class Page:
    """Some products in the order they were first indexed, and the cursor of the next page (None at the end)."""

    products: tuple[Product, ...]
    cursor: int | None


@dataclass(frozen=True, slots=True)
class CatalogInfo:
    """A catalog by name, how many products it holds, and where its index came from: `snapshot`, `database`, or `new`."""

    name: str
    products: int
    opened: str = "new"


@dataclass(frozen=True, slots=True)
class FeedbackPage:
    """Some statements, newest first, the cursor of the next page (None at the end), and how many there are in all."""

    statements: tuple[Statement, ...]
    cursor: int | None
    total: int


class FeedbackStore(Protocol):
    """What people say about pairs of a catalog. A statement is never changed; a later one may count instead.

    Calls may come from several threads; each is atomic. What `add` has returned is on disk.
    """

    def add(self, catalog: str, draft: StatementDraft) -> Statement:
        """Stores a statement, with the titles and the photos' digests that its products have now.

        Raises ProductNotFound or CatalogNotFound.
        """

    def page(self, catalog: str, before: int | None, limit: int) -> FeedbackPage:
        """Returns up to `limit` statements behind the cursor `before` (None: from the newest). Raises CatalogNotFound."""

    def statements(self, catalog: str) -> list[Statement]:
        """Returns all statements, oldest first, replaced ones too. Raises CatalogNotFound."""


class Catalog(Protocol):
    """Products in named catalogs. Calls may come from several threads; each is atomic.

    What `put` and `delete` have returned from is on disk and visible to every later search.
    """

    @property
    def feedback(self) -> FeedbackStore:
        """What people say about pairs of these products."""

    def put(self, catalog: str, drafts: Sequence[ProductDraft]) -> list[Stored]:
        """Indexes or replaces products, all or none; a catalog that does not exist is created.

        Args:
            catalog: its name.
            drafts: with ids that differ.
        """

    def delete(self, catalog: str, product_id: str) -> None:
        """Removes a product, its photos and its vectors. Raises ProductNotFound or CatalogNotFound."""

    def get(self, catalog: str, product_id: str) -> Product:
        """Raises ProductNotFound or CatalogNotFound."""

    def embedded(self, catalog: str, ids: Collection[str]) -> dict[str, Product]:
        """Returns those of some products that there are, and that have vectors, by id. Raises CatalogNotFound."""

    def embedding(self, catalog: str, product_id: str) -> Embedding:
        """Returns the stored vectors of a product. Raises ProductNotFound or CatalogNotFound."""

    def photo(self, catalog: str, product_id: str, position: int) -> tuple[bytes, str]:
        """Returns a photo as it was uploaded, and its media type.

        Raises ProductNotFound, CatalogNotFound or PhotoNotFound.
        """

    def page(self, catalog: str, after: int, limit: int) -> Page:
        """Returns up to `limit` products behind the cursor `after` (0: from the start). Raises CatalogNotFound."""

    def search(self, catalog: str, queries: Sequence[Query]) -> list[Answer]:
        """Answers queries, each with every product at or above its threshold. Raises CatalogNotFound."""

    def size(self, catalog: str) -> int:
        """Returns the number of products. Raises CatalogNotFound."""

    def catalogs(self) -> list[CatalogInfo]:
        """Returns all catalogs by name."""

    def close(self) -> None:
        """Writes what makes the next start fast, and releases everything."""
