"""One catalog in memory: a search index that says what the database says, or says that it does not."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.exc import DatabaseError
from sqlalchemy.orm import Session

from app.catalog import snapshot
from app.catalog.data_folder import DataFolder
from app.catalog.reading import changed_since, read_vectors
from app.catalog.records import NEW, CatalogRow
from app.catalog.row_index import RowIndex
from app.catalog.rows import IndexOptions
from app.catalog.writing import keep
from app.core.fusion import Fusion
from app.errors import AppError

log = logging.getLogger(__name__)
SAVED_AT_ONCE = 10_000  # products: a catalog that large gets the snapshot that it lacks at its start, not at its stop
MOST_CHANGED = 0.5  # of the products: if more have changed since a snapshot, reading all of them takes no longer


@dataclass(slots=True)
class Shelf:
    """One catalog in memory. `lock` makes "commit and update the index" and "search and read records" atomic.

    Attributes:
        pk: the catalog's key.
        name: of the catalog.
        index: of its vectors.
        stamp: of the state that the index holds.
        products: how many there are.
        saved: the stamp of the snapshot on disk, None if there is none, or it lacks something.
        opened: where the index came from: `snapshot`, `database`, or `new` for a catalog without a past.
        behind: the index does not hold what was committed last, and must not be searched.
        lock: see above.
    """

    pk: int
    name: str
    index: RowIndex
    stamp: str
    products: int
    saved: str | None = None
    opened: str = "new"
    behind: bool = False
    lock: threading.RLock = field(default_factory=threading.RLock)


@dataclass(frozen=True, slots=True)
class Shelves:
    """Makes shelves of a data folder, for one bundle."""

    data: DataFolder
    fusion: Fusion
    fingerprint: str
    options: IndexOptions

    def empty(self, row: CatalogRow) -> Shelf:
        """Returns the shelf of a catalog that has just come into being."""
        return Shelf(row.pk, row.name, self._index(), row.stamp, 0)

    def load_all(self, session: Session) -> dict[str, Shelf]:
        """Returns the shelves of all catalogs by name. Raises CatalogError as `load` does."""
        shelves = {row.name: self.load(session, row) for row in session.scalars(select(CatalogRow))}
        self._keep([shelf for shelf in shelves.values() if shelf.saved is None and shelf.products >= SAVED_AT_ONCE])
        self._note(shelves.values())
        return shelves

    def save_all(self, shelves: Collection[Shelf]) -> None:
        """Writes the snapshots that are missing. What cannot be written costs the next start some time, and nothing else."""
        self._keep(shelves)
        self._note(shelves)

    def load(self, session: Session, row: CatalogRow) -> Shelf:
        """Returns a shelf with its products: from the snapshot if that is proven to match, else from the database.

        A snapshot of an earlier state is brought up to date, if it is known what has changed.

        Raises:
            CatalogError: the vectors in the database cannot be those of this bundle, or are damaged.
        """
        told = {"catalog": row.name, "products": row.products}
        saved, opened = None, "new" if row.stamp == NEW else "database"
        try:
            index, saved, told["changed"] = self._from_snapshot(session, row)
            opened = told["source"] = "snapshot"
        except snapshot.Unusable as why:
            told["source"] = str(why)
            index = self._index()
            for part in read_vectors(session, row.pk, self.fusion):
                index.add(part)
        # a snapshot that lacks what had to be made is to be written anew; in a small catalog that has changed, its rows do
        lacking = index.prepare() and (row.products >= SAVED_AT_ONCE or saved == row.stamp)
        log.info("catalog open", extra=told | {"rows": len(index)})
        return Shelf(row.pk, row.name, index, row.stamp, row.products, None if lacking else saved, opened)

    def _from_snapshot(self, session: Session, row: CatalogRow) -> tuple[RowIndex, str, int]:
        """Makes an index of a snapshot. Raises Unusable, CatalogError.

        Returns:
            The index, the stamp of the snapshot, and how many products have changed since.
        """
        found = snapshot.Snapshot.find(self.data.snapshot(row.pk))
        changed = changed_since(session, row, found.stamp)
        if changed is None:
            raise snapshot.Unusable("snapshot of another catalog, or of another past of this one")
        if len(changed) > MOST_CHANGED * row.products:
            raise snapshot.Unusable(f"{len(changed)} of {row.products} products have changed since the snapshot")
        index = self._index()
        for part in found.rows(self.fingerprint, index.dim, index.precision):
            index.add(part, adopt=True)
        self._adopt_auxiliary(found, index, row.name)
        index.remove(changed)
        for part in read_vectors(session, row.pk, self.fusion, changed):
            index.add(part)
        return index, found.stamp, len(changed)

    def _adopt_auxiliary(self, found: snapshot.Snapshot, index: RowIndex, catalog: str) -> None:
        """Takes codes or lists from a snapshot, if it is wanted, and there."""
        if index.layout is None:
            return
        try:
            index.adopt_auxiliary(found.auxiliary(index.layout))
        except (snapshot.Unusable, ValueError) as why:
            log.info("codes or lists are made anew", extra={"catalog": catalog, "reason": str(why)})

    def catch_up(self, session: Session, shelf: Shelf) -> None:
        """Makes a shelf that is behind anew. The caller holds its lock."""
        fresh = self.load(session, session.get_one(CatalogRow, shelf.pk))
        shelf.index, shelf.stamp, shelf.products, shelf.behind = fresh.index, fresh.stamp, fresh.products, False

    def _keep(self, shelves: Collection[Shelf]) -> None:
        """Writes snapshots."""
        for shelf in shelves:
            if shelf.saved == shelf.stamp or shelf.behind or shelf.stamp == NEW:
                continue
            place: Path = self.data.snapshot(shelf.pk)
            try:
                snapshot.save(place, shelf.index, shelf.stamp, self.fingerprint)
            except OSError as error:
                log.warning(
                    "no snapshot could be written: the next start takes longer",
                    extra={"catalog": shelf.name, "reason": error.strerror},
                )
            else:
                shelf.saved = shelf.stamp

    def _note(self, shelves: Collection[Shelf]) -> None:
        """Notes of which states there are snapshots: changes are listed from there on, for a start after a crash."""
        try:
            with self.data.records.session() as session:
                noted = {row.pk: row.kept for row in session.scalars(select(CatalogRow))}
            others = [shelf for shelf in shelves if shelf.saved != noted.get(shelf.pk)]
            if others:
                with self.data.records.session(write=True) as session:
                    for shelf in others:
                        keep(session, session.get_one(CatalogRow, shelf.pk), shelf.saved)
                    session.commit()
        except (AppError, DatabaseError) as error:
            log.warning("after a crash the next start will read the database", extra={"reason": str(error)})

    def _index(self) -> RowIndex:
        return RowIndex(self.fusion.dim, self.options, self.fusion.image_dim)
