"""Converted towers on disk: found again only if every byte is the one that was written, for the very same bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.encoders.engine_cache import EngineCache, Entry, places

WANTED = np.eye(3, dtype=np.float32)
ENGINE = "engine 1.0 fp32"


def fill(folder: Path) -> None:
    (folder / "model.bin").write_bytes(bytes(range(256)) * 4)
    (folder / "model.xml").write_text("<net/>", "utf-8")


def stored(folder: Path, tower: str = "image", engine: str = ENGINE, fingerprint: str = "a" * 16) -> Entry:
    found = EngineCache((folder,), fingerprint).store(tower, engine, WANTED, fill)
    assert found is not None
    return found


def find(folder: Path, tower: str = "image", engine: str = ENGINE, fingerprint: str = "a" * 16) -> Entry | None:
    return EngineCache((folder,), fingerprint).find(tower, engine)


def test_what_was_stored_is_found(tmp_path: Path) -> None:
    assert find(tmp_path) is None
    entry, found = stored(tmp_path), find(tmp_path)
    assert found is not None
    assert found.folder == entry.folder
    np.testing.assert_array_equal(found.wanted, WANTED)


@pytest.mark.parametrize(
    "other", [{"tower": "title"}, {"engine": "engine 1.1 fp32"}, {"engine": "engine 1.0 bf16"}, {"fingerprint": "b" * 16}]
)
def test_another_tower_engine_or_bundle_finds_nothing(tmp_path: Path, other: dict[str, str]) -> None:
    stored(tmp_path)
    assert find(tmp_path, **other) is None


@given(st.sampled_from(["model.bin", "model.xml", "wanted.npy"]), st.integers(0, 5000), st.integers(1, 255))
def test_any_changed_byte_is_seen(tmp_path: Path, name: str, where: int, change: int) -> None:
    file = stored(tmp_path).folder / name
    data = bytearray(file.read_bytes())
    data[where % len(data)] ^= change
    file.write_bytes(data)
    assert find(tmp_path) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"key": 1, "files": {}}', '{"key": "x", "files": 3}', "{"])
def test_an_entry_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    (stored(tmp_path).folder / "entry.json").write_text(text, "utf-8")
    assert find(tmp_path) is None


def test_a_file_too_few_or_too_many_is_seen(tmp_path: Path) -> None:
    (stored(tmp_path).folder / "model.bin").unlink()
    assert find(tmp_path) is None
    (stored(tmp_path).folder / "more.bin").touch()
    assert find(tmp_path) is None
    told = stored(tmp_path).folder / "entry.json"
    told.write_text(json.dumps({"key": told.parent.name, "files": []}), "utf-8")
    assert find(tmp_path) is None


def test_the_entry_of_another_bundle_under_this_name_is_not_taken(tmp_path: Path) -> None:
    other, own = stored(tmp_path / "x", fingerprint="b" * 16), stored(tmp_path / "y")
    shutil.rmtree(own.folder)
    shutil.copytree(other.folder, own.folder)
    assert find(tmp_path / "y") is None


def test_a_new_entry_takes_the_place_of_older_ones_of_its_tower_only(tmp_path: Path) -> None:
    stored(tmp_path, engine="engine 0.9 fp32")
    stored(tmp_path, tower="0-image", engine="engine 0.9 fp32")
    entry = stored(tmp_path)
    assert [one.name.rpartition("-")[0] for one in sorted(tmp_path.iterdir())] == ["0-image", "image"]
    assert entry.folder.is_dir()


def test_the_next_folder_is_taken_where_the_first_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = EngineCache((tmp_path / "file" / "cache", tmp_path / "second"), "a" * 16)
    entry = cache.store("image", ENGINE, WANTED, fill)
    assert entry is not None
    assert entry.folder.parent == tmp_path / "second"
    assert cache.find("image", ENGINE) is not None
    assert EngineCache((tmp_path / "file" / "cache",), "a" * 16).store("image", ENGINE, WANTED, fill) is None


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        fill(folder)
        raise OSError("no space left")

    assert EngineCache((tmp_path,), "a" * 16).store("image", ENGINE, WANTED, fail) is None
    assert not list(tmp_path.iterdir())


def test_places(tmp_path: Path) -> None:
    bundle, data = tmp_path / "store" / "mine", tmp_path / "data"
    beside = tmp_path.resolve() / "store" / ".mine.engines"
    assert places(bundle, data, None) == (beside,)
    data.mkdir()
    assert places(bundle, data, None) == (beside, data / "mine.engines")
    assert places(bundle, data, tmp_path / "other") == (tmp_path / "other" / "mine.engines",)
