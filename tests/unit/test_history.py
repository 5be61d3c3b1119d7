"""The course of a run on disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.training.history import HISTORY, History, read_history


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    one = History(tmp_path)
    yield one
    one.close()


def record(update: int) -> dict[str, float]:
    return {"update": update, "loss": 1 / (update + 3), "epoch": update / 7}


def test_records_come_back_as_they_were(history: History, tmp_path: Path) -> None:
    for update in range(1, 6):
        history.add(record(update))
    assert read_history(tmp_path / HISTORY) == [record(update) for update in range(1, 6)]


def test_a_record_can_be_read_as_soon_as_it_is_added(history: History, tmp_path: Path) -> None:
    history.add(record(1))
    assert [one["update"] for one in read_history(tmp_path / HISTORY)] == [1]


def test_cutting_forgets_what_came_after_a_checkpoint(history: History, tmp_path: Path) -> None:
    for update in range(1, 8):
        history.add(record(update))
    history.cut(4)
    history.add(record(5) | {"loss": 9})
    assert [(one["update"], one["loss"]) for one in read_history(tmp_path / HISTORY)][-2:] == [(4, 1 / 7), (5, 9)]
    history.cut(0)
    assert read_history(tmp_path / HISTORY) == []


@pytest.mark.parametrize("broken", ['{"update": 3, "lo', "{", '{"update": 3}\n\x00\x00'])
def test_a_line_that_a_crash_cut_off_is_left_out(history: History, tmp_path: Path, broken: str) -> None:
    file = tmp_path / HISTORY
    file.write_text("".join(json.dumps(record(update)) + "\n" for update in (1, 2)) + broken)
    assert [one["update"] for one in read_history(file)][:2] == [1, 2]
    history.cut(2)
    history.add(record(3))
    assert [one["update"] for one in read_history(file)] == [1, 2, 3]


def test_no_file_is_no_history(tmp_path: Path) -> None:
    assert read_history(tmp_path / HISTORY) == []


def test_tensorboard_has_the_same_numbers(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    history = History(tmp_path)
    for update in (1, 2):
        history.add(record(update))
    history.close()
    found = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert [(one.step, one.value) for one in found.Scalars("loss")] == [(1, pytest.approx(1 / 4)), (2, pytest.approx(1 / 5))]
