"""What a power cut may leave of each file: repaired, or refused with what to do, and never a wrong answer.

The state after a torn log of the database is that after one of the commits, and not an earlier one than was on the disk.
"""

from __future__ import annotations

import logging
import random
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from app.catalog import snapshot
from app.catalog.row_index import RowIndex
from app.catalog.rows import RowSet
from tests.fakes import FINGERPRINT, FUSION
from tests.power_cuts import (
    FRAME,
    PAGE,
    History,
    check_flipped_log,
    check_torn_log,
    check_torn_pages,
    draft,
    lengths,
    make_history,
    open_catalog,
    refused_or_complete,
    state_of,
)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    return make_history(tmp_path_factory.mktemp("history"))


def test_an_undamaged_crash_has_everything(history: History, tmp_path: Path) -> None:
    assert state_of(history.copy(tmp_path / "data")) == history.states[-1]


# -- the log of the database -----------------------------------------------------------------------------------


def test_a_torn_log_is_the_state_of_the_last_whole_commit(history: History, tmp_path: Path) -> None:
    check_torn_log(history, tmp_path, random.Random(1).sample(lengths(history), 9))


def test_a_flipped_bit_in_the_log_ends_it_there(history: History, tmp_path: Path) -> None:
    check_flipped_log(history, tmp_path, random.Random(2).sample(range(32, history.ends[-1]), 4))


LITTER: dict[str, Callable[[Path], object]] = {
    "garbage behind the log": lambda folder: append(folder / "catalog.sqlite-wal", random.Random(1).randbytes(3 * FRAME)),
    "zeros behind the log": lambda folder: append(folder / "catalog.sqlite-wal", bytes(FRAME + 100)),
    "an old frame behind the log": lambda folder: append(
        folder / "catalog.sqlite-wal", (folder / "catalog.sqlite-wal").read_bytes()[32 : 32 + FRAME]
    ),
    "no index of the log": lambda folder: (folder / "catalog.sqlite-shm").unlink(),
    "an index of nothing": lambda folder: (folder / "catalog.sqlite-shm").write_bytes(b""),
    "an index of garbage": lambda folder: (folder / "catalog.sqlite-shm").write_bytes(random.Random(2).randbytes(32768)),
    "no mark of a crash": lambda folder: (folder / "running").unlink(),
    "no lock": lambda folder: (folder / "lock").unlink(),
    "a lock with something in it": lambda folder: (folder / "lock").write_bytes(b"\xff" * 99),
    "a half-written photo": lambda folder: litter(folder / "photos" / "ab" / f".{'ab' * 32}.1234"),
    "a photo without a product": lambda folder: litter(folder / "photos" / "ab" / ("ab" * 32)),
    "a half-written snapshot": lambda folder: litter(folder / "snapshots" / ".snapshot.x1" / "keys.npy"),
    "a snapshot without a catalog": lambda folder: litter(folder / "snapshots" / "99" / "keys.npy"),
    "no photos.lock": lambda folder: (folder / "photos.lock").unlink(missing_ok=True),
}


def append(file: Path, content: bytes) -> None:
    with file.open("ab") as stream:
        stream.write(content)


def litter(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"half")


@pytest.mark.parametrize("leave", LITTER.values(), ids=LITTER.keys())
def test_litter_changes_nothing(history: History, tmp_path: Path, leave: Callable[[Path], object]) -> None:
    folder = history.copy(tmp_path / "data")
    leave(folder)
    assert state_of(folder) == history.states[-1]
    assert not [file for file in folder.rglob(".*") if file.name.startswith((".snapshot", f".{'ab' * 32}"))]


# -- the database itself ---------------------------------------------------------------------------------------


def test_a_torn_page_is_refused_or_costs_nothing(history: History, tmp_path: Path) -> None:
    """Its end is lost. What the log holds as well is repaired from it."""
    pages = (history.folder / "catalog.sqlite").stat().st_size // PAGE
    some = random.Random(3).sample(range(pages), 8)
    assert check_torn_pages(history, tmp_path, [0, *some[:4]], 512) + check_torn_pages(history, tmp_path, some[4:], 0)


