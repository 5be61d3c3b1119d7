"""`python -m app keys create | list | revoke`. Works while the service runs, which follows within seconds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from app.commands.common import console, results
from app.core.access import Role
from app.settings import Settings

if TYPE_CHECKING:
    from app.catalog.keys import LocalKeys

app = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)


@contextmanager
def _opened() -> Iterator[LocalKeys]:
    from app.catalog.keys import open_keys

    keys = open_keys(Settings().data_dir)
    try:
        yield keys
    finally:
        keys.close()


@app.command()
def create(
    role: Annotated[Role, typer.Option(help="read: ask. write: also change. admin: everything. metrics: /metrics alone.")],
    catalog: Annotated[list[str] | None, typer.Option(help="A catalog that the key is for; may be repeated.")] = None,
    all_catalogs: Annotated[bool, typer.Option("--all-catalogs", help="The key is for every catalog.")] = False,
    name: Annotated[str, typer.Option(help="What people call the key.")] = "unnamed",
) -> None:
    """Make a key. It is printed once, to standard output, and only its hash is kept."""
    everything = all_catalogs or role in (Role.ADMIN, Role.METRICS)
    if everything and catalog:
        raise typer.BadParameter("give either --catalog or --all-catalogs; admin and metrics keys are for all catalogs.")
    if not everything and not catalog:
        raise typer.BadParameter("say which catalogs the key is for: --catalog NAME (may be repeated), or --all-catalogs.")
    with _opened() as keys:
        first = not keys.stored()
        text, key = keys.create(name, role, None if everything else catalog)
    results.print(text, markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"Key {key.id} ({role}, {escape(_catalogs(key.catalogs))}). It is shown this once: keep it in a safe place."
    )
    if first:
        console.print(
            "It is the first key: from now on every call needs one. Start the service again to have it open its host."
        )


@app.command(name="list")
def list_keys() -> None:
    """List all keys, revoked ones too. Secrets are not shown: they are not kept."""
    with _opened() as keys:
        found = keys.stored()
    table = Table()
    for column in ("id", "name", "role", "catalogs", "created", "last used", "revoked"):
        table.add_column(column, overflow="fold", no_wrap=column == "id")  # ids are copied
    for key in found:
        times = (_shown(at) for at in (key.created_at, key.last_used_at, key.revoked_at))
        table.add_row(key.id, escape(key.name), key.role.value, escape(_catalogs(key.catalogs)), *times)
    results.print(table)


@app.command()
def revoke(key_id: Annotated[str, typer.Argument(metavar="ID", help="As `keys list` shows it.")]) -> None:
    """Revoke a key for good. A running service refuses it within seconds."""
    with _opened() as keys:
        key = keys.revoke(key_id)
    console.print(f"Key {key.id} ({escape(key.name)}) is revoked.")


def _catalogs(names: tuple[str, ...] | None) -> str:
    return "all catalogs" if names is None else ", ".join(names)


def _shown(at: datetime | None) -> str:
    return "" if at is None else f"{at:%Y-%m-%d %H:%M} UTC"
