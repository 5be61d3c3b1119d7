"""`python -m app group --catalog`: what is stored is grouped as it is; nothing is embedded again."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.__main__ import cli
from app.errors import CatalogNotFound, InvalidInput
from tests.integration.labelled import Titles, rows_of
from tests.training import run


@pytest.fixture
def stored(titles: Titles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAMESKU_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("SAMESKU_BUNDLE", str(titles.pairs))
    run("index", titles.table, "--catalog", "toys")
    return tmp_path


def test_a_catalog_has_the_groups_of_the_table_it_was_made_of(titles: Titles, stored: Path) -> None:
    run("group", "--catalog", "toys", "--out", stored / "catalog.csv", "--format", "groups")
    run("group", "--listings", titles.table, "--out", stored / "table.csv", "--format", "groups")
    catalog, table = rows_of(stored / "catalog.csv"), rows_of(stored / "table.csv")
    told = [[(row["id"], row["group"], row["size"]) for row in rows] for rows in (catalog, table)]
    assert told[0] == told[1]
    joined = [row for row in catalog if row["size"] != "1"]
    assert joined
    assert all(row["nearest"] and 0 < float(row["probability"]) <= 1 for row in joined)
    assert any("titles" in row["reasons"] for row in joined)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        (("--catalog", "nobody"), CatalogNotFound, "no catalog 'nobody'"),
        ((), InvalidInput, "either --listings or --catalog"),
    ],
)
def test_what_cannot_be_grouped_is_named(stored: Path, options: tuple[str, ...], error: type[Exception], said: str) -> None:
    outcome = CliRunner().invoke(cli, ["group", *options, "--out", str(stored / "out.csv")])
    assert isinstance(outcome.exception, error)
    assert said in str(outcome.exception)
    assert not (stored / "out.csv").exists()


def test_the_rest_of_a_table_may_fill_up_the_gallery(titles: Titles, stored: Path) -> None:
    options = ("--listings", titles.table, "--fold", "0/3")
    run("group", *options, "--out", stored / "alone.csv")
    run("group", *options, "--rest-as-gallery", "--out", stored / "among.csv")
    alone, among = rows_of(stored / "alone.csv"), rows_of(stored / "among.csv")
    assert [row["posting_id"] for row in alone] == [row["posting_id"] for row in among]
    assert len(alone) < len(rows_of(titles.table))
