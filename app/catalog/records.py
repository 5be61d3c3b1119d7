"""The SQL truth: catalogs, products, photos, attributes, vectors, feedback, API keys.

One row of `vectors` is one row of the search index: `[sqrt(w) image, sqrt(1-w) title]` as little-endian float32,
with the fingerprint of the bundle that made it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import JSON, Engine, ForeignKey, Index, String, UniqueConstraint, create_engine, text
from sqlalchemy.exc import DatabaseError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from app.catalog.connections import engine_of
from app.catalog.faults import fault_of
from app.core.product import Photo, Product, Scalar
from app.errors import CatalogError, SchemaMismatch

NEW = "new"  # the stamp of a catalog that nothing was ever put into
MIGRATIONS = Path(__file__).parent / "migrations"


class Base(DeclarativeBase):
    """Declarative base of all tables."""


class CatalogRow(Base):
    """A named catalog.

    `generation` rises with every committed change, and `stamp` is random each time: it tells whether a snapshot is of this
    state. A generation may come twice, once a database was put back to an earlier state. `kept` is the stamp of an earlier
    state, of which there is a snapshot: what has changed since is in `changes`. `places` counts the products that were ever
    new in it, `products` those that are in it: counting a million rows at a start takes a while.
    """

    __tablename__ = "catalogs"
    pk: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    generation: Mapped[int] = mapped_column(default=0)
    stamp: Mapped[str] = mapped_column(String(32), default=NEW, server_default=NEW)
    kept: Mapped[str | None] = mapped_column(String(32))
    places: Mapped[int] = mapped_column(default=0, server_default="0")
    products: Mapped[int] = mapped_column(default=0, server_default="0")


class ProductRow(Base):
    """A product; `pk` and `place` stay when it is replaced.

    `place` is the cursor of its catalog: it counts within that catalog, for `pk` would tell how much others hold, and
    a place that is free again is never given away.
    """

    __tablename__ = "products"
    __table_args__ = (
        UniqueConstraint("catalog_pk", "id"),
        Index("ix_products_page", "catalog_pk", "place", unique=True),
        {"sqlite_autoincrement": True},  # a key that is gone must not come back
    )
    pk: Mapped[int] = mapped_column(primary_key=True)
    catalog_pk: Mapped[int] = mapped_column(ForeignKey("catalogs.pk", ondelete="CASCADE"))
    place: Mapped[int] = mapped_column(server_default="0")
    id: Mapped[str] = mapped_column(String(200))
    title: Mapped[str | None]
    attributes: Mapped[dict[str, Scalar]] = mapped_column(JSON)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    photos: Mapped[list[PhotoRow]] = relationship(
        order_by="PhotoRow.position", cascade="all, delete-orphan", passive_deletes=True, lazy="selectin"
    )

    def product(self, photos: tuple[Photo, ...] | None = None) -> Product:
        """Returns the product as the rest of the program knows it; `photos` spares reading them where they are known."""
        if photos is None:
            photos = tuple(p.photo() for p in self.photos)
        return stored_product(self.id, self.title, self.attributes, self.created_at, self.updated_at, photos)


class PhotoRow(Base):
    """A photo of a product; the file is stored once under its SHA-256, however many rows name it."""

    __tablename__ = "photos"
    __table_args__ = (Index("ix_photos_product", "product_pk"), Index("ix_photos_sha256", "sha256"))
    pk: Mapped[int] = mapped_column(primary_key=True)
    product_pk: Mapped[int] = mapped_column(ForeignKey("products.pk", ondelete="CASCADE"))
    position: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    media_type: Mapped[str]
    width: Mapped[int]
    height: Mapped[int]
    phash: Mapped[str | None] = mapped_column(String(16))  # SQLite's integers are signed: it is kept as text

    def photo(self) -> Photo:
        """Returns the photo as the rest of the program knows it."""
        return stored_photo(self.sha256, self.media_type, self.width, self.height, self.phash)


def stored_product(
    id: str,  # noqa: A002
    title: str | None,
    attributes: Mapping[str, Scalar],
    created_at: datetime,
    updated_at: datetime,
    photos: tuple[Photo, ...],
) -> Product:
    """Returns a product from the columns of its row, whose times SQLite keeps without their zone."""
    created, updated = created_at.replace(tzinfo=UTC), updated_at.replace(tzinfo=UTC)
    return Product(id, title, photos, attributes, created, updated)


def stored_photo(sha256: str, media_type: str, width: int, height: int, phash: str | None) -> Photo:
    """Returns a photo from the columns of its row."""
    return Photo(sha256, media_type, width, height, None if phash is None else int(phash, 16))


class AttributeRow(Base):
    """An attribute in the form that filters compare (`app.core.product.canonical`)."""

    __tablename__ = "attributes"
    __table_args__ = (Index("ix_attributes_filter", "name", "value", "product_pk"),)
    product_pk: Mapped[int] = mapped_column(ForeignKey("products.pk", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]


class VectorRow(Base):
    """A row of the search index."""

    __tablename__ = "vectors"
    __table_args__ = (
        Index("ix_vectors_product", "product_pk"),
        Index("ix_vectors_catalog", "catalog_pk", "fingerprint"),
    )
    pk: Mapped[int] = mapped_column(primary_key=True)
    catalog_pk: Mapped[int] = mapped_column(ForeignKey("catalogs.pk", ondelete="CASCADE"))
    product_pk: Mapped[int] = mapped_column(ForeignKey("products.pk", ondelete="CASCADE"))
    fingerprint: Mapped[str] = mapped_column(String(16))
    flags: Mapped[int]
    vector: Mapped[bytes]


class ChangeRow(Base):
    """A product that was put or removed since the state that `CatalogRow.kept` names; it may be gone."""

    __tablename__ = "changes"
    __table_args__ = ({"sqlite_with_rowid": False},)
    catalog_pk: Mapped[int] = mapped_column(ForeignKey("catalogs.pk", ondelete="CASCADE"), primary_key=True)
    product_pk: Mapped[int] = mapped_column(primary_key=True)


class FeedbackRow(Base):
    """A statement about a pair, never changed; what its products were then is copied, for it outlives them.

    `pair` names the pair whatever its direction. The first side is a product; the second has no id if it is a title.
    """

    __tablename__ = "feedback"
    __table_args__ = (
        Index("ix_feedback_page", "catalog_pk", "number", unique=True),
        Index("ix_feedback_latest", "catalog_pk", "pair", "said_by", "pk"),
        {"sqlite_autoincrement": True},
    )
    pk: Mapped[int] = mapped_column(primary_key=True)
    catalog_pk: Mapped[int] = mapped_column(ForeignKey("catalogs.pk", ondelete="CASCADE"))
    number: Mapped[int] = mapped_column(server_default="0")
    pair: Mapped[str] = mapped_column(String(64))
    first_id: Mapped[str] = mapped_column(String(200))
    first_title: Mapped[str | None]
    first_photos: Mapped[list[str]] = mapped_column(JSON)
    second_id: Mapped[str | None] = mapped_column(String(200))
    second_title: Mapped[str | None]
    second_photos: Mapped[list[str]] = mapped_column(JSON)
    same: Mapped[bool]
    said_by: Mapped[str] = mapped_column(String(200))
    at: Mapped[datetime]
    note: Mapped[str | None] = mapped_column(String(1000))
    request_id: Mapped[str | None] = mapped_column(String(64))


class KeyRow(Base):
    """An API key, never removed, so that its id keeps its meaning in logs; `digest` is all that is kept of the secret."""

    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    role: Mapped[str] = mapped_column(String(16))
    catalogs: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    digest: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class Records:
    """The database of one data folder, migrated to this version's schema."""

    def __init__(self, url: str) -> None:
        """Opens and migrates the database.

        Args:
            url: SQLAlchemy URL, `sqlite:///PATH`.

        Raises:
            SchemaMismatch: a newer version has migrated it.
            CatalogError: it is no database, or is damaged.
            StorageUnavailable: the disk is full or read-only, or another process holds it.
        """
        self.engine: Engine = engine_of(url)
        self._writing = self.engine.execution_options(writes=True)
        try:
            self._migrate()
        except DatabaseError as error:
            self.engine.dispose()
            raise fault_of(error) or CatalogError(
                f"the database {url} cannot be used ({error.orig}): restore it from a backup."
            ) from error

    def _migrate(self) -> None:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["engine"] = self.engine
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            known = ScriptDirectory.from_config(config).get_current_head()
            raise SchemaMismatch(
                f"the database was written by a newer version of samesku (this one knows schema {known}): upgrade samesku."
            ) from error

    @staticmethod
    def is_current(file: Path) -> bool:
        """True if the database in a file has this version's schema, or a newer one. Changes nothing."""
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        engine = create_engine(f"sqlite:///{file}")
        try:
            with engine.connect() as connection:
                found = MigrationContext.configure(connection).get_current_revision()
        except DatabaseError as error:
            raise CatalogError(f"the database {file} cannot be used ({error.orig}): restore it from a backup.") from error
        finally:
            engine.dispose()
        older = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        older.discard(ScriptDirectory.from_config(config).get_current_head() or "")
        return found is not None and found not in older

    @staticmethod
    def revisions() -> set[str]:
        """Returns the schemas that this version can open: its own, and those that it migrates."""
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        return {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}

    @contextmanager
    def session(self, *, write: bool = False) -> Iterator[Session]:
        """A session whose objects stay readable after the commit; rolled back unless committed.

        Args:
            write: the session changes something. It then has the database to itself from its first statement on: a session
                that reads first is refused at its first change if another process has written in between.

        Raises:
            StorageUnavailable: the disk is full or read-only, or another process has held the database for too long.
            CatalogError: the database is damaged.
        """
        try:
            with Session(self._writing if write else self.engine, expire_on_commit=False) as session:
                yield session
        except DatabaseError as error:
            fault = fault_of(error)
            if fault is None:
                raise
            raise fault from error

    def check(self) -> None:
        """Reads the whole database and looks for damage to its structure. Raises CatalogError."""
        with self.session() as session:
            said = session.scalar(text("PRAGMA quick_check(1)"))
        if said != "ok":
            raise CatalogError(f"the database is damaged ({said}): restore a backup.")

    def close(self) -> None:
        """Closes all connections."""
        self.engine.dispose()
