"""`python -m app serve`."""

from __future__ import annotations

import gc
import logging
from typing import Annotated, Any

import typer

from app.commands.cores import share_cores
from app.settings import Settings


def serve(
    host: Annotated[str | None, typer.Option(help="Default: SAMESKU_HOST or 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Default: SAMESKU_PORT or 8000; 0 takes a free one.")] = None,
) -> None:
    """Serve the API. Settings come from SAMESKU_* variables; see docs/settings.md."""
    share_cores()
    from app import __version__
    from app.api.app import create_app
    from app.api.server import make_server
    from app.bootstrap import build_keys, build_matcher
    from app.model_store import read_manifest
    from app.telemetry import configure_logging
    from app.tracing import from_environment

    given: dict[str, Any] = {"host": host, "port": port}
    settings = Settings(**{name: value for name, value in given.items() if value is not None})
    configure_logging(settings.log_level, settings.log_format)
    manifest = read_manifest(settings.bundle)
    details = manifest.model_dump(mode="json", exclude={"files", "thresholds"})
    matcher = build_matcher(settings)
    gc.freeze()  # what is loaded stays: a full collection that looks through it would stop every request for long
    keys = build_keys(settings)
    settings = kept_to_itself(settings, bool(keys.stored()))
    log = logging.getLogger(__name__)
    log.info("model loaded", extra={"model": matcher.model, "bundle": str(settings.bundle)})
    app = create_app(matcher, settings, details, keys, tracing=from_environment(__version__))
    try:
        make_server(app, settings).run()
    finally:
        keys.close()


def kept_to_itself(settings: Settings, has_keys: bool) -> Settings:
    """Returns the settings to serve with: without any API key, only this machine is listened to, unless told otherwise."""
    from app.api.security import is_loopback

    log = logging.getLogger(__name__)
    if has_keys:
        return settings
    create = "python -m app keys create --role admin"
    if settings.allow_anonymous:
        log.warning(
            f"there is no API key, and SAMESKU_ALLOW_ANONYMOUS is set: whoever reaches {settings.host} may do anything"
        )
        return settings
    if is_loopback(settings.host):
        log.warning(f"there is no API key: everybody on this machine may do anything ('{create}' makes the first one)")
        return settings
    log.warning(
        f"there is no API key: listening on 127.0.0.1 instead of {settings.host}. Make one with '{create}' and start again, "
        "or set SAMESKU_ALLOW_ANONYMOUS=true to serve whoever reaches this address"
    )
    return settings.model_copy(update={"host": "127.0.0.1"})
