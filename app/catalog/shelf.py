"""One catalog in memory: a search index that says what the database says, or says that it does not."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy.orm import Session

from app.catalog import snapshot
from app.catalog.data_folder import DataFolder
from app.catalog.reading import read_vectors
from app.catalog.records import CatalogRow
from app.catalog.row_index import RowIndex
from app.catalog.rows import IndexOptions
from app.core.fusion import Fusion

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Shelf:
    """One catalog in memory. `lock` makes "commit and update the index" and "search and read records" atomic.

    Attributes:
        pk: the catalog's key.
        name: of the catalog.
        index: of its vectors.
        state: generation and stamp of what the index holds.
        products: how many there are.
        saved: the state that the snapshot on disk is of, None if there is none, or it lacks something.
        opened: where the index came from: `snapshot`, `database`, or `new` for a catalog without a past.
        behind: the index does not hold what was committed last, and must not be searched.
        lock: see above.
    """

    pk: int
    name: str
    index: RowIndex
    state: tuple[int, str]
    products: int
    saved: tuple[int, str] | None = None
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
        return Shelf(row.pk, row.name, self._index(), row.state, 0)

    def load(self, session: Session, row: CatalogRow) -> Shelf:
        """Returns a shelf with its products: from the snapshot if that is proven to match, else from the database.

        Raises:
            CatalogError: the vectors in the database cannot be those of this bundle, or are damaged.
        """
        index, source = self._index(), "snapshot"
        place = self.data.snapshot(row.pk)
        try:
            for part in snapshot.read(place, row.state, self.fingerprint, index.dim, index.precision):
                index.add(part, adopt=True)
            self._adopt_lists(place, index, row.name)
        except snapshot.Unusable as why:
            index, source = self._index(), str(why)
            for part in read_vectors(session, row.pk, self.fusion):
                index.add(part)
        made = index.prepare()
        log.info("catalog open", extra={"catalog": row.name, "products": row.products, "rows": len(index), "source": source})
        opened = "new" if row.generation == 0 else "snapshot" if source == "snapshot" else "database"
        saved = row.state if opened == "snapshot" and not made else None
        return Shelf(row.pk, row.name, index, row.state, row.products, saved, opened)

    def _adopt_lists(self, place: Path, index: RowIndex, catalog: str) -> None:
        """Takes the lists of an approximate search from a snapshot, if they are wanted, and there."""
        if self.options.search != "approximate":
            return
        try:
            index.adopt_lists(snapshot.read_lists(place))
        except (snapshot.Unusable, ValueError) as why:
            log.info("lists are made anew", extra={"catalog": catalog, "reason": str(why)})

    def catch_up(self, session: Session, shelf: Shelf) -> None:
        """Makes a shelf that is behind anew. The caller holds its lock."""
        fresh = self.load(session, session.get_one(CatalogRow, shelf.pk))
        shelf.index, shelf.state, shelf.products, shelf.behind = fresh.index, fresh.state, fresh.products, False

    def save(self, shelf: Shelf) -> None:
        """Writes a snapshot unless there is one. What cannot be written costs the next start some time, and nothing else."""
        if shelf.saved == shelf.state or shelf.behind or shelf.state[0] == 0:
            return
        place: Path = self.data.snapshot(shelf.pk)
        try:
            snapshot.save(place, shelf.index, shelf.state, self.fingerprint)
        except OSError as error:
            log.warning(
                "no snapshot could be written: the next start reads the database instead",
                extra={"catalog": shelf.name, "reason": error.strerror},
            )

    def _index(self) -> RowIndex:
        return RowIndex(self.fusion.dim, self.options, self.fusion.image_dim)
