"""A service with API keys, and callers who have them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.api.app import create_app
from app.api.fetching import Resolve
from app.catalog.data_folder import DataFolder
from app.catalog.keys import LocalKeys, open_keys
from app.catalog.local import LocalCatalog
from app.core.access import Role
from app.judge import Judge
from app.matcher import Matcher
from app.settings import Settings
from tests.api.calls import Response
from tests.conftest import THRESHOLDS
from tests.fakes import FINGERPRINT, FUSION, FakeEncoder


class Caller:
    """Sends a key with every request."""

    def __init__(self, app: TestClient, key: str) -> None:
        self._app, self._headers = app, {"Authorization": f"Bearer {key}"}
        self.key_id = key.split("_")[1]

    def request(self, method: str, url: str, **more: Any) -> Response:
        answer: Response = self._app.request(method, url, headers=self._headers | more.pop("headers", {}), **more)
        return answer

    def get(self, url: str, **more: Any) -> Response:
        return self.request("GET", url, **more)

    def post(self, url: str, **more: Any) -> Response:
        return self.request("POST", url, **more)

    def delete(self, url: str, **more: Any) -> Response:
        return self.request("DELETE", url, **more)


class Guarded:
    """A running app and its keys."""

    def __init__(self, app: TestClient, keys: LocalKeys) -> None:
        self.app, self.keys = app, keys

    def key(self, role: str = "write", *catalogs: str) -> str:
        """The text of a new key; for all catalogs if none is named."""
        return self.keys.create("k", Role(role), catalogs or None)[0]

    def new(self, role: str = "write", *catalogs: str) -> Caller:
        """Somebody with a new key."""
        return Caller(self.app, self.key(role, *catalogs))


@contextmanager
def guarded(
    folder: Path, encoder: FakeEncoder | None = None, resolve: Resolve | None = None, **settings: Any
) -> Iterator[tuple[FastAPI, LocalKeys]]:
    """Makes an app whose keys are read anew with every request, unless the settings say otherwise."""
    catalog = LocalCatalog(DataFolder(folder), FUSION, FINGERPRINT)
    matcher = Matcher(encoder or FakeEncoder(), catalog, Judge(FUSION, THRESHOLDS, None), f"fake@{FINGERPRINT}")
    with closing(open_keys(folder)) as keys:
        made = Settings(data_dir=folder, **{"keys_cache_s": 0} | settings)
        yield create_app(matcher, made, None, keys, resolve), keys


@contextmanager
def guarded_app(folder: Path, encoder: FakeEncoder | None = None, **settings: Any) -> Iterator[Guarded]:
    """Starts such an app in process."""
    with (
        guarded(folder, encoder, **settings) as (app, keys),
        TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client,
    ):
        yield Guarded(client, keys)
