"""The search benchmark runs, and measures searches that give the same answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.catalog.rows import Found, IndexOptions
from tests.benchmarks import search


def test_a_small_catalog_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "TOGETHER", 8)
    search.main([600], 2, tmp_path / "search.json")
    printed = capsys.readouterr().out
    assert printed.startswith("| rows | 600 |")
    assert "| all rows / codes | " in printed
    (result,) = json.loads((tmp_path / "search.json").read_text("utf-8"))["results"]
    assert all(len(times) == 2 and min(times) > 0 for times in result["ms"].values())


def test_other_answers_stop_the_benchmark() -> None:
    index, _ = search.filled(search.Shop(40), IndexOptions())
    questions = search.Shop(40).questions(index, 2)
    right = search.ask(index, questions)
    search.same_answers(right, right, index, questions)
    wrong = [Found(one.slots[1:], one.beyond) for one in right]
    with pytest.raises(SystemExit, match="different answers"):
        search.same_answers(right, wrong, index, questions)
