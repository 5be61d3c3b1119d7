"""SIGTERM to a real service: what is inside finishes, what is new is told, a batch says where to go on, nothing is lost."""

from __future__ import annotations

import json
import logging
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.catalog.data_folder import DataFolder
from app.catalog.local import LocalCatalog
from app.model_store import load_bundle
from tests import tiny
from tests.benchmarks import processes
from tests.benchmarks.processes import Service
from tests.server import PATIENCE_S

ITEMS = 5000


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.bundle(tmp_path_factory.mktemp("bundle"))


@contextmanager
def serving(folder: Path, bundle: Path, **settings: str) -> Iterator[Service]:
    environment = {"SAMESKU_BUNDLE": str(bundle), "SAMESKU_DATA_DIR": str(folder / "data"), "SAMESKU_ENGINE": "torch"}
    environment |= {f"SAMESKU_{name.upper()}": value for name, value in settings.items()}
    with processes.running("samesku", ["app", "serve"], environment, folder) as service:
        yield service


@contextmanager
def half_sent(service: Service) -> Iterator[socket.socket]:
    """A request whose body ends with the next byte: as long as it is not sent, somebody is inside."""
    url = httpx.URL(service.url)
    with socket.create_connection((url.host, url.port or 80), timeout=PATIENCE_S) as connection:
        head = "Host: 127.0.0.1\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 9"
        connection.sendall(f"POST /match HTTP/1.1\r\n{head}\r\n\r\ntitle=ab".encode())
        yield connection


def inside(service: Service) -> None:
    """Returns when the service has read the head of what was sent before; it takes connections in their order."""
    assert httpx.get(f"{service.url}/healthz", timeout=PATIENCE_S).status_code == 200


def answer_on(connection: socket.socket) -> bytes:
    """Everything that is said until the connection is closed."""
    said = b""
    while part := connection.recv(65536):
        said += part
    return said


def terminated(service: Service) -> str:
    """Waits for the end; returns the log."""
    assert service.process.wait(PATIENCE_S) == -signal.SIGTERM, service.last_lines()
    return service.log.read_text()


def refused(url: str) -> httpx.Response:
    """Asks until the service says no: the signal takes a moment to arrive."""
    while (answer := httpx.get(url, timeout=PATIENCE_S)).status_code == 200:
        pass
    return answer


def batch_lines(url: str, lines: list[dict[str, Any]], begun: threading.Event) -> None:
    """Indexes many products, and keeps the lines of the answer as they come."""
    items = [{"id": f"p{n}", "title": f"title {n}"} for n in range(ITEMS)]
    with httpx.stream("POST", f"{url}/catalog/batch", json={"items": items}, timeout=PATIENCE_S) as answer:
        for line in answer.iter_lines():
            lines.append(json.loads(line))
            begun.set()


def test_what_is_inside_finishes_and_what_is_new_is_told(
    tmp_path: Path, bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines: list[dict[str, Any]] = []
    begun = threading.Event()
    with serving(tmp_path, bundle) as service:
        batch = threading.Thread(target=batch_lines, args=(service.url, lines, begun))
        batch.start()
        assert begun.wait(PATIENCE_S)
        with half_sent(service) as connection:
            inside(service)
            service.process.send_signal(signal.SIGTERM)
            for path in ("/readyz", "/catalog"):
                answer = refused(service.url + path)
                assert (answer.status_code, answer.json()["code"]) == (503, "shutting_down")
            assert answer.headers["connection"] == "close"
            assert httpx.get(f"{service.url}/healthz", timeout=PATIENCE_S).status_code == 200
            batch.join(PATIENCE_S)
            assert service.process.poll() is None
            connection.sendall(b"c")
            said = answer_on(connection)
        assert said.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in said.lower()
        assert '"error"' not in terminated(service)
    *done, last = lines
    assert (last["error"]["code"], last["error"]["status"]) == ("shutting_down", 503)
    assert 0 < last["next_index"] == len(done) < ITEMS
    assert [(one["index"], one["status"]) for one in done] == [(n, "created") for n in range(len(done))]
    made = load_bundle(bundle)
    with (
        caplog.at_level(logging.INFO, "app.catalog"),
        closing(LocalCatalog(DataFolder(tmp_path / "data"), made.manifest.encoder_fusion(), made.fingerprint)) as left,
    ):
        assert left.size("default") == len(done)  # what was acknowledged is there, and nothing else
    opened = [vars(record) for record in caplog.records if record.getMessage() == "catalog open"]
    assert [(one["catalog"], one["source"]) for one in opened] == [("default", "snapshot")]


def test_the_end_comes_in_time_whatever_is_inside(tmp_path: Path, bundle: Path) -> None:
    with serving(tmp_path, bundle, shutdown_s="0.5") as service, half_sent(service) as connection:
        inside(service)
        service.process.send_signal(signal.SIGTERM)
        said = answer_on(connection)
        assert said.startswith(b"HTTP/1.1 503")
        assert b"shutting_down" in said
        terminated(service)
