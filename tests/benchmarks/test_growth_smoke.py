"""The growth and fairness benchmarks on a few products: figures of no value, tables that hold together."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks import fairness, growth
from tests.fakes import FINGERPRINT, FUSION


def test_a_catalog_is_filled_opened_and_searched(tmp_path: Path) -> None:
    model = growth.Model(tmp_path, FUSION, FINGERPRINT)
    rate = growth.fill(model, tmp_path / "data", 0, 700)
    assert rate is not None
    growth.fill(model, tmp_path / "data", 700, 1200)
    found, turns = growth.opened(model, tmp_path / "data", 1200), growth.opening(model, tmp_path / "data")
    assert found.search_ms > 0
    assert turns.files_s > 0
    catalog = model.open(tmp_path / "data")
    assert catalog.size("default") == 1200
    catalog.close()
    rows = [
        growth.Row(1200, 1.0, 1, rate, turns, found, 1.5, found, 1.0),
        growth.Row(2400, 1.0, 1, None, turns, found, 1.5, found, None),
    ]
    assert "| 1,200 |" in growth.table(rows)
    growth.draw(rows, tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").stat().st_size > 0


def test_products_differ_and_are_the_same_every_time() -> None:
    some, again = growth.drafts(FUSION, 0, 20), growth.drafts(FUSION, 0, 20)
    assert [one.embedding.title.tolist() for one in some if one.embedding.title is not None] == [
        one.embedding.title.tolist() for one in again if one.embedding.title is not None
    ]
    assert len({one.id for one in some + growth.drafts(FUSION, 20, 40)}) == 40


def test_items_of_a_batch_differ() -> None:
    items = fairness.batch_items(300, products=True, number=1)
    assert [len({one[field] for one in items}) for field in ("id", "title", "image")] == [300] * 3


def test_each_run_is_compared_with_the_idle_one_of_its_round() -> None:
    runs = []
    for factor in (1, 2, 4):
        runs.append(fairness.Run(fairness.IDLE, 10, 20, 0))
        runs += [fairness.Run(name, 20, 20 * factor, 5) for name in fairness.BULKS.values()]
    assert fairness.table(runs).count("2.00 (1.00 to 4.00)") == len(fairness.BULKS)
