"""20,000 damaged photos and requests: no server error, no hang, no growth, and good requests all the while."""

from __future__ import annotations

import gc
import logging
import os
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.encoders.preprocess import InputLimits
from tests.api.conftest import make_app
from tests.fakes import FakeEncoder
from tests.mutants import Mill

pytestmark = pytest.mark.soak
MUTANTS = 20_000
WARM = 5000  # the allocator has set its arenas up by then
GROWTH_BYTES = 50_000_000


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_twenty_thousand_mutants(tmp_path: Path) -> None:
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # as `serve` does
    app = make_app(tmp_path, FakeEncoder(InputLimits(image_pixels=4_000_000)), max_image_pixels=4_000_000)
    warm = 0
    with TestClient(app, raise_server_exceptions=False) as client:
        for sent in Mill(client).run(MUTANTS, seed=2):
            if sent == WARM:
                gc.collect()
                warm = resident_bytes()
        gc.collect()
        growth = resident_bytes() - warm
    print(f"{MUTANTS} mutants, {growth / 1e6:.1f} MB more than after {WARM}")
    assert growth < GROWTH_BYTES
