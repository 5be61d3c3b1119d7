"""Whole files at once: index a table of listings, match one, embed everything again. Used by the command line."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Literal, NamedTuple

from app.catalog.base import Stored
from app.catalog.photo_store import PhotoStore
from app.catalog.reembed import Reembedding, StaleProduct
from app.core.answer import Answer
from app.core.product import Embedding, Prepared, Product, ProductDraft, Scalar, canonical
from app.embedding import Item, embed
from app.embedding_ahead import Embedded, Ended, Found, embed_ahead
from app.encoders.base import Encoder
from app.errors import AppError, CatalogNotFound, DuplicateIds, InvalidInput
from app.listings import BadRow, Listing
from app.matcher import Matcher, MatchOptions

CHUNK = 64  # rows that are read and committed together, at least

Tick = Callable[[int], None]


@dataclass(slots=True)
class IndexSummary:
    """What became of a table: products created, replaced, found unchanged, and the rows that were skipped."""

    created: int = 0
    replaced: int = 0
    unchanged: int = 0
    bad: list[BadRow] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class MatchedRow:
    """One query of a table and its answer, or the reason why there is none."""

    row: int
    id: str | None
    result: Answer | AppError


class _Row(NamedTuple):
    """A row of a table to index; `outcome` is why it cannot be, or True if it is stored as it is, or None."""

    row: Listing | BadRow
    outcome: AppError | Literal[True] | None


def index_rows(matcher: Matcher, rows: Iterable[Listing | BadRow], catalog: str, tick: Tick) -> IndexSummary:
    """Indexes a table, in chunks that are each committed whole.

    While the towers work, the chunks after are read and the one before is committed. A product that is stored already
    with the same title, photos and attributes is not embedded again, so an interrupted run is resumed by running it again.

    Args:
        matcher: where to index.
        rows: from `app.listings`.
        catalog: its name; created if new.
        tick: called with the number of rows that are done: committed, unchanged or bad.
    """
    summary, seen = IndexSummary(), set[str]()
    commit: tuple[int, Future[list[Stored]]] | None = None
    with ThreadPoolExecutor(1) as writer:
        for chunk in embed_ahead(matcher.encoder, _checked(matcher, catalog, rows), _item, chunk_of(matcher.encoder)):
            drafts = _drafts(chunk, seen, summary)
            if commit is not None:  # one at a time: after one that failed, nothing is committed
                _finish(*commit, summary, tick)
            commit = len(chunk), writer.submit(matcher.catalog.put, catalog, drafts)
        if commit is not None:
            _finish(*commit, summary, tick)
    return summary


def _item(checked: _Row) -> Item | None:
    """Returns what to embed of a row."""
    row, outcome = checked
    return None if outcome is not None or isinstance(row, BadRow) else Item(row.images, row.title)


def _drafts(chunk: Iterable[tuple[_Row, Found]], seen: set[str], summary: IndexSummary) -> list[ProductDraft]:
    """Returns what is left to store; what is not is counted. `seen` are the ids of earlier rows."""
    ready: list[ProductDraft] = []
    for (row, outcome), found in chunk:
        result = found if outcome is None else outcome
        if not isinstance(result, AppError) and row.id in seen:
            result = DuplicateIds(f"id '{row.id}' stands in an earlier row.")
        if isinstance(result, AppError):
            summary.bad.append(BadRow(row.row, row.id, result))
            continue
        seen.add(row.id or "")
        if isinstance(result, Embedded) and isinstance(row, Listing):
            ready.append(ProductDraft(row.id or "", result.title, result.uploads, row.attributes, result.embedding))
        else:
            summary.unchanged += 1
    return ready


def _finish(rows: int, commit: Future[list[Stored]], summary: IndexSummary, tick: Tick) -> None:
    """Waits for a commit and counts what it stored. Raises what the commit raised."""
    for stored in commit.result():
        summary.created += stored.created
        summary.replaced += not stored.created
    tick(rows)


def _checked(matcher: Matcher, catalog: str, rows: Iterable[Listing | BadRow]) -> Iterator[_Row]:
    """Yields rows with what is known of them before their photos are read; raises what `rows` raises, after those before."""
    source = Ended(rows)
    while chunk := list(islice(source, CHUNK)):
        refused = [_refused(matcher, row) for row in chunk]
        there = _embedded(
            matcher, catalog, {row.id for row, error in zip(chunk, refused, strict=True) if row.id and not error}
        )
        for row, error in zip(chunk, refused, strict=True):
            known = there.get(row.id or "")
            same = error is None and known is not None and isinstance(row, Listing) and _same(matcher, row, known)
            yield _Row(row, True if same else error)
    if source.failure is not None:
        raise source.failure


def _refused(matcher: Matcher, row: Listing | BadRow) -> AppError | None:
    """Returns why a row cannot be a product, as far as that can be told without reading its photos and its title."""
    if isinstance(row, BadRow):
        return row.error
    if row.id is None:
        return InvalidInput("the row has no id: give every row its own, or name the column with --id-column.")
    try:
        matcher.check_product(row.id, len(row.images))
    except AppError as error:
        return error
    return None


def _embedded(matcher: Matcher, catalog: str, ids: Collection[str]) -> dict[str, Product]:
    try:
        return matcher.catalog.embedded(catalog, ids)
    except CatalogNotFound:  # it comes into being with its first product
        return {}


def _same(matcher: Matcher, row: Listing, product: Product) -> bool:
    """Tells whether a product is what a row says."""
    try:
        title = None if row.title is None else matcher.encoder.read_title(row.title)
    except InvalidInput:
        return False
    digests = [hashlib.sha256(image).hexdigest() for image in row.images]
    same_photos = [photo.sha256 for photo in product.photos] == digests
    return same_photos and product.title == title and _compared(product.attributes) == _compared(row.attributes)


def _compared(attributes: Mapping[str, Scalar]) -> dict[str, str]:
    return {name: canonical(value) for name, value in attributes.items()}  # in Python, True equals 1


def match_rows(
    matcher: Matcher, rows: Iterable[Listing | BadRow], options: MatchOptions, tick: Tick
) -> Iterator[MatchedRow]:
    """Matches a table against a catalog; yields one result a row, in order. `tick` as in `index_rows`."""

    def item(row: Listing | BadRow) -> Item | None:
        return None if isinstance(row, BadRow) else Item(row.images[:1], row.title)

    for chunk in embed_ahead(matcher.encoder, rows, item, chunk_of(matcher.encoder)):
        asked = [(found.known, found.embedding) for _, found in chunk if isinstance(found, Embedded)]
        answers = iter(matcher.answer(asked, options))
        for row, found in chunk:
            error = row.error if isinstance(row, BadRow) else found
            yield MatchedRow(row.row, row.id, error if isinstance(error, AppError) else next(answers))
        tick(len(chunk))


def chunk_of(encoder: Encoder) -> int:
    """Returns how many rows are read and committed together: enough for the towers to work without a pause."""
    return max(CHUNK, 2 * encoder.batch)


def reembed(encoder: Encoder, work: Reembedding, photos: PhotoStore, tick: Tick) -> list[tuple[StaleProduct, AppError]]:
    """Embeds every stored product again for the encoder's bundle; an interrupted run goes on where it stopped.

    Returns:
        The products of which a photo or the title could not be used, with the reason. What was left of them is
        embedded; with nothing left they stay stored, but match nothing until they are indexed again.
    """
    failed: list[tuple[StaleProduct, AppError]] = []

    def item(product: StaleProduct) -> Item | None:
        try:
            images = [photos.get(digest) for digest in product.photos] if encoder.image_dim else []
        except AppError:
            return None  # read again below, photo by photo
        return Item(images, product.title if encoder.title_dim else None, clean=True)

    size = chunk_of(encoder)
    for chunk in embed_ahead(encoder, chain.from_iterable(work.batches(size)), item, size):
        embeddings: list[Embedding | None] = []
        for product, found in chunk:
            if isinstance(found, Embedded):
                embeddings.append(found.embedding)
                continue
            prepared, errors = _reread(encoder, product, photos)
            failed += [(product, error) for error in errors]
            embeddings.append(None if prepared.empty else embed(encoder, [prepared])[0])
        work.store([product for product, _ in chunk], embeddings)
        tick(len(chunk))
    return failed


def _reread(encoder: Encoder, product: StaleProduct, photos: PhotoStore) -> tuple[Prepared, list[AppError]]:
    """Returns what is left of a product of which something cannot be read, and why."""
    errors: list[AppError] = []
    pixels = []
    for digest in product.photos if encoder.image_dim else ():
        try:
            pixels.append(encoder.read_photo(photos.get(digest))[1])
        except AppError as error:
            errors.append(error)
    title = product.title if encoder.title_dim else None
    return Prepared(tuple(pixels), title), errors
