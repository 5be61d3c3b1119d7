"""The JSON of the API, with examples that run."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import quote

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from app.core.answer import Answer, Match, Reason
from app.core.product import DEFAULT_CATALOG, Product, Scalar
from app.errors import InvalidImage, InvalidInput
from app.judge import Verdict

IMAGE_URL = "Where to fetch a photo, instead of uploading it; only if SAMESKU_IMAGE_URLS is set."
Score = Annotated[float, Field(ge=-1, le=1, description="Cosine, bigger is more alike.")]
Point = Annotated[list[int | float], Field(min_length=2, max_length=2)]  # OpenAPI has no tuples
Probability = Annotated[float, Field(ge=0, le=1)]


def _no_flag(value: Any) -> Any:
    """Forms send numbers as text, so text is taken; what JSON calls true is no 1."""
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


Asked = BeforeValidator(_no_flag)


class ProductOut(BaseModel):
    """A product as it is stored."""

    id: str
    catalog: str
    title: str | None
    attributes: dict[str, Scalar]
    image_urls: list[str]
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, product: Product, catalog: str) -> ProductOut:
        """From the core's product."""
        urls = [image_url(product.id, catalog, position) for position in range(len(product.photos))]
        return cls(
            id=product.id, catalog=catalog, title=product.title, attributes=dict(product.attributes),
            image_urls=urls, created_at=product.created_at, updated_at=product.updated_at,
        )  # fmt: skip


class PageOut(BaseModel):
    """Some products; pass `cursor` to get the next ones, until it is null."""

    products: list[ProductOut]
    cursor: str | None
    total: Annotated[int, Field(description="Products in the catalog.")]


class ReasonOut(BaseModel):
    """What speaks for a pair or against it."""

    code: Annotated[str, Field(description="Stable: see the API notes.")]
    text: str

    @classmethod
    def all_of(cls, reasons: Sequence[Reason]) -> list[ReasonOut]:
        """From the core's reasons."""
        return [cls(code=one.code, text=one.text) for one in reasons]


class MatchOut(BaseModel):
    """A product that is the same, by the rule that applied."""

    id: str
    score: Score
    image_score: Score | None = Field(description="Cosine of the photos; null where a side has none.")
    title_score: Score | None = Field(description="Cosine of the titles; null where a side has none.")
    probability: Probability | None = Field(description="That it is the same product; null if the model has no pair model.")
    decision: str | None = Field(description="match, review or no-match, by probability; null likewise.")
    reasons: list[ReasonOut]
    title: str | None
    attributes: dict[str, Scalar]
    image_url: str | None

    @classmethod
    def of(cls, match: Match, catalog: str) -> MatchOut:
        """From the core's match."""
        product = match.product
        return cls(
            id=product.id, score=match.score, image_score=match.image_score, title_score=match.title_score,
            probability=match.probability, decision=match.decision, reasons=ReasonOut.all_of(match.reasons),
            title=product.title, attributes=dict(product.attributes),
            image_url=image_url(product.id, catalog) if product.photos else None,
        )  # fmt: skip


class AnswerOut(BaseModel):
    """The matches of one query, best first, and how complete they are."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "matches": [
                    {
                        "id": "grocery-004", "score": 0.91, "image_score": 0.88, "title_score": 0.94,
                        "probability": 0.97, "decision": "match",
                        "reasons": [{"code": "photos_alike", "text": "the photos are alike (0.88)"}],
                        "title": "Carrots", "attributes": {"category": "Vegetables"},
                        "image_url": "/catalog/grocery-004/image",
                    }
                ],
                "total": 1, "truncated": False, "exact": True, "threshold": 0.6,
                "partial_thresholds": {"image": 0.8}, "rule": "threshold", "bound": 0.6, "gallery": 88, "catalog": "default",
                "model": "default@0123456789abcdef", "took_ms": 41.5,
            }
        }
    )  # fmt: skip

    matches: list[MatchOut]
    total: Annotated[int, Field(description="Products at or above the threshold, shown or not.")]
    truncated: Annotated[bool, Field(description="True if more products match than are shown.")]
    exact: Annotated[bool, Field(description="False if a product that was not looked at may match, too.")]
    threshold: Annotated[float, Field(description="The threshold that applied, inclusive.")]
    partial_thresholds: Annotated[
        dict[str, float], Field(description="Applied to products that share only a photo, or only a title, with the query.")
    ]
    rule: Annotated[str, Field(description="What made the matches: threshold, min_probability or target_precision.")]
    bound: Annotated[
        float | None, Field(description="The value that applied: a score for threshold, a probability for the others.")
    ]
    gallery: Annotated[int, Field(description="Products in the catalog.")]
    catalog: str
    model: str
    took_ms: float

    @classmethod
    def of(cls, answer: Answer, catalog: str, model: str, took_ms: float) -> AnswerOut:
        """From the core's answer."""
        return cls(
            matches=[MatchOut.of(match, catalog) for match in answer.matches], total=answer.total,
            truncated=answer.truncated, exact=answer.exact, threshold=answer.threshold, gallery=answer.gallery,
            partial_thresholds={m: t for m, t in answer.partial.items() if m != "fused" and t != answer.threshold},
            rule=answer.rule, bound=answer.bound, catalog=catalog, model=model, took_ms=round(took_ms, 1),
        )  # fmt: skip


