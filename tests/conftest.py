"""Fixtures: the matcher on real FAISS and SQLite with the computable model, and the app around it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from app.api.app import create_app
from app.catalog.data_folder import DataFolder
from app.catalog.faiss_lists import Lists
from app.catalog.local import LocalCatalog
from app.core.decision import Thresholds
from app.judge import Judge
from app.matcher import Matcher
from app.pair_model import PairModel
from app.settings import Settings
from tests.fakes import FINGERPRINT, FUSION, FakeEncoder
from tests.judged import fit_small_pair_model

ROOT = Path(__file__).parent.parent
THRESHOLDS = Thresholds({"fused": [(1, 0.9)], "image": [(1, 0.95)], "title": [(1, 0.8)]})

# converting costs seconds for every small bundle of the tests; those that are about engines name theirs
os.environ.setdefault("SAMESKU_ENGINE", "torch")

# time is not asserted anywhere: this machine may be busy
hypothesis_settings.register_profile(
    "shared", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
hypothesis_settings.load_profile("shared")


@pytest.fixture
def open_matcher(tmp_path: Path) -> Iterator[Callable[..., Matcher]]:
    """Opens the matcher on a data folder (the same one every time unless told otherwise); closes what is left open."""
    opened: list[Matcher] = []

    def open_one(folder: Path | None = None, fingerprint: str = FINGERPRINT, pairs: PairModel | None = None) -> Matcher:
        catalog = LocalCatalog(DataFolder(folder or tmp_path / "data"), FUSION, fingerprint)
        opened.append(Matcher(FakeEncoder(), catalog, Judge(FUSION, THRESHOLDS, pairs), f"fake@{fingerprint}"))
        return opened[-1]

    yield open_one
    for matcher in opened:
        matcher.close()


@pytest.fixture
def matcher(open_matcher: Callable[..., Matcher]) -> Matcher:
    """The matcher on an empty data folder."""
    return open_matcher()


@pytest.fixture
def client(matcher: Matcher, tmp_path: Path) -> Iterator[TestClient]:
    """The app, in process, with the computable model."""
    settings = Settings(data_dir=tmp_path / "data", max_batch_size=8, max_queue=64, max_batch_items=1000)
    with TestClient(create_app(matcher, settings), raise_server_exceptions=False) as one:
        yield one


@pytest.fixture
def lists_made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of how many rows lists of an approximate search are made, each time."""
    made: list[int] = []
    one = Lists.make

    def counted(count: int, *rest: object) -> Lists:
        made.append(count)
        return one(count, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Lists, "make", counted)
    return made


@pytest.fixture(scope="session")
def pair_model() -> PairModel:
    """A pair model for the computable towers; fitted once."""
    return fit_small_pair_model(THRESHOLDS)


@pytest.fixture
def judging(open_matcher: Callable[..., Matcher], pair_model: PairModel, tmp_path: Path) -> Matcher:
    """A matcher with a pair model, on an empty data folder of its own."""
    return open_matcher(tmp_path / "judged", pairs=pair_model)


@pytest.fixture
def judged(judging: Matcher, tmp_path: Path) -> Iterator[TestClient]:
    """The app, in process, with that matcher."""
    with TestClient(create_app(judging, Settings(data_dir=tmp_path / "judged")), raise_server_exceptions=False) as one:
        yield one
