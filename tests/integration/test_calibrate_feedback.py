"""`python -m app calibrate --feedback`: what people said teaches the pair model, once somebody has accepted it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from app.catalog.data_folder import DataFolder
from app.catalog.feedback import LocalFeedback
from app.core.statements import Side, StatementDraft
from app.model_store import load_bundle
from tests.integration.labelled import Titles, rows_of
from tests.training import run


@pytest.fixture
def bundle(titles: Titles, tmp_path: Path) -> Path:
    shutil.copytree(titles.pairs, tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture
def data(titles: Titles, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder whose products people have compared: 60 pairs that are the same, 60 that are not."""
    folder = tmp_path / "data"
    monkeypatch.setenv("SAMESKU_DATA_DIR", str(folder))
    monkeypatch.setenv("SAMESKU_BUNDLE", str(bundle))
    run("index", titles.table)
    rows = rows_of(titles.table)
    ids, groups = [row["id"] for row in rows], [row["group"] for row in rows]
    n = len(rows)
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    same = [pair for pair in pairs if groups[pair[0]] == groups[pair[1]]][:60]
    different = [pair for pair in pairs if groups[pair[0]] != groups[pair[1]]][::37][:60]
    opened = DataFolder(folder)
    try:
        feedback = LocalFeedback(opened.records)
        for verdict, chosen in ((True, same), (False, different)):
            for i, j in chosen:
                feedback.add("default", StatementDraft(Side(ids[i]), Side(ids[j]), verdict, "anna"))
        i, j = same[0]
        feedback.add("default", StatementDraft(Side(ids[i]), Side(ids[j]), False, "bert"))
    finally:
        opened.close()
    return folder


def test_nothing_is_written_before_somebody_accepts(bundle: Path, data: Path) -> None:
    before = (bundle / "bundle.json").read_bytes()
    said = run("calibrate", "--bundle", bundle, "--feedback", data)
    assert "before" in said
    assert "after" in said
    assert "--accept" in said
    assert "contradiction" in said
    assert "119 pairs that people agree on" in said
    assert (bundle / "bundle.json").read_bytes() == before


def test_accepted_feedback_changes_the_pair_model_and_nothing_else(bundle: Path, data: Path) -> None:
    before = load_bundle(bundle)
    run("calibrate", "--bundle", bundle, "--feedback", data, "--accept")
    after = load_bundle(bundle)
    assert after.manifest.pairs != before.manifest.pairs
    assert after.manifest.thresholds == before.manifest.thresholds
    assert after.fingerprint == before.fingerprint