class VerdictOut(BaseModel):
    """What is thought of two products."""

    decision: Annotated[str, Field(description="match, review or no-match.")]
    probability: Probability | None = Field(description="That they are the same; null if the model has no pair model.")
    score: Score | None = Field(description="Null where the two sides share neither photo nor title.")
    image_score: Score | None
    title_score: Score | None
    reasons: list[ReasonOut]
    model: str
    took_ms: float

    @classmethod
    def of(cls, verdict: Verdict, model: str, took_ms: float) -> VerdictOut:
        """From the matcher's verdict."""
        return cls(
            decision=verdict.decision, probability=verdict.probability, score=verdict.score,
            image_score=verdict.image_score, title_score=verdict.title_score,
            reasons=ReasonOut.all_of(verdict.reasons), model=model, took_ms=round(took_ms, 1),
        )  # fmt: skip


class ProblemOut(BaseModel):
    """RFC 9457 problem details. Switch on `code`; show `detail`."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    request_id: str


class BatchItemIn(BaseModel):
    """One item of a JSON batch: a query, or a product. Photos are base64, or fetched from their addresses."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: str | None = None
    title: str | None = None
    image: str | None = None
    images: list[str] = []
    image_url: Annotated[str | None, Field(description=IMAGE_URL)] = None
    image_urls: Annotated[list[str], Field(description=IMAGE_URL)] = []
    attributes: dict[str, Any] = {}

    @classmethod
    def read(cls, item: object) -> BatchItemIn:
        """Validates one item. Raises InvalidInput that says which field is wrong."""
        try:
            return cls.model_validate(item)
        except ValidationError as error:
            raise first_problem(error, "item") from None

    def addresses(self) -> tuple[str, ...]:
        """Where to fetch photos."""
        return tuple(([] if self.image_url is None else [self.image_url]) + self.image_urls)

    def photos(self) -> list[bytes]:
        """Decodes the photos. Raises InvalidImage if one is not base64."""
        encoded = ([] if self.image is None else [self.image]) + self.images
        try:
            return [base64.b64decode(photo, validate=True) for photo in encoded]
        except (binascii.Error, ValueError):
            raise InvalidImage("image is not base64: encode the photo's bytes, without a data: prefix.") from None


class MatchBatchIn(BaseModel):
    """A JSON batch of queries."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"example": {"items": [{"id": "a", "title": "Carrots"}, {"title": "Asparagus"}], "limit": 5}},
    )

    items: list[Any]
    threshold: Annotated[float, Asked, Field(ge=-1, le=1)] | None = None
    min_probability: Annotated[float, Asked, Field(ge=0, le=1)] | None = None
    target_precision: Annotated[float, Asked, Field(ge=0.5, lt=1)] | None = None
    match_from: Annotated[float, Asked, Field(ge=0, le=1)] | None = None
    review_from: Annotated[float, Asked, Field(ge=0, le=1)] | None = None
    limit: Annotated[int, Asked] | None = None
    filter: dict[str, Any] = {}
    catalog: str = DEFAULT_CATALOG


class CatalogBatchIn(BaseModel):
    """A JSON batch of products."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"example": {"items": [{"id": "p1", "title": "Carrots", "attributes": {"brand": "Acme"}}]}},
    )

    items: list[Any]
    catalog: str = DEFAULT_CATALOG


class ModelOut(BaseModel):
    """The bundle in use."""

    name: str
    fingerprint: str
    thresholds: dict[str, list[Point]] = Field(description="Pairs of products in the catalog, and the threshold there.")
    image_dim: int
    title_dim: int
    catalogs: dict[str, int] = Field(description="Products per catalog.")
    details: dict[str, Any] = Field(description="Encoders, training, data and metrics, from the bundle's manifest.")


def first_problem(error: ValidationError, whole: str) -> InvalidInput:
    """Returns the first problem that validation found; `whole` names the thing where no field is to blame."""
    first = error.errors()[0]
    return InvalidInput(f"{'.'.join(map(str, first['loc'])) or whole}: {first['msg']}")


def image_url(product_id: str, catalog: str, position: int = 0) -> str:
    """Returns the path of a product's photo."""
    query = [f"position={position}"] if position else []
    query += [f"catalog={quote(catalog)}"] if catalog != DEFAULT_CATALOG else []
    return f"/catalog/{quote(product_id)}/image" + ("?" + "&".join(query) if query else "")
