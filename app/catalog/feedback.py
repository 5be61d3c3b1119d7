"""Feedback in the database of a data folder. Rows are added and never changed."""

from __future__ import annotations

import hashlib
import json
import threading
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, exists, func, select
from sqlalchemy.orm import Session, aliased

from app.catalog.base import FeedbackPage
from app.catalog.reading import product_row
from app.catalog.records import CatalogRow, FeedbackRow, Records
from app.core.statements import Side, Statement, StatementDraft
from app.errors import CatalogNotFound


class LocalFeedback:
    """See `app.catalog.base.FeedbackStore`."""

    def __init__(self, records: Records, write_lock: threading.Lock | None = None) -> None:
        """Takes the database as it is.

        Args:
            records: stays open, and is closed by its owner.
            write_lock: held while writing; everybody who writes to the same database must share it.
        """
        self._records, self._write_lock = records, write_lock or threading.Lock()

    def add(self, catalog: str, draft: StatementDraft) -> Statement:
        """See `FeedbackStore.add`."""
        with self._write_lock, self._records.session(write=True) as session:
            catalog_pk = _catalog_pk(session, catalog)
            first, second = (_as_it_is(session, catalog_pk, side) for side in (draft.first, draft.second))
            row = FeedbackRow(
                catalog_pk=catalog_pk, number=_next_number(session, catalog_pk), pair=_pair(draft),
                first_id=first.id, first_title=first.title,
                first_photos=list(first.photos), second_id=second.id, second_title=second.title,
                second_photos=list(second.photos), same=draft.same, said_by=draft.by,
                at=datetime.now(UTC).replace(tzinfo=None), note=draft.note, request_id=draft.request_id,
            )  # fmt: skip
            session.add(row)
            session.commit()
        return _statement(catalog, row, replaced=False)

    def page(self, catalog: str, before: int | None, limit: int) -> FeedbackPage:
        """See `FeedbackStore.page`."""
        with self._records.session() as session:
            catalog_pk = _catalog_pk(session, catalog)
            wanted = select(FeedbackRow, _replaced()).where(FeedbackRow.catalog_pk == catalog_pk)
            if before is not None:
                wanted = wanted.where(FeedbackRow.number < before)
            rows = session.execute(wanted.order_by(FeedbackRow.number.desc()).limit(limit + 1)).all()
            total = session.scalar(select(func.count()).where(FeedbackRow.catalog_pk == catalog_pk)) or 0
        shown = tuple(_statement(catalog, row, replaced=replaced) for row, replaced in rows[:limit])
        return FeedbackPage(shown, shown[-1].number if len(rows) > limit else None, total)

    def statements(self, catalog: str) -> list[Statement]:
        """See `FeedbackStore.statements`."""
        with self._records.session() as session:
            wanted = select(FeedbackRow, _replaced()).where(FeedbackRow.catalog_pk == _catalog_pk(session, catalog))
            rows = session.execute(wanted.order_by(FeedbackRow.number)).all()
        return [_statement(catalog, row, replaced=replaced) for row, replaced in rows]


def _catalog_pk(session: Session, catalog: str) -> int:
    pk = session.scalar(select(CatalogRow.pk).where(CatalogRow.name == catalog))
    if pk is None:
        raise CatalogNotFound.named(catalog)
    return pk


def _next_number(session: Session, catalog_pk: int) -> int:
    """Counts within the catalog, for a number over all of them would tell how much is said in others."""
    last = session.scalar(select(func.max(FeedbackRow.number)).where(FeedbackRow.catalog_pk == catalog_pk))
    return (last or 0) + 1


def _as_it_is(session: Session, catalog_pk: int, side: Side) -> Side:
    """Returns a side with the title and the photos that its product has now."""
    if side.id is None:
        return side
    product = product_row(session, catalog_pk, side.id).product()
    return Side(product.id, product.title, tuple(photo.sha256 for photo in product.photos))


def _pair(draft: StatementDraft) -> str:
    """Returns a short name of the pair; titles are too long for an index."""
    return hashlib.sha256(json.dumps([draft.first.key, draft.second.key]).encode()).hexdigest()


def _replaced() -> ColumnElement[bool]:
    """True for a row if the same person has made a later statement about the same pair."""
    later = aliased(FeedbackRow)
    return exists().where(
        later.catalog_pk == FeedbackRow.catalog_pk,
        later.pair == FeedbackRow.pair,
        later.said_by == FeedbackRow.said_by,
        later.pk > FeedbackRow.pk,
    )


def _statement(catalog: str, row: FeedbackRow, *, replaced: bool) -> Statement:
    return Statement(
        number=row.number, catalog=catalog, first=Side(row.first_id, row.first_title, tuple(row.first_photos)),
        second=Side(row.second_id, row.second_title, tuple(row.second_photos)), same=row.same, by=row.said_by,
        at=row.at.replace(tzinfo=UTC), note=row.note, request_id=row.request_id, replaced=replaced,  # SQLite drops the zone
    )  # fmt: skip
