"""`python -m app backup` and `python -m app restore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from app.commands.common import console, progress, size
from app.settings import Settings


def backup(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Made if it is not there; a backup in it is replaced.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Only read the backup in DIR, and say whether it is whole.")
    ] = False,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Go on without photos that are lost, and say how many.")
    ] = False,
) -> None:
    """Copy database and photos of SAMESKU_DATA_DIR into DIR, also while the service runs.

    The backup before is replaced once the new one is whole; photos that are in it already are not copied again.
    """
    from app.catalog.backup import backup as make
    from app.catalog.backup_files import verify as check

    if verify:
        if allow_missing:
            raise typer.BadParameter("--allow-missing is for making a backup, not for --verify.")
        manifest, how = check(folder, progress), "is whole"
    else:
        made = make(Settings().data_dir, folder, progress, allow_missing=allow_missing)
        manifest, how = (
            made.manifest,
            f"is made: {made.copied:,} photos copied, {made.reused:,} taken over from the one before",
        )
    photos = f"{len(manifest.photos):,} photos ({size(sum(manifest.photos.values()))})"
    console.print(f"The backup in {escape(str(folder))} {how}.", soft_wrap=True)
    console.print(
        f"{manifest.products:,} products in {len(manifest.catalogs)} catalogs, database {size(manifest.database_bytes)}, "
        f"{photos}, of {manifest.created_at:%Y-%m-%d %H:%M:%S} UTC, samesku {manifest.samesku}.",
        soft_wrap=True,
    )
    if manifest.missing:
        console.print(f"[yellow]{len(manifest.missing)} photos were lost before, and are not in it.[/]")


def restore(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A backup from `python -m app backup`.")],
    force: Annotated[
        bool, typer.Option("--force", help="Also if the data folder holds products; they are kept in a folder beside.")
    ] = False,
) -> None:
    """Put the backup in DIR into SAMESKU_DATA_DIR. The service must be stopped.

    Every checksum is verified before anything is touched.
    """
    from app.catalog.restore import restore as put_back

    data = Settings().data_dir
    restored = put_back(folder, data, progress, force=force)
    manifest = restored.manifest
    console.print(
        f"{manifest.products:,} products in {len(manifest.catalogs)} catalogs and {len(manifest.photos):,} photos are in "
        f"{escape(str(data))} again, as of {manifest.created_at:%Y-%m-%d %H:%M:%S} UTC.",
        soft_wrap=True,
    )
    if restored.kept is not None:
        console.print(
            f"What was there is kept in {escape(str(restored.kept))}: remove it when it is not wanted.", soft_wrap=True
        )
