"""A log line for every change, and for every change that was refused: who, where, what, and how it ended."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from app.api.errors import code_of
from app.core.access import Caller
from app.core.product import MAX_ID_CHARS

log = logging.getLogger("app.audit")  # always at the level `info`, see `app.telemetry`


def audit(caller: Caller, action: str, catalog: str, product_id: str | None, outcome: str) -> None:
    """Writes one line.

    Args:
        caller: who asked for the change.
        action: `index`, `delete` or `feedback`.
        catalog: its name.
        product_id: of the product; None if the change is about no single one.
        outcome: `created`, `replaced`, `deleted`, `stored`, or the code of the error.
    """
    product = product_id and product_id[:MAX_ID_CHARS]
    fields = {"action": action, "key": caller.key, "catalog": catalog, "product": product, "outcome": outcome}
    log.info("audit", extra=fields)


@contextmanager
def audited_failure(caller: Caller, action: str, catalog: str, product_id: str | None) -> Iterator[None]:
    """Writes a line if what is done inside fails."""
    try:
        yield
    except Exception as error:
        audit(caller, action, catalog, product_id, code_of(error))
        raise
