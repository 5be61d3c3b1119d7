"""Whole files at once: index a table of listings, match one, embed everything again. Used by the command line."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from app.catalog.base import Stored
from app.catalog.photo_store import PhotoStore
from app.catalog.reembed import Reembedding, StaleProduct
from app.core.answer import Answer
from app.core.product import Prepared, Product, ProductDraft, Scalar, canonical
from app.embedding import embed, read_ahead, readers
from app.encoders.base import Encoder
from app.errors import AppError, DuplicateIds, EmptyProduct, InvalidInput, ProductNotFound
from app.listings import BadRow, Listing
from app.matcher import Matcher, MatchOptions, PreparedProduct

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


def index_rows(matcher: Matcher, rows: Iterable[Listing | BadRow], catalog: str, tick: Tick) -> IndexSummary:
    """Indexes a table, in chunks that are each committed whole.

    While the towers work, the chunks after are decoded and the ones before are committed; four are in memory at most.
    A product that is stored already with the same title, photos and attributes is not embedded again, so an
    interrupted run is resumed by running it again.

    Args:
        matcher: where to index.
        rows: from `app.listings`.
        catalog: its name; created if new.
        tick: called with the number of rows that are done: committed, unchanged or bad.
    """
    summary = IndexSummary()
    seen: set[str] = set()
    waiting: deque[tuple[int, Future[list[Stored]]]] = deque()
    at_once = matcher.encoder.at_once

    def store(drafts: Future[list[ProductDraft]]) -> list[Stored]:
        return matcher.catalog.put(catalog, drafts.result())

    with ThreadPoolExecutor(readers()) as pool, ThreadPoolExecutor(at_once) as embedders, ThreadPoolExecutor(1) as writer:
        try:
            read = read_ahead(pool, lambda row: _read(matcher, row, catalog), rows, chunk_of(matcher.encoder))
            for chunk, outcomes in read:
                ready = _to_embed(zip(chunk, outcomes, strict=True), seen, summary)
                drafts = embedders.submit(matcher.drafts, ready)
                waiting.append((len(chunk), writer.submit(store, drafts)))
                if len(waiting) > at_once:
                    _finish(*waiting.popleft(), summary, tick)
            while waiting:
                _finish(*waiting.popleft(), summary, tick)
        except BaseException:
            for executor in (embedders, writer):  # what has begun is finished, nothing else
                executor.shutdown(wait=False, cancel_futures=True)
            raise
    return summary


def _to_embed(
    read: Iterable[tuple[Listing | BadRow, PreparedProduct | BadRow | None]], seen: set[str], summary: IndexSummary
) -> list[PreparedProduct]:
    """Returns what is left to embed; what is not is counted. `seen` are the ids of earlier rows."""
    ready: list[PreparedProduct] = []
    for row, outcome in read:
        if isinstance(outcome, BadRow):
            summary.bad.append(outcome)
        elif row.id in seen:
            summary.bad.append(BadRow(row.row, row.id, DuplicateIds(f"id '{row.id}' stands in an earlier row.")))
        else:
            seen.add(row.id or "")
            if outcome is None:
                summary.unchanged += 1
            else:
                ready.append(outcome)
    return ready


def _finish(rows: int, commit: Future[list[Stored]], summary: IndexSummary, tick: Tick) -> None:
    """Waits for a commit and counts what it stored. Raises what the commit raised."""
    for stored in commit.result():
        summary.created += stored.created
        summary.replaced += not stored.created
    tick(rows)


def _read(matcher: Matcher, row: Listing | BadRow, catalog: str) -> PreparedProduct | BadRow | None:
    """Returns the product ready for the towers, None if it is stored as it is, or why it cannot be used."""
    if isinstance(row, BadRow):
        return row
    try:
        if row.id is None:
            raise InvalidInput("the row has no id: give every row its own, or name the column with --id-column.")
        if _is_stored(matcher, row.id, row, catalog):
            return None
        return matcher.read_product(row.id, row.title, row.images, row.attributes)
    except AppError as error:
        return BadRow(row.row, row.id, error)


def _is_stored(matcher: Matcher, product_id: str, row: Listing, catalog: str) -> bool:
    if catalog not in {info.name for info in matcher.catalog.catalogs()}:
        return False
    try:
        stored: Product = matcher.catalog.get(catalog, product_id)
        matcher.catalog.embedding(catalog, product_id)  # one that re-embedding had to leave without vectors is not done
    except (ProductNotFound, EmptyProduct):
        return False
    title = None if row.title is None else matcher.encoder.read_title(row.title)
    digests = [hashlib.sha256(image).hexdigest() for image in row.images]
    same_photos = [photo.sha256 for photo in stored.photos] == digests
    return same_photos and stored.title == title and _compared(stored.attributes) == _compared(row.attributes)


def _compared(attributes: Mapping[str, Scalar]) -> dict[str, str]:
    return {name: canonical(value) for name, value in attributes.items()}  # in Python, True equals 1


def match_rows(
    matcher: Matcher, rows: Iterable[Listing | BadRow], options: MatchOptions, tick: Tick
) -> Iterator[MatchedRow]:
    """Matches a table against a catalog; yields one result a row, in order. `tick` as in `index_rows`."""

    def read(row: Listing | BadRow) -> Prepared | AppError:
        if isinstance(row, BadRow):
            return row.error
        try:
            return matcher.read_query(row.images[0] if row.images else None, row.title)
        except AppError as error:
            return error

    with ThreadPoolExecutor(readers()) as pool:
        for chunk, outcomes in read_ahead(pool, read, rows, chunk_of(matcher.encoder)):
            read_rows = list(outcomes)
            answers = iter(matcher.match([item for item in read_rows if isinstance(item, Prepared)], options))
            for row, item in zip(chunk, read_rows, strict=True):
                yield MatchedRow(row.row, row.id, item if isinstance(item, AppError) else next(answers))
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
    with ThreadPoolExecutor(readers()) as pool:
        for batch in work.batches(chunk_of(encoder)):
            read = list(pool.map(lambda product: _reread(encoder, product, photos), batch))
            failed += [(product, error) for product, (_, errors) in zip(batch, read, strict=True) for error in errors]
            embedded = iter(embed(encoder, [prepared for prepared, _ in read if not prepared.empty]))
            work.store(batch, [None if prepared.empty else next(embedded) for prepared, _ in read])
            tick(len(batch))
    return failed


def _reread(encoder: Encoder, product: StaleProduct, photos: PhotoStore) -> tuple[Prepared, list[AppError]]:
    errors: list[AppError] = []
    pixels = []
    for digest in product.photos if encoder.image_dim else ():
        try:
            pixels.append(encoder.read_photo(photos.get(digest))[1])
        except AppError as error:
            errors.append(error)
    title = product.title if encoder.title_dim else None
    return Prepared(tuple(pixels), title), errors
