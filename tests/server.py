"""A real service in a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).parent.parent
PATIENCE_S = 240


@contextmanager
def running_service(data_in: Path, bundle: Path) -> Iterator[str]:
    """Serves a bundle on a free port, with its data in `data_in`/data; yields the URL once it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"SAMESKU_BUNDLE": str(bundle), "SAMESKU_DATA_DIR": str(data_in / "data")}
    log = data_in / "service.log"
    with log.open("wb") as stream:
        command = [sys.executable, "-m", "app", "serve", "--port", str(port)]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=stream, stderr=stream)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not _answers(url):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        assert process.wait(timeout=PATIENCE_S) == -signal.SIGTERM, log.read_text()  # stopped in order, then by the signal


def _answers(url: str) -> bool:
    try:
        answer = httpx.get(f"{url}/readyz", timeout=60)
    except httpx.TransportError:
        return False
    assert answer.status_code == 200, answer.text
    return True
