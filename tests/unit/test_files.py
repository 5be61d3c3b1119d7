from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from app import files
from app.files import MANY, replace_folder, sha256_of, sync, write_file, write_files


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def folder_with(folder: Path, **files: str) -> Path:
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("data", [b"", b"abc", b"x" * (3 << 20)])
def test_the_checksum_is_that_of_the_whole_file(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a").write_bytes(data)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(data).hexdigest()


def test_files_and_folders_can_be_synced(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    sync(tmp_path / "a")
    sync(tmp_path)
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "missing")


def test_a_file_is_written_and_written_over_without_leftovers(tmp_path: Path) -> None:
    write_file(tmp_path / "a", b"old")
    write_file(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert names(tmp_path) == ["a"]


def test_a_write_that_fails_leaves_everything_as_it_was(tmp_path: Path) -> None:
    folder_with(tmp_path / "a", inside="kept")
    with pytest.raises(OSError, match="directory"):
        write_file(tmp_path / "a", b"new")
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a" / "inside").read_text() == "kept"


@pytest.mark.parametrize("count", [0, 1, MANY - 1, 3 * MANY])
@pytest.mark.parametrize("syncfs", [True, False])
def test_many_files_are_written_without_leftovers(
    tmp_path: Path, count: int, syncfs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not syncfs:
        monkeypatch.setattr(files, "_sync_file_system", lambda _: False)
    wanted = {tmp_path / str(n % 3) / str(n): b"%d" % n for n in range(count)}
    for folder in {file.parent for file in wanted}:
        folder.mkdir()
    write_files(wanted)
    assert {file: file.read_bytes() for file in tmp_path.glob("*/*")} == wanted


@pytest.mark.parametrize("bad", [0, MANY, 2 * MANY - 1])
def test_of_files_that_cannot_all_be_written_each_is_whole_or_as_it_was(tmp_path: Path, bad: int) -> None:
    folder_with(tmp_path / str(bad), inside="kept")
    write_file(tmp_path / str(2 * MANY), b"old")
    with pytest.raises(OSError, match="directory"):
        write_files({tmp_path / str(n): b"new" for n in range(2 * MANY + 1)})
    assert (tmp_path / str(bad) / "inside").read_text() == "kept"
    assert (tmp_path / str(2 * MANY)).read_bytes() == b"old"
    assert {file.read_bytes() for file in tmp_path.iterdir() if file.is_file()} <= {b"new", b"old"}
    assert not list(tmp_path.glob(".*"))


def test_threads_may_write_the_same_file(tmp_path: Path) -> None:
    threads, data = 8, b"x" * 100_000
    start = Barrier(threads)

    def write_often() -> None:
        start.wait()
        for _ in range(25):
            write_file(tmp_path / "a", data)
            assert (tmp_path / "a").read_bytes() == data

    with ThreadPoolExecutor(threads) as pool:
        for writer in [pool.submit(write_often) for _ in range(threads)]:
            writer.result()
    assert names(tmp_path) == ["a"]


def test_a_folder_is_put_where_there_was_none(tmp_path: Path) -> None:
    replace_folder(folder_with(tmp_path / "new", a="1"), tmp_path / "there")
    assert names(tmp_path) == ["there"]
    assert (tmp_path / "there" / "a").read_text() == "1"


def test_a_folder_takes_the_place_of_another_whole(tmp_path: Path) -> None:
    folder_with(tmp_path / "there", a="old", gone="old")
    replace_folder(folder_with(tmp_path / "new", a="1", b="2"), tmp_path / "there")
    assert names(tmp_path) == ["there"]
    assert names(tmp_path / "there") == ["a", "b"]
    assert (tmp_path / "there" / "a").read_text() == "1"


def test_what_a_link_points_to_is_replaced_without_leftovers(tmp_path: Path) -> None:
    folder_with(tmp_path / "v1", a="old")
    (tmp_path / "current").symlink_to("v1")
    replace_folder(folder_with(tmp_path / "new", a="1"), tmp_path / "current")
    assert (tmp_path / "current" / "a").read_text() == "1"
    assert "new" not in names(tmp_path)
