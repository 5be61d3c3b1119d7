from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from app.files import replace_folder, sha256_of, sync, write_file


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
