"""The use cases: read, embed, index, match. Synchronous, batched, no HTTP."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from app.catalog.base import Catalog, Stored
from app.core.answer import Answer
from app.core.product import (
    DEFAULT_CATALOG,
    DEFAULT_LIMITS,
    Embedding,
    Prepared,
    ProductDraft,
    ProductLimits,
    Query,
    Scalar,
    Upload,
    check_id,
)
from app.core.statements import Side, Statement, StatementDraft
from app.embedding import embed, read
from app.encoders.base import Encoder
from app.errors import (
    EmptyProduct,
    ImageUrlRefused,
    ImageUrlUnreachable,
    InvalidImage,
    InvalidInput,
    InvalidTitle,
    PayloadTooLarge,
)
from app.judge import Judge, ProductSide, Rule, Verdict, check_rule
from app.verifying import Verifier

MAX_LIMIT = 1000
DEFAULT_LIMIT = 20
_PROBE_PHOTO = (  # a blue square on brown, PNG, 32 x 32
    "iVBORw0KGgoAAAANSUhEUgAAACAAAAAgCAIAAAD8GO2jAAAAPUlEQVR42mM8UaHBQEvAxEBjMGrBqAWUAxZcEmFHFpBk0CqbhNE4GLVg1IJRC0Yt"
    "GLoWMI62i0YtGLWAAQCq5wYRpzXF+QAAAABJRU5ErkJggg=="
)


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

    def __init__(
        self, encoder: Encoder, catalog: Catalog, judge: Judge, model: str, limits: ProductLimits = DEFAULT_LIMITS,
        gpu_memory: Callable[[], Mapping[str, int]] | None = None,
    ) -> None:  # fmt: skip
        """Takes the parts as they are.

        Args:
            encoder: the towers.
            catalog: where products live; its vectors must be the encoder's.
            judge: the bundle's thresholds and pair model.
            model: what answers call the model, `name@fingerprint`.
            limits: what products may hold.
            gpu_memory: returns bytes by kind, for metrics.
        """
        self.encoder, self.catalog, self.judge, self.model, self.limits = encoder, catalog, judge, model, limits
        self.gpu_memory = gpu_memory
        self.verifier = Verifier(lambda name, product_id: catalog.photo(name, product_id, 0)[0], encoder.limits)

    # -- reading: cheap checks and decoding, one item at a time, in any thread --------------------------------

    def read_query(self, image: bytes | None, title: str | None) -> Prepared:
        """Checks and decodes one query.

        Raises:
            EmptyProduct: neither photo nor title, or none that this model reads.
            InvalidInput: InvalidImage, InvalidTitle. PayloadTooLarge: too many bytes or pixels.
        """
        return read(self.encoder, [] if image is None else [image], title)[0]

    def check_photos(self, photos: int) -> None:
        """Raises InvalidInput if a product must not have so many photos."""
        if photos > self.limits.photos:
            raise InvalidInput(f"a product takes at most {self.limits.photos} photos, got {photos}.")

    def check_product(self, product_id: str, photos: int) -> None:
        """Raises InvalidInput for an id that no product can have, or if it must not have so many photos."""
        check_id(product_id)
        self.check_photos(photos)

    def read_product(
        self, product_id: str, title: str | None, images: Sequence[bytes], attributes: Mapping[str, Scalar]
    ) -> PreparedProduct:
        """Checks and decodes one product. Raises as `read_query`, and InvalidInput for a bad id or too many photos."""
        self.check_product(product_id, len(images))
        prepared, uploads, clean = read(self.encoder, images, title)
        return PreparedProduct(product_id, clean, uploads, attributes, prepared)

    # -- embedding and searching: heavy, batched ---------------------------------------------------------------

    def embed(self, items: Sequence[Prepared]) -> list[Embedding]:
        """Embeds products and queries together: all photos in one pass, all titles in another.

        Raises:
            EncodingFailed: the towers failed on at least one of them.
        """
        return embed(self.encoder, items)

    def query(self, prepared: Prepared, embedding: Embedding, options: MatchOptions, exclude: str | None = None) -> Query:
        """Returns the question to the catalog, with the threshold that applies.

        Raises:
            CatalogNotFound: there is no such catalog.
            InvalidInput: the bundle cannot answer by that rule.
        """
        by_threshold = self.judge.bound(options.rule) is None  # then only matches are judged
        threshold, partial = options.threshold, dict[str, float]()
        if threshold is None:
            partial = self.judge.thresholds.all_at(self.catalog.size(options.catalog))
            threshold = partial[embedding.modality]
        return Query(
            embedding, threshold, options.limit, options.where, exclude, partial,
            self.judge.context, by_threshold, prepared.title, prepared.phash,
        )  # fmt: skip

    def search(self, catalog: str, queries: Sequence[Query], rules: Sequence[Rule] | None = None) -> list[Answer]:
        """Answers queries to one catalog, each by its rule (None: by their thresholds). Raises CatalogNotFound."""
        answers = self.candidates(catalog, queries)
        return self.judged(list(zip(queries, answers, rules or [Rule()] * len(queries), strict=True)))

    def candidates(self, catalog: str, queries: Sequence[Query]) -> list[Answer]:
        """Returns what the catalog finds for queries, to be `judged`. Raises CatalogNotFound."""
        return self.catalog.search(catalog, queries)

    def judged(self, asked: Sequence[tuple[Query, Answer, Rule]]) -> list[Answer]:
        """Returns answers with their matches by the rule of each query, with probabilities and reasons."""
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
        return self.answer(list(zip(items, self.embed(items), strict=True)), options)

    def answer(self, embedded: Sequence[tuple[Prepared, Embedding]], options: MatchOptions) -> list[Answer]:
        """Searches for queries that have been embedded."""
        queries = [self.query(item, embedding, options) for item, embedding in embedded]
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
        self.catalog.close()


@contextmanager
def reading_side(side: str) -> Iterator[None]:
    """Makes what is wrong with one of two products say whose it is: `left_image`, `right_title`."""
    try:
        yield
    except EmptyProduct as error:
        raise EmptyProduct(f"the {side} side: {error}") from error
    except InvalidTitle as error:
        raise InvalidTitle(f"{side}_title: {error}") from error
    except (ImageUrlRefused, ImageUrlUnreachable) as error:
        raise type(error)(f"{side}_image_url: {error}") from error
    except (InvalidImage, PayloadTooLarge) as error:  # only photos are measured in bytes and pixels
        raise type(error)(f"{side}_image: {error}") from error


def probe(encoder: Encoder) -> Prepared:
    """Returns an item that exercises decoding and both towers; what it matches does not matter."""
    photos = (encoder.read_photo(base64.b64decode(_PROBE_PHOTO))[1],) if encoder.image_dim else ()
    return Prepared(photos, encoder.read_title("probe") if encoder.title_dim else None)
