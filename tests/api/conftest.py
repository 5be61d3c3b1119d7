"""More ways to run the app: with other limits or another model, in process or on a real port."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.api.app import create_app
from app.api.door import Door
from app.api.fetching import Resolve
from app.api.server import Server, make_server
from app.bootstrap import product_limits
from app.catalog.base import Catalog
from app.catalog.data_folder import DataFolder
from app.catalog.local import LocalCatalog
from app.core.product import Floats
from app.judge import Judge
from app.matcher import Matcher
from app.settings import Settings
from tests.conftest import THRESHOLDS
from tests.fakes import FINGERPRINT, FUSION, FakeEncoder

GATED = "gated"
PATIENCE_S = 120  # a test that waits longer than this hangs; nothing is measured

Start = Callable[..., TestClient]
Serve = Callable[..., "Served"]


class GatedEncoder(FakeEncoder):
    """A batch with the title `gated` waits until the test opens the gate."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.gate = threading.Event(), threading.Event()

    def embed_titles(self, titles: Sequence[str]) -> Floats:
        if GATED in titles:
            self.reached.set()
            assert self.gate.wait(PATIENCE_S)
        return super().embed_titles(titles)


class BrokenEncoder(FakeEncoder):
    """Raises `failure` as long as there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.failure: Exception | None = None

    def embed_titles(self, titles: Sequence[str]) -> Floats:
        if self.failure is not None:
            raise self.failure
        return super().embed_titles(titles)


def make_app(folder: Path, encoder: FakeEncoder | None, resolve: Resolve | None = None, **settings: Any) -> FastAPI:
    catalog, made = LocalCatalog(DataFolder(folder), FUSION, FINGERPRINT), Settings(data_dir=folder, **settings)
    judge, limits = Judge(FUSION, THRESHOLDS, None), product_limits(made)
    matcher = Matcher(encoder or FakeEncoder(), catalog, judge, f"fake@{FINGERPRINT}", limits)
    return create_app(matcher, made, resolve=resolve)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts an app in process, on a data folder of its own."""
    with ExitStack() as stack:

        def start_one(encoder: FakeEncoder | None = None, **settings: Any) -> TestClient:
            app = make_app(tmp_path / "started", encoder, **settings)
            return stack.enter_context(TestClient(app, raise_server_exceptions=False))

        yield start_one


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts an app on a free port of this machine, with real HTTP."""
    with ExitStack() as stack:

        def serve_one(encoder: FakeEncoder | None = None, **settings: Any) -> Served:
            app = make_app(tmp_path / "served", encoder, **settings)
            return stack.enter_context(running(app))

        yield serve_one


class Served(httpx.Client):
    """A client, and the service that it asks."""

    app: FastAPI
    server: Server

    @property
    def door(self) -> Door:
        """Who is inside."""
        door: Door = self.app.state.door
        return door

    @property
    def catalog(self) -> Catalog:
        """Of the service."""
        catalog: Catalog = self.app.state.service.matcher.catalog
        return catalog


@contextmanager
def running(app: FastAPI) -> Iterator[Served]:
    listening = socket.create_server(("127.0.0.1", 0))  # callers queue up here until the server takes them
    server = make_server(app, app.state.settings)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    limits = httpx.Limits(max_connections=64)
    try:
        with Served(base_url=address, timeout=PATIENCE_S, limits=limits, trust_env=False) as client:
            client.app, client.server = app, server
            yield client
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
        listening.close()