def test_a_database_that_was_cut_short_is_refused_or_complete(history: History, tmp_path: Path) -> None:
    whole = (history.folder / "catalog.sqlite").read_bytes()
    for length in (0, 50, 4096, len(whole) // 2, len(whole) - 1):
        folder = history.copy(tmp_path / str(length))
        (folder / "catalog.sqlite").write_bytes(whole[:length])
        assert refused_or_complete(history, folder) or length > len(whole) // 2
        shutil.rmtree(folder)


# -- snapshots -------------------------------------------------------------------------------------------------


STAMP = "ab" * 16


def one_snapshot(folder: Path) -> bytes:
    """Writes a snapshot of ten rows; returns the bytes of its vectors."""
    index = RowIndex(FUSION.dim)
    with closing(open_catalog(folder.parent / "data")) as catalog:
        catalog.put("default", [draft(f"p{n}", n + 1) for n in range(10)])
        for part in catalog._shelves["default"].index.export():
            index.add(part)
    snapshot.save(folder, index, STAMP, FINGERPRINT)
    return (folder / "vectors.npy").read_bytes()[-10 * FUSION.dim * 4 :]


def vectors_in(folder: Path) -> bytes | None:
    """Reads a snapshot; None if it is refused, or is of another state."""
    try:
        found = snapshot.Snapshot.find(folder)
        whole = b"".join(part.vectors.tobytes() for part in found.rows(FINGERPRINT, FUSION.dim, "float32"))
        return whole if found.stamp == STAMP else None
    except snapshot.Unusable:
        return None


def test_no_flipped_bit_and_no_cut_makes_a_snapshot_say_something_else(tmp_path: Path) -> None:
    """A bit of any byte is flipped, or the file ends there: the rows are the right ones, or none."""
    folder = tmp_path / "one"
    vectors = one_snapshot(folder)
    refused = []
    for name in ("snapshot.json", "keys.npy", "flags.npy", "vectors.npy"):
        whole = (folder / name).read_bytes()
        refused.append(0)
        for at in range(0, len(whole), 1 if name == "snapshot.json" else 4):
            for damaged in (whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :], whole[:at]):
                (folder / name).write_bytes(damaged)
                found = vectors_in(folder)
                assert found in (None, vectors), (name, at)
                refused[-1] += found is None
        (folder / name).write_bytes(whole)
        assert refused[-1] > len(range(0, len(whole), 1 if name == "snapshot.json" else 4))  # more than the cuts alone
    assert vectors_in(folder) == vectors


@pytest.mark.parametrize("name", ["snapshot.json", "keys.npy", "flags.npy", "vectors.npy"])
def test_a_file_of_another_snapshot_is_refused(tmp_path: Path, name: str) -> None:
    """Of a snapshot that was made of the same products in another order, at another state."""
    one_snapshot(tmp_path / "one")
    index = RowIndex(FUSION.dim)
    for part in snapshot.Snapshot.find(tmp_path / "one").rows(FINGERPRINT, FUSION.dim, "float32"):
        index.add(RowSet(part.keys[::-1].copy(), part.flags, part.vectors[::-1].copy()))
    snapshot.save(tmp_path / "two", index, "cd" * 16, FINGERPRINT)
    same = (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    shutil.copy(tmp_path / "two" / name, tmp_path / "one" / name)
    assert (vectors_in(tmp_path / "one") is None) != same
    assert same == (name == "flags.npy")


# -- what the log says ---------------------------------------------------------------------------------------


def test_what_was_done_at_the_start_is_one_line(history: History, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = history.copy(tmp_path / "data")
    litter(folder / "photos" / "ab" / ("ab" * 32))
    with caplog.at_level(logging.INFO, "app.catalog"), closing(open_catalog(folder)):
        said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith("the last process did not stop cleanly: the database is sound")
    assert caplog.records[0].__dict__["orphaned_photos_removed"] == 1
    (opened,) = [record for record in caplog.records if record.getMessage() == "catalog open"]
    assert opened.__dict__["source"].endswith(" products have changed since the snapshot")
    assert opened.__dict__["products"] == len(history.states[-1])
