"""How many connections a process can afford, by what the system lets it open."""

from __future__ import annotations

import logging
import resource

import pytest

from app.api.server import OTHER_FILES, affordable


@pytest.mark.parametrize(
    ("soft", "hard", "expected", "asked"),
    [
        (4096, 4096, 1000, None),
        (1024, 4096, 1000, 1000 + OTHER_FILES),
        (1024, 1100, 1100 - OTHER_FILES, 1100),
        (1024, resource.RLIM_INFINITY, 1000, 1000 + OTHER_FILES),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 1000, None),
        (64, 64, 1, 64),
    ],
)
def test_connections_are_as_many_as_files_may_be_open(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    soft: int,
    hard: int,
    expected: int,
    asked: int | None,
) -> None:
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limit: limits.append(limit))
    with caplog.at_level(logging.WARNING, "app"):
        assert affordable(1000) == expected
    assert limits == ([] if asked is None else [(asked, hard)])
    assert bool(caplog.records) == (expected < 1000)
