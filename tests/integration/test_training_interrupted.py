"""Training runs that are interrupted, killed, repeated or refused: nothing is lost, nothing is half."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch

from app.__main__ import cli
from app.errors import InvalidInput, TrainingInterrupted
from app.model_store import load_bundle
from app.training.history import History
from tests.training import SHORT, Place, course


@pytest.mark.parametrize(("how", "error"), [("SIGTERM", TrainingInterrupted), ("crash", ConnectionError)])
def test_an_interrupted_run_goes_on_exactly(
    place: Place, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, error: type[Exception]
) -> None:
    out, add = tmp_path / "whole", History.add

    def interrupting(self: History, record: dict[str, float]) -> None:
        add(self, record)
        if record["update"] in (2, 5):  # in the middle of the first and of the second epoch
            if how == "SIGTERM":
                os.kill(os.getpid(), signal.SIGTERM)
            elif record["update"] == 5:  # whatever it is: the checkpoint is that of the last epoch
                raise ConnectionError("the disk is gone")

    monkeypatch.setattr(History, "add", interrupting)
    with pytest.raises(error, match="--resume" if how == "SIGTERM" else "gone"):
        place.short(out)
    if how == "SIGTERM":
        assert [one["update"] for one in course(out)] == [1, 2]
        assert not out.exists()
        with pytest.raises(error, match="epoch 2 of 3"):
            place.short(out, "--resume")
    assert [one["update"] for one in course(out)] == [1, 2, 3, 4, 5]
    monkeypatch.undo()
    assert not out.exists()
    resumed = place.short(out, "--resume")
    assert course(out) == course(whole)
    assert resumed.fingerprint == load_bundle(whole).fingerprint


def test_without_resume_everything_is_done_again(
    place: Place, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = History.add

    def interrupting(self: History, record: dict[str, float]) -> None:
        add(self, record)
        if record["update"] == 4:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(History, "add", interrupting)
    with pytest.raises(TrainingInterrupted, match="--resume"):
        place.short(tmp_path / "out")
    monkeypatch.undo()
    again = place.short(tmp_path / "out")
    assert course(tmp_path / "out") == course(whole)
    assert again.fingerprint == load_bundle(whole).fingerprint


def test_a_run_that_is_over_only_writes_its_bundle_again(place: Place, whole: Path) -> None:
    before, records = load_bundle(whole).fingerprint, course(whole)
    assert place.short(whole, "--resume").fingerprint == before
    assert course(whole) == records


@pytest.mark.parametrize(("option", "given"), [("--seed", "5"), ("--weight", "0.4"), ("--listings", "LARGE")])
def test_another_run_does_not_go_on_from_this_checkpoint(place: Place, whole: Path, option: str, given: str) -> None:
    records, value = course(whole), place.large if given == "LARGE" else given
    with pytest.raises(InvalidInput, match=r"other options or other listings.*leave --resume out"):
        place.short(whole, option, value, "--resume")
    assert course(whole) == records


def test_nothing_to_go_on_from_is_said(place: Place, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"there is no checkpoint.*leave --resume out"):
        place.short(tmp_path / "out", "--resume")


def test_a_failure_while_writing_leaves_the_old_bundle_and_nothing_else(
    place: Place, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {file.name: file.read_bytes() for file in whole.iterdir() if file.is_file()}
    beside = set(whole.parent.iterdir())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("app.training.finish.write_card", full)
    with pytest.raises(OSError, match="No space left"):
        place.short(whole, "--resume")
    assert {file.name: file.read_bytes() for file in whole.iterdir() if file.is_file()} == before
    assert set(whole.parent.iterdir()) == beside


def killed_while_writing(arguments: list[str]) -> None:
    """In a process of its own: all files are written, and the new bundle is about to take the old one's place."""
    torch.set_num_threads(1)  # those of the parent are gone

    def die(new: Path, folder: Path) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.model_store.replace_folder", die)
        cli(arguments)


def test_a_run_that_is_killed_while_writing_leaves_the_old_bundle(place: Place, whole: Path) -> None:
    before = {file.name: file.read_bytes() for file in whole.iterdir() if file.is_file()}
    given = ("train", "--out", whole, "--listings", place.small, *place.towers, *SHORT, "--resume")
    child = multiprocessing.get_context("fork").Process(target=killed_while_writing, args=([str(one) for one in given],))
    child.start()
    child.join(600)
    child.kill()  # if it hangs; it is dead otherwise
    assert child.exitcode == -signal.SIGKILL
    assert list(whole.parent.glob(".whole.*/bundle.json"))  # so far did it come
    assert {file.name: file.read_bytes() for file in whole.iterdir() if file.is_file()} == before
    fingerprint = load_bundle(whole).fingerprint
    assert place.short(whole, "--resume").fingerprint == fingerprint
