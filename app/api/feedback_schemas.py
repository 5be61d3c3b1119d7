"""The JSON of feedback, with an example that runs."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.core.feedback import Contradiction, Opinion
from app.core.product import DEFAULT_CATALOG
from app.core.statements import Side, Statement, StatementDraft
from app.errors import InvalidInput


class SideIn(BaseModel):
    """A product of the catalog by its `id`, or a `title` that was asked."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: Annotated[str | None, Field(description="Of a product of that catalog.")] = None
    title: Annotated[str | None, Field(description="That was asked, and is stored nowhere else.")] = None

    def side(self) -> Side:
        """For the core. Raises InvalidInput unless there is one of the two."""
        if (self.id is None) == (self.title is None):
            raise InvalidInput("a side is either the id of a product or a title that was asked: give one of the two.")
        return Side(self.id, self.title)


class FeedbackIn(BaseModel):
    """What a person says about a pair."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "example": {
                "sides": [{"id": "p1"}, {"title": "Carrots, 1 kg"}], "same": False,
                "by": "ana@shop.example", "note": "a bunch, and a bag of one kilogram",
            }
        },
    )  # fmt: skip

    sides: Annotated[list[SideIn], Field(min_length=2, max_length=2, description="In any order; one or both are products.")]
    same: Annotated[bool, Field(description="Whether the two are the same product.")]
    by: Annotated[str, Field(description="Who says so; a later statement about the same pair counts instead of this one.")]
    note: Annotated[str | None, Field(description="Why.")] = None
    request_id: Annotated[str | None, Field(description="`X-Request-ID` of the answer that this is about.")] = None
    catalog: str = DEFAULT_CATALOG

    def draft(self) -> StatementDraft:
        """For the core. Raises InvalidInput."""
        first, second = (one.side() for one in self.sides)
        return StatementDraft(first, second, self.same, self.by, self.note, self.request_id)


class SideOut(BaseModel):
    """A product as it was when the statement was made, or a title that was asked."""

    id: str | None = Field(description="Null for a title that was asked.")
    title: str | None
    photos: list[str] = Field(description="SHA-256 digests of the product's photos.")

    @classmethod
    def of(cls, side: Side) -> SideOut:
        """From the core's side."""
        return cls(id=side.id, title=side.title, photos=list(side.photos))


class FeedbackOut(BaseModel):
    """A stored statement."""

    number: Annotated[int, Field(description="Rises with every statement; tells which is the later one.")]
    catalog: str
    sides: Annotated[list[SideOut], Field(description="Products first, then by name.")]
    same: bool
    by: str
    at: datetime
    note: str | None
    request_id: str | None
    replaced: Annotated[bool, Field(description="True if a later one of the same person about the pair counts instead.")]

    @classmethod
    def of(cls, statement: Statement) -> FeedbackOut:
        """From the core's statement."""
        return cls(
            number=statement.number, catalog=statement.catalog, sides=_sides(statement), same=statement.same,
            by=statement.by, at=statement.at, note=statement.note, request_id=statement.request_id,
            replaced=statement.replaced,
        )  # fmt: skip


class FeedbackPageOut(BaseModel):
    """Some statements, newest first; pass `cursor` to get the next ones, until it is null."""

    statements: list[FeedbackOut]
    cursor: str | None
    total: Annotated[int, Field(description="Statements about products of the catalog, replaced ones too.")]


class OpinionOut(BaseModel):
    """What people agree on about one pair."""

    sides: list[SideOut]
    same: bool
    by: Annotated[list[str], Field(description="Who says so, in the order of their statements.")]
    numbers: Annotated[list[int], Field(description="Of their statements.")]

    @classmethod
    def of(cls, opinion: Opinion) -> OpinionOut:
        """From the core's opinion."""
        by, numbers = [one.by for one in opinion.statements], [one.number for one in opinion.statements]
        return cls(sides=_sides(opinion), same=opinion.same, by=by, numbers=numbers)


class ContradictionOut(BaseModel):
    """Two that are said to differ, and the shortest chain of "the same" that leads from one to the other."""

    kind: Annotated[
        Literal["direct", "chain"],
        Field(description="`direct`: people disagree about the pair itself; the chain is that pair."),
    ]
    text: Annotated[str, Field(description="The same for people.")]
    differ: OpinionOut
    chain: list[OpinionOut]

    @classmethod
    def of(cls, found: Contradiction) -> ContradictionOut:
        """From the core's contradiction."""
        kind: Literal["direct", "chain"] = "direct" if found.direct else "chain"
        chain = [OpinionOut.of(link) for link in found.chain]
        return cls(kind=kind, text=str(found), differ=OpinionOut.of(found.differ), chain=chain)


class ContradictionsOut(BaseModel):
    """Contradictions, direct ones first."""

    contradictions: list[ContradictionOut]
    truncated: Annotated[bool, Field(description="True if there are more than are shown.")]
    catalog: str

    @classmethod
    def of(cls, found: Iterable[Contradiction], truncated: bool, catalog: str) -> ContradictionsOut:
        """From the core's contradictions."""
        return cls(contradictions=[ContradictionOut.of(one) for one in found], truncated=truncated, catalog=catalog)


def _sides(pair: Statement | Opinion) -> list[SideOut]:
    return [SideOut.of(pair.first), SideOut.of(pair.second)]
