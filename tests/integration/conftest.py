"""Runs that several tests look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.model_store import Bundle
from tests.integration.labelled import Titles
from tests.training import FOLDS, LEARNS, SIZES, UPDATES, Place, course


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("training"))


@pytest.fixture(scope="module")
def trained(place: Place) -> Bundle:
    """A bundle that has learned something; its fold 0/4 was kept apart."""
    return place.train(place.folder / "trained", "--listings", place.large, *place.towers, *SIZES, *FOLDS, *LEARNS)


@pytest.fixture(scope="module")
def whole(place: Place) -> Path:
    """A short run that nothing interrupted."""
    place.short(place.folder / "whole")
    assert [one["update"] for one in course(place.folder / "whole")] == list(range(1, UPDATES + 1))
    return place.folder / "whole"


@pytest.fixture(scope="session")
def titles(tmp_path_factory: pytest.TempPathFactory) -> Titles:
    """Title bundles with and without a pair model, and the listings; tests copy what they change."""
    return Titles(tmp_path_factory.mktemp("titles"))
