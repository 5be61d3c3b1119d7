"""20,000 damaged photos, requests and answers of other machines: no server error, no hang, no growth."""

from __future__ import annotations

import gc
import logging
import os
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from tests.api.conftest import make_app
from tests.mutants import Mill, mill_settings
from tests.photo_server import PhotoServer, photo_server

pytestmark = pytest.mark.soak
MUTANTS = 20_000
WARM = 5000  # the allocator has set its arenas up by then
GROWTH_BYTES = 50_000_000


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def app(folder: Path, server: PhotoServer) -> FastAPI:
    return make_app(folder, **mill_settings(server))


def test_twenty_thousand_mutants(tmp_path: Path) -> None:
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # as `serve` does
    warm = 0
    with photo_server({}) as server, TestClient(app(tmp_path, server), raise_server_exceptions=False) as client:
        for sent in Mill(client, server).run(MUTANTS, seed=2):
            if sent == WARM:
                gc.collect()
                warm = resident_bytes()
        gc.collect()
        growth = resident_bytes() - warm
    print(f"{MUTANTS} mutants, {growth / 1e6:.1f} MB more than after {WARM}")
    assert growth < GROWTH_BYTES
