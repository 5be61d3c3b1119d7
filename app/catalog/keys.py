"""API keys in the database of a data folder. They can be made and revoked while a service uses the folder."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import select, update

from app.catalog.data_folder import DATABASE, LOCK, cannot_be_written, refuse_unusable
from app.catalog.records import KeyRow, Records
from app.core.access import ApiKey, Role, check_key, digest_of, new_key
from app.errors import DataFolderInUse, KeyNotFound
from app.files import locked


class LocalKeys:
    """See `app.core.access.KeyStore`."""

    def __init__(self, records: Records) -> None:
        """Takes the database as it is; it is closed by `close`."""
        self._records = records

    def create(self, name: str, role: Role, catalogs: Sequence[str] | None) -> tuple[str, ApiKey]:
        """Makes a key. Returns its text, which is nowhere to be had again, and what is stored. Raises InvalidInput."""
        check_key(name, role, catalogs)
        text, key_id = new_key()
        row = KeyRow(
            id=key_id, name=name, role=role.value, catalogs=None if catalogs is None else sorted(set(catalogs)),
            digest=digest_of(text), created_at=_now(),
        )  # fmt: skip
        with self._records.session(write=True) as session:
            session.add(row)
            session.commit()
        return text, _key(row)

    def revoke(self, key_id: str) -> ApiKey:
        """Revokes a key for good; one that is revoked already stays as it is. Raises KeyNotFound."""
        with self._records.session(write=True) as session:
            row = session.get(KeyRow, key_id)
            if row is None:
                raise KeyNotFound(f"there is no key '{key_id}': 'python -m app keys list' shows their ids.")
            row.revoked_at = row.revoked_at or _now()
            session.commit()
        return _key(row)

    def stored(self) -> list[ApiKey]:
        """See `KeyStore.stored`."""
        with self._records.session() as session:
            return [_key(row) for row in session.scalars(select(KeyRow).order_by(KeyRow.created_at, KeyRow.id))]

    def used(self, when: dict[str, datetime]) -> None:
        """See `KeyStore.used`."""
        with self._records.session(write=True) as session:
            for key_id, at in when.items():
                session.execute(update(KeyRow).where(KeyRow.id == key_id).values(last_used_at=at.replace(tzinfo=None)))
            session.commit()

    def close(self) -> None:
        """Closes the database."""
        self._records.close()


def open_keys(folder: Path) -> LocalKeys:
    """Opens the keys of a data folder, which another process may be using.

    Raises:
        DataFolderInUse: an older version of the service is using it, whose database must not be migrated under it.
        CatalogError, StorageUnavailable: it cannot be read or written.
    """
    refuse_unusable(folder)
    file = folder / DATABASE
    if not file.exists() or not Records.is_current(file):
        _migrate(folder)
    return LocalKeys(Records(f"sqlite:///{file}"))


def _migrate(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / LOCK) as ours:
            if not ours:
                raise DataFolderInUse(f"an older version of the service is using {folder}: restart it with this one first.")
            Records(f"sqlite:///{folder / DATABASE}").close()
    except OSError as error:
        raise cannot_be_written(folder, error) from error


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def _key(row: KeyRow) -> ApiKey:
    def utc(at: datetime | None) -> datetime | None:
        return None if at is None else at.replace(tzinfo=UTC)  # SQLite drops the zone

    return ApiKey(
        row.id, row.name, Role(row.role), None if row.catalogs is None else tuple(row.catalogs), row.digest,
        row.created_at.replace(tzinfo=UTC), utc(row.last_used_at), utc(row.revoked_at),
    )  # fmt: skip
