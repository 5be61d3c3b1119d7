"""The command line: `python -m app COMMAND`. Parses and dispatches only."""

from __future__ import annotations

import sys
from typing import NoReturn

import typer
from pydantic import ValidationError
from pydantic_settings import SettingsError
from rich.markup import escape

from app import __version__
from app.commands import backup, bundle, calibrate, compare, evaluate, group, index, keys, match, serve, train
from app.commands.common import console
from app.errors import AppError
from app.settings import Settings

cli = typer.Typer(
    help="samesku: is this the same product?", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
cli.command()(serve.serve)
cli.command()(train.train)
cli.command()(index.index)
cli.command()(match.match)
cli.command()(calibrate.calibrate)
cli.command()(evaluate.evaluate)
cli.command()(compare.compare)
cli.command()(group.group)
cli.command()(backup.backup)
cli.command()(backup.restore)
cli.add_typer(bundle.app, name="bundle")
cli.add_typer(keys.app, name="keys")


@cli.command()
def version() -> None:
    """Print the version."""
    print(__version__)


def main() -> None:
    """Runs a command; an error on purpose becomes one line and exit code 2."""
    try:
        cli()
    except AppError as error:
        _stop(error.code, str(error))
    except SettingsError as error:  # text that is no JSON where a list is wanted
        _stop("invalid_setting", f'{error}: write lists as JSON, such as ["https://shop.example"].')
    except ValidationError as error:
        if error.title != Settings.__name__:
            raise
        first = error.errors()[0]
        _stop("invalid_setting", f"SAMESKU_{'.'.join(map(str, first['loc'])).upper()}: {first['msg']}")


def _stop(code: str, message: str) -> NoReturn:
    console.print(f"[bold red]{code}[/]: {escape(message)}", soft_wrap=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
