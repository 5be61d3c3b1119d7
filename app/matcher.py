"""The use cases: read, embed, index, match. Synchronous, batched, no HTTP."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from app.catalog.base import Catalog, Stored
from app.core.answer import Answer
from app.core.product import DEFAULT_CATALOG, Embedding, Pixels, Prepared, ProductDraft, Query, Scalar, Upload, check_id
from app.core.statements import Side, Statement, StatementDraft
from app.encoders.multimodal import Encoder
from app.errors import EmptyProduct, InvalidImage, InvalidInput, InvalidTitle, PayloadTooLarge
from app.judge import Judge, ProductSide, Rule, Verdict, check_rule
from app.verifying import Verifier

MAX_PHOTOS = 20
MAX_LIMIT = 1000
DEFAULT_LIMIT = 20
_PROBE_PHOTO = (  # a blue square on brown, PNG, 32 x 32
    "iVBORw0KGgoAAAANSUhEUgAAACAAAAAgCAIAAAD8GO2jAAAAPUlEQVR42mM8UaHBQEvAxEBjMGrBqAWUAxZcEmFHFpBk0CqbhNE4GLVg1IJRC0Yt"
    "GLoWMI62i0YtGLWAAQCq5wYRpzXF+QAAAABJRU5ErkJggg=="
)

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class MatchOptions:
    """How a query is to be answered.

    Attributes:
        threshold: smallest cosine that counts, in [-1, 1]; None for the bundle's own at this gallery size.
        limit: matches to return, 1 to 1000.
        where: attribute -> accepted values, see `Query.where`.
        catalog: which catalog to search.
        rule: what makes a match, other than the threshold; see `app.judge.Rule`.
    """

    threshold: float | None = None
    limit: int = DEFAULT_LIMIT
    where: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict)
    catalog: str = DEFAULT_CATALOG
    rule: Rule = field(default_factory=Rule)

    def __post_init__(self) -> None:
        check_rule(self.rule, self.threshold)
        if self.threshold is not None and not -1 <= self.threshold <= 1:
            raise InvalidInput(f"threshold is a cosine in [-1, 1], not {self.threshold}.")
        if not 1 <= self.limit <= MAX_LIMIT:
            raise InvalidInput(f"limit must lie in 1..{MAX_LIMIT}, not {self.limit}.")


@dataclass(frozen=True, slots=True)
class PreparedProduct:
    """A product that has passed every check and waits for the towers."""

    id: str
    title: str | None
    uploads: tuple[Upload, ...]
    attributes: Mapping[str, Scalar]
    prepared: Prepared

    def draft(self, embedding: Embedding) -> ProductDraft:
        """Returns the product with its embedding."""
        return ProductDraft(self.id, self.title, self.uploads, self.attributes, embedding)


class Matcher:
    """Everything the service does, for one bundle and one catalog store. Safe to call from several threads."""

    def __init__(self, encoder: Encoder, catalog: Catalog, judge: Judge, model: str) -> None:
        """Takes the parts as they are.

        Args:
            encoder: the towers.
            catalog: where products live; its vectors must be the encoder's.
            judge: the bundle's thresholds and pair model.
            model: what answers call the model, `name@fingerprint`.
        """
        self.encoder, self.catalog, self.judge, self.model = encoder, catalog, judge, model
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="titles") if encoder.side_by_side else None
        self.verifier = Verifier(lambda name, product_id: catalog.photo(name, product_id, 0)[0], encoder.limits)

    # -- reading: cheap checks and decoding, one item at a time, in any thread --------------------------------

    def read_query(self, image: bytes | None, title: str | None) -> Prepared:
        """Checks and decodes one query.

        Raises:
            EmptyProduct: neither photo nor title, or none that this model reads.
            InvalidInput: InvalidImage, InvalidTitle. PayloadTooLarge: too many bytes or pixels.
        """
        return read(self.encoder, [] if image is None else [image], title)[0]

    def read_product(
        self, product_id: str, title: str | None, images: Sequence[bytes], attributes: Mapping[str, Scalar]
    ) -> PreparedProduct:
        """Checks and decodes one product. Raises as `read_query`, and InvalidInput for a bad id or too many photos."""
        check_id(product_id)
        if len(images) > MAX_PHOTOS:
            raise InvalidInput(f"a product takes at most {MAX_PHOTOS} photos, got {len(images)}.")
        prepared, uploads, clean = read(self.encoder, images, title)
        return PreparedProduct(product_id, clean, uploads, attributes, prepared)

    # -- embedding and searching: heavy, batched ---------------------------------------------------------------

    def embed(self, items: Sequence[Prepared]) -> list[Embedding]:
        """Embeds products and queries together: all photos in one pass, all titles in another.

        Raises:
            EncodingFailed: the towers failed on at least one of them.
        """
        return embed(self.encoder, items, self._beside)

    def query(self, prepared: Prepared, embedding: Embedding, options: MatchOptions, exclude: str | None = None) -> Query:
        """Returns the question to the catalog, with the threshold that applies.

        Raises:
            CatalogNotFound: there is no such catalog.
            InvalidInput: the bundle cannot answer by that rule.
        """
        self.judge.bound(options.rule)
        threshold, partial = options.threshold, dict[str, float]()
        if threshold is None:
            partial = self.judge.thresholds.all_at(self.catalog.size(options.catalog))
            threshold = partial[embedding.modality]
        return Query(
            embedding, threshold, options.limit, options.where, exclude, partial,
            self.judge.context, prepared.title, prepared.phash,
        )  # fmt: skip

    def search(self, catalog: str, queries: Sequence[Query], rules: Sequence[Rule] | None = None) -> list[Answer]:
        """Answers queries to one catalog, each by its rule (None: by their thresholds). Raises CatalogNotFound."""
        answers = self.catalog.search(catalog, queries)
        asked = zip(queries, answers, rules or [Rule()] * len(queries), strict=True)
        return [self.judge.judge(query, answer, rule) for query, answer, rule in asked]

    def matches_of(self, product_id: str, options: MatchOptions) -> Answer:
        """Returns the matches of an indexed product, itself left out. Raises ProductNotFound or CatalogNotFound."""
        product = self.catalog.get(options.catalog, product_id)
        embedding = self.catalog.embedding(options.catalog, product_id)
        known = Prepared((), product.title, product.photos[0].phash if product.photos else None)
        query = self.query(known, embedding, options, exclude=product_id)
        return self.search(options.catalog, [query], [options.rule])[0]

    def match(self, items: Sequence[Prepared], options: MatchOptions) -> list[Answer]:
        """Embeds and searches in one go, for callers without a queue."""
        queries = [self.query(item, e, options) for item, e in zip(items, self.embed(items), strict=True)]
        return self.search(options.catalog, queries, [options.rule] * len(queries))

    def compare(self, sides: tuple[Prepared, Prepared], embeddings: Sequence[Embedding], rule: Rule) -> Verdict:
        """Judges two products by themselves."""
        left, right = (ProductSide(e, one.title, one.phash) for one, e in zip(sides, embeddings, strict=True))
        return self.judge.compare(left, right, rule.decisions)

    def add(self, catalog: str, products: Sequence[PreparedProduct]) -> list[Stored]:
        """Embeds and stores products in one go, all or none, for callers without a queue."""
        return self.catalog.put(catalog, self.drafts(products))

    def drafts(self, products: Sequence[PreparedProduct]) -> list[ProductDraft]:
        """Embeds products together and makes them ready to be stored. Raises EncodingFailed."""
        embeddings = self.embed([product.prepared for product in products])
        return [product.draft(one) for product, one in zip(products, embeddings, strict=True)]

    # -- feedback ----------------------------------------------------------------------------------------------

    def add_feedback(self, catalog: str, draft: StatementDraft) -> Statement:
        """Stores what a person says about a pair; a title that was asked is kept as the towers read it.

        Raises:
            InvalidTitle: a title that cannot be asked. ProductNotFound, CatalogNotFound: an unknown product or catalog.
        """
        first, second = (self._read_side(side) for side in (draft.first, draft.second))
        return self.catalog.feedback.add(catalog, replace(draft, first=first, second=second))

    def _read_side(self, side: Side) -> Side:
        return side if side.id is not None else Side(None, self.encoder.read_title(side.title or ""))

    def probe(self) -> Prepared:
        """See the function `probe`."""
        return probe(self.encoder)

    def close(self) -> None:
        """Closes the catalog."""
        if self._beside is not None:
            self._beside.shutdown()
        self.catalog.close()


def read(encoder: Encoder, images: Sequence[bytes], title: str | None) -> tuple[Prepared, tuple[Upload, ...], str | None]:
    """Checks and decodes a product or a query.

    Returns:
        What the towers take (only what this model reads), the photos as uploaded, and the clean title.

    Raises:
        EmptyProduct: neither photo nor title, or none that this model reads. Others as `Encoder`.
    """
    if not images and title is None:
        raise EmptyProduct("there is neither a photo nor a title: send at least one of them.")
    clean = None if title is None else encoder.read_title(title)
    read = [encoder.read_photo(data) for data in images]
    photos = tuple(pixels for _, pixels in read) if encoder.image_dim else ()
    phash = read[0][0].photo.phash if read else None
    prepared = Prepared(photos, clean if encoder.title_dim else None, phash)
    if prepared.empty:
        lacking = "titles" if images else "photos"
        raise EmptyProduct(f"this model does not read what was sent: send {lacking}, or load another bundle.")
    return prepared, tuple(upload for upload, _ in read), clean


@contextmanager
def reading_side(side: str) -> Iterator[None]:
    """Makes what is wrong with one of two products say whose it is: `left_image`, `right_title`."""
    try:
        yield
    except EmptyProduct as error:
        raise EmptyProduct(f"the {side} side: {error}") from error
    except InvalidTitle as error:
        raise InvalidTitle(f"{side}_title: {error}") from error
    except (InvalidImage, PayloadTooLarge) as error:  # only photos are measured in bytes and pixels
        raise type(error)(f"{side}_image: {error}") from error


def embed(encoder: Encoder, items: Sequence[Prepared], beside: Executor | None = None) -> list[Embedding]:
    """See `Matcher.embed`. Equal photos (pixel for pixel, as framed) and equal titles go through the towers once.

    Args:
        encoder: the towers.
        items: what to embed.
        beside: reads the titles while this thread looks at the photos; None for one after the other.
    """
    photos, photo_of = once([photo for item in items for photo in item.photos], _digest)
    titles, title_of = once([item.title for item in items if item.title is not None], str)
    if beside is not None and photos and titles:
        reading = beside.submit(encoder.embed_titles, titles)
        seen, read = encoder.embed_photos(photos), reading.result()
    else:
        seen, read = encoder.embed_photos(photos), encoder.embed_titles(titles)
    images, words = seen[np.array(photo_of, np.intp)], iter(read[np.array(title_of, np.intp)])
    ends = np.cumsum([len(item.photos) for item in items])
    return [
        Embedding(images[end - len(item.photos) : end], None if item.title is None else next(words))
        for item, end in zip(items, ends, strict=True)
    ]


def once(values: Sequence[Value], key: Callable[[Value], Hashable]) -> tuple[list[Value], list[int]]:
    """Returns the first of each set of values with one key, in order, and which of them stands for each value."""
    if len(values) < 2:  # a single request, most of the time: nothing to share, and digests cost
        return list(values), list(range(len(values)))
    places: dict[Hashable, int] = {}
    standing = [places.setdefault(key(value), len(places)) for value in values]
    firsts = dict(zip(reversed(standing), reversed(values), strict=True))
    return [firsts[place] for place in range(len(places))], standing


def _digest(pixels: Pixels) -> Hashable:
    return pixels.shape, hashlib.sha256(np.ascontiguousarray(pixels).data).digest()


def probe(encoder: Encoder) -> Prepared:
    """Returns an item that exercises decoding and both towers; what it matches does not matter."""
    photos = (encoder.read_photo(base64.b64decode(_PROBE_PHOTO))[1],) if encoder.image_dim else ()
    return Prepared(photos, encoder.read_title("probe") if encoder.title_dim else None)
